"""The entry point of a training process: ``python -m emotion_assets.jobs.process JOB.json``.

Belongs here: the description of a job (``TrainingJob``), which function of ``training`` does it, where progress goes,
and how an error becomes one line and an exit code. Does not belong here: how anything is trained, and Dagster, which
this runs without (``dagster_pipes`` is imported only in a process that was started through it).

Exit codes: 0 the draft folder and the result file are complete; 2 the user can fix it, the result file holds one line
under ``error``; 1 a defect, the result file holds the traceback too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_assets.models.registry import all_kinds
from emotion_assets.settings import versions
from emotion_assets.settings.errors import DataError, user_line
from emotion_assets.settings.schema import PretrainedHere
from emotion_assets.storage.atomic import write_text_atomically
from emotion_assets.storage.store import Store, StoredFolder, fingerprint

if TYPE_CHECKING:
    from emotion_assets.storage.warehouse.database import Warehouse

PRETRAINING = "pretrain"
FEEDBACK = "feedback"
WATCH_PARENT = "--end-with-parent"


@dataclass(frozen=True)
class TrainingJob:
    """One training: what to train, from which stored folders, and where its results go.

    Attributes:
        kind: the name of a kind of model, or ``PRETRAINING`` for a base that is made here.
        settings: ``model_dump(mode="json")`` of the kind's settings, or of a ``PretrainedHere``.
        inputs: stored folders by role (``Kind.inputs``; ``tokens`` for a base), ``{"path": ..., "digest": ...}`` each;
            under ``FEEDBACK``, where a kind learns from it, what ``feedback_input`` gives.
        target: the draft folder to fill.
        checkpoints: a folder for resumable state, for one job at a time; state of another job is never resumed from.
            It is left there: the caller removes it once the result is safe.
        result: the JSON file that gets what was measured; ``result.json`` in ``checkpoints`` unless named.
    """

    kind: str
    name: str
    settings: dict[str, Any]
    labels: list[str]
    seed: int
    inputs: dict[str, dict[str, Any]]
    target: str
    checkpoints: str
    result: str = ""

    @property
    def result_file(self) -> Path:
        return Path(self.result) if self.result else Path(self.checkpoints) / "result.json"

    @property
    def recipe(self) -> str:
        """Fingerprint of all that decides the result, wherever its folders are."""
        digests = {role: entry["digest"] for role, entry in self.inputs.items()}
        return fingerprint(versions.TRAINING, self.kind, self.settings, self.labels, self.seed, digests)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, default=str)

    @classmethod
    def from_json(cls, text: str) -> TrainingJob:
        return cls(**json.loads(text))

    def draw_feedback(self) -> list[str]:
        """The texts of the feedback that the job was made for; none where its kind does not learn from it.

        Raises:
            DataError: the feedback has others now.
        """
        if (entry := self.inputs.get(FEEDBACK)) is None:
            return []
        from emotion_assets.storage.warehouse.database import Warehouse
        from emotion_assets.storage.warehouse.unlabelled import draw_texts

        texts = draw_texts(Warehouse(Path(entry["path"])), entry["texts"])
        if fingerprint(texts) != entry["digest"]:
            raise DataError(f"{self.name}: the feedback has changed since this training was started; start it again")
        return texts

    def input(self, role: str) -> StoredFolder:
        """The stored folder of that role, every file of it verified.

        Raises:
            StoreError: a file is missing or was altered.
        """
        entry = self.inputs[role]
        path = Path(entry["path"])
        return Store(path.parent.parent).open(path.parent.name, entry["digest"])


def stored_input(folder: StoredFolder) -> dict[str, str]:
    """A stored folder as a job names it."""
    return {"path": str(folder.path), "digest": folder.digest}


def feedback_input(warehouse: Warehouse, texts: int) -> dict[str, Any]:
    """At most that many texts of the feedback, as a job names them: they stay in the database, and are part of the
    recipe by their fingerprint."""
    from emotion_assets.storage.warehouse.unlabelled import draw_texts

    return {"path": str(warehouse.path), "texts": texts, "digest": fingerprint(draw_texts(warehouse, texts))}


def run_job(job: TrainingJob, say: Callable[[str], None]) -> dict[str, Any]:
    """Do the training in this process and fill ``job.target``; returns what was measured."""
    from emotion_assets.models.kind import TrainingRun
    from emotion_assets.models.pretraining import pretrain
    from emotion_assets.training.resume import ResumeState

    run = TrainingRun(
        name=job.name,
        labels=job.labels,
        seed=job.seed,
        inputs={role: job.input(role) for role in job.inputs if role != FEEDBACK},
        target=Path(job.target),
        report=lambda progress: say(progress.line()),
        resume_state=ResumeState(Path(job.checkpoints), job.recipe),
        feedback=job.draw_feedback(),
    )
    if job.kind == PRETRAINING:
        return pretrain(PretrainedHere.model_validate(job.settings), run)
    kind = all_kinds()[job.kind]
    return kind.train(kind.settings.model_validate(job.settings), run)


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        print("usage: python -m emotion_assets.jobs.process JOB.json", file=sys.stderr)
        return 2
    if WATCH_PARENT in arguments:
        _end_with_parent()
    job = TrainingJob.from_json(Path(arguments[0]).read_text(encoding="utf-8"))
    from emotion_assets.training import distributed

    with _progress_lines(distributed.speaks()) as say:
        try:
            distributed.join()
            result, code = run_job(job, say), 0
        except Exception as error:
            line = user_line(error)
            result = {"error": line or f"{job.name}: {type(error).__name__}: {error}"}
            code = 2 if line else 1
            if code == 1:
                result["traceback"] = traceback.format_exc()
                traceback.print_exc()
            else:
                print(line, file=sys.stderr, flush=True)
    if distributed.is_first() or code:
        try:
            write_text_atomically(job.result_file, json.dumps(result, indent=1) + "\n")
        except OSError as error:
            print(f"{job.name}: {job.result_file}: {user_line(error) or error}", file=sys.stderr, flush=True)
            code = code or 2
    distributed.leave()
    return code


@contextmanager
def _progress_lines(speaks: bool) -> Iterator[Callable[[str], None]]:
    """Where a line of progress goes: into the run's log under Dagster Pipes, else to standard output. Of several
    processes that train one model, one speaks."""
    if not speaks:
        yield lambda line: None
        return
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield lambda line: print(line, flush=True)
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes.log.info


def _end_with_parent() -> None:
    """End this process group when standard input closes, which it does when the parent is gone, however it ended."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
