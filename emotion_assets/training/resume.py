"""The resumable state of a training, as one file: tensors and facts in safetensors form, nothing pickled.

Belongs here: writing it so that a reader sees the old or the new state whole, and refusing the state of another
training. Does not belong here: what the state is (``fitting``).
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from emotion_assets.storage.failpoints import failpoint

FILE = "state.safetensors"
EVERY_SECONDS = 20.0
LARGEST_SHARE = 0.05  # of the training time may go into writing state


@dataclass
class Checkpoint:
    """Where the state of one training is kept, and how often it is written.

    ``recipe`` is a fingerprint of everything that decides the result; state under another recipe is not resumed from.
    """

    folder: Path
    recipe: str
    _written: float = 0.0
    _cost: float = 0.0

    def is_due(self) -> bool:
        """Whether so much time has passed that writing again costs at most ``LARGEST_SHARE`` of it."""
        self._written = self._written or time.monotonic()
        return time.monotonic() - self._written >= max(EVERY_SECONDS, self._cost / LARGEST_SHARE)

    def write(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Replace the state, atomically.

        Raises:
            OSError: the disk is full or cannot be written to; the state before is kept.
        """
        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".state-")
        os.close(handle)
        try:
            cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            save_file(cpu, name, {"recipe": self.recipe, "facts": json.dumps(facts)})
            with Path(name).open("rb") as file:
                os.fsync(file.fileno())
            failpoint("training.mid_save")
            Path(name).replace(self.folder / FILE)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._written = time.monotonic()
        self._cost = self._written - started

    def read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The tensors and facts written last, or None if there are none of this training."""
        path = self.folder / FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                if about.get("recipe") != self.recipe:
                    return None
                return {key: file.get_tensor(key) for key in file.keys()}, json.loads(about["facts"])  # noqa: SIM118
        except SafetensorError:
            return None
