"""The resume state of an unfinished training, as one safetensors file: tensors, and facts as JSON. Nothing is pickled.

Belongs here: writing the file so that a reader finds either the old or the new state, complete, and ignoring the state
of another training. Does not belong here: what the state consists of (``trainer``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from emotion_assets.storage.atomic import replacing_file, write_text_atomically
from emotion_assets.storage.failpoints import failpoint
from emotion_assets.training import distributed

STATE_FILE, DECISIONS_FILE = "state.safetensors", "decisions.json"
MIN_SECONDS_BETWEEN_WRITES = 20.0
MAX_SHARE_OF_TIME = 0.05  # of the training time that may go into writing state


@dataclass
class ResumeState:
    """Where the resume state of one training is kept, and how often it is written.

    Attributes:
        folder: holds the state file, the decisions and what was computed once, and nothing else of this class.
        recipe: fingerprint of everything that decides the training's result. State that was written under another
            recipe is never resumed from.
    """

    folder: Path
    recipe: str
    _written_at: float = 0.0
    _write_seconds: float = 0.0

    def is_due(self) -> bool:
        """Whether enough time has passed since the last write; the first call starts the clock."""
        self._written_at = self._written_at or time.monotonic()
        interval = max(MIN_SECONDS_BETWEEN_WRITES, self._write_seconds / MAX_SHARE_OF_TIME)
        return time.monotonic() - self._written_at >= interval

    def write(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Replace the stored state, atomically.

        Raises:
            OSError: the disk is full or cannot be written to; the previous state is kept.
        """
        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        with replacing_file(self.folder / STATE_FILE) as draft:
            save_file(cpu, draft, {"recipe": self.recipe, "facts": json.dumps(facts)})
            failpoint("training.mid_save")
        self._written_at = time.monotonic()
        self._write_seconds = self._written_at - started

    def decide(self, name: str, choose: Callable[[], dict[str, str]]) -> dict[str, str]:
        """What was chosen when this training began; at its beginning ``choose`` is called and the answer kept.

        For a choice that rests on a measurement: a resumed training must not choose anew.
        """
        path = self.folder / DECISIONS_FILE
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = {}
        if kept.get("recipe") != self.recipe:
            kept = {"recipe": self.recipe}
        if name not in kept:
            kept[name] = choose()
            write_text_atomically(path, json.dumps(kept, indent=1) + "\n")
        return dict(kept[name])

    def compute_once(self, name: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What was computed before this training began; at its beginning ``compute`` is called and the result kept."""
        path = self.folder / f"{name}.safetensors"
        try:
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("recipe") == self.recipe:
                    return file.get_tensor(name)
        except (OSError, SafetensorError):  # not there yet, or damaged
            pass
        computed = compute().contiguous()
        if distributed.is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as draft:
                save_file({name: computed}, draft, {"recipe": self.recipe})
        return computed

    def read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The tensors and facts written last; None if there is no state of this training, or it is damaged."""
        path = self.folder / STATE_FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("recipe") != self.recipe:
                    return None
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
                return tensors, json.loads(metadata["facts"])
        except SafetensorError:
            return None
