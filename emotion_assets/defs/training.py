"""One training as a step asks for it: recalled where the very same work was done before, else done in a process of its
own.

Belongs here: what a model's asset and a sweep share. Does not belong here: which version of an asset is its current one
(``models``), the process (``launch``) and what is trained in it (``jobs.process``).
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from emotion_assets.defs.launch import StepContext, run_training
from emotion_assets.defs.run_end import require_run_going
from emotion_assets.jobs.process import FEEDBACK, TrainingJob, feedback_input, stored_input
from emotion_assets.models.registry import kind_of
from emotion_assets.settings.frozen import Frozen
from emotion_assets.settings.schema import ModelSettings, Settings
from emotion_assets.storage.keys import model_key
from emotion_assets.storage.locks import file_lock
from emotion_assets.storage.store import StoredFolder
from emotion_assets.storage.workspace import Workspace

LONGEST_TRAINING = 14 * 24 * 3600.0  # seconds that a second run of the same model waits for the first
Inputs = dict[str, dict[str, Any]]
Devices = int | Literal["auto"]


@dataclass(frozen=True)
class TrainingRequest:
    """A training that a step asks for.

    Attributes:
        key: what is trained, and ends with its name; of each key, one training goes on at a time and keeps its resume
            state.
        store_kind: the part of the store that the result goes to.
        kind: as ``TrainingJob.kind``.
        settings: of the kind.
        inputs: as ``TrainingJob.inputs``.
        devices: as ``Settings.devices``.
    """

    key: Sequence[str]
    store_kind: str
    kind: str
    settings: Frozen
    inputs: Inputs
    seed: int
    devices: Devices

    def job(self, labels: Sequence[str], checkpoints: Path) -> TrainingJob:
        """As a job that has no target yet."""
        return TrainingJob(
            kind=self.kind,
            name=self.key[-1],
            settings=self.settings.model_dump(mode="json"),
            labels=list(labels),
            seed=self.seed,
            inputs=dict(self.inputs),
            target="",
            checkpoints=str(checkpoints),
        )


def request_model(
    settings: Settings, name: str, model: ModelSettings, inputs: Inputs, seed: int, devices: int = 0
) -> TrainingRequest:
    """The training of a model of the profile, with settings that may be others than the profile's.

    Args:
        devices: 0 as the profile says; a kind that trains on one ignores it.
    """
    kind = kind_of(model)
    together = devices or devices_of(settings.devices, model.trains_few_weights)
    if not kind.several_devices:
        together = 1
    return TrainingRequest(model_key(name), "models", kind.name, model, inputs, seed, together)


def devices_of(devices: Devices, few_weights: bool) -> Devices:
    """``Settings.devices`` for one training: where all weights are trained, ``auto`` is one, since processes would have
    as much to tell each other as to compute."""
    return devices if devices != "auto" or few_weights else 1


def stored_inputs(workspace: Workspace, model: ModelSettings) -> Inputs:
    """The current versions of the assets that a training of the model reads, not verified: its process does that.

    Raises:
        StoreError: one was not materialised yet.
    """
    sources = kind_of(model).inputs(model, workspace.settings)
    return {role: stored_input(workspace.store.current(key, verify=False)) for role, key in sources.items()}


def feedback_inputs(workspace: Workspace, model: ModelSettings) -> Inputs:
    """The texts of the feedback that a training of the model learns from now; empty where it learns from none."""
    texts = kind_of(model).feedback_texts(model)
    return {FEEDBACK: feedback_input(workspace.warehouse, texts)} if texts else {}


def train_or_recall(context: StepContext, workspace: Workspace, request: TrainingRequest) -> tuple[StoredFolder, str]:
    """The folder that this training gives, recalled when the very same work was done before, else trained now; and
    which of the two it was. The same work will be recalled; which version of the asset is current stays as it is.

    Raises:
        dg.Failure: the training failed, or the run ended meanwhile.
        BusyError: another run has been training the same asset for ``LONGEST_TRAINING``.
    """
    name, store = request.key[-1], workspace.store
    checkpoints = workspace.checkpoints / "__".join(request.key)
    job = request.job(workspace.settings.labels, checkpoints)
    holder = f"run {context.run.run_id[:8]}"
    lock = checkpoints.with_suffix(".lock")
    with file_lock(lock, LONGEST_TRAINING, f"the training of {name}", holder=holder, say=context.log.info):
        if (folder := store.recall(job.recipe)) is not None:
            context.log.info(
                f"the same training on the same inputs is in the store as {folder.version}; taken from there"
            )
            return folder, "recalled from the store"
        with store.writing(request.store_kind) as draft:
            job = dataclasses.replace(job, target=str(draft.path))
            measured = run_training(context, job, _processes(request.devices))
            require_run_going(context.instance, context.run.run_id)
            folder = draft.finish(measured)
        store.remember(job.recipe, request.store_kind, folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
    step = (measured.get("curve") or {}).get("resumed_at_step")
    return folder, f"trained, resumed at step {step}" if step else "trained"


def _processes(devices: Devices) -> int:
    if devices != "auto":
        return devices
    from emotion_assets.training.runtime import choose_processes

    return choose_processes()
