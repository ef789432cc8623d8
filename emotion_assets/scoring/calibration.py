"""The champion as feedback uses it: calibrated probabilities, and how sure it must be before its answer counts.

Temperature and threshold come from the stored validation predictions of the champion, so nothing is scored again to
find them. Does not belong here: choosing the champion (``evaluation``) and the rule
by which an answer counts (``decision``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_assets.scoring import decision
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import CHAMPION, CHAMPION_PREDICTIONS, predictions_key
from emotion_assets.storage.store import Store, StoredFolder

if TYPE_CHECKING:
    from emotion_assets.evaluation.precision import Precision
    from emotion_assets.models.kind import Prepared, Scorer, Scores


@dataclass(frozen=True)
class Calibration:
    """The champion, where it is loaded from, and how its probabilities are read. It can be sent to another process.

    Probabilities are ``softmax(ln p / temperature)``; an answer counts from a confidence of ``threshold`` on, where the
    answered validation rows reach ``target_accuracy``. ``coverage`` is the share of validation rows answered then.
    """

    model: str
    folder: StoredFolder
    store: Store
    labels: tuple[str, ...]
    temperature: float
    threshold: float
    target_accuracy: float
    coverage: float
    validation_rows: int
    dataset_digest: str
    seals: tuple[tuple[StoredFolder, str], ...]

    @cached_property
    def precision(self) -> Precision:
        """The number format in which this machine scores; looked up when something is scored, since it takes torch."""
        from emotion_assets.evaluation.precision import stored_precision

        return stored_precision(self.folder, self.dataset_digest, self.store)

    def __getstate__(self) -> dict[str, Any]:
        """Another process scores in the format of the machine that sends this to it."""
        return {**vars(self), "precision": self.precision}

    @property
    def digest(self) -> str:
        """Names all that decides an answer's probabilities."""
        return self.folder.digest

    @property
    def version(self) -> str:
        """The ``model_version`` of its scores."""
        return self.digest[:12]

    @property
    def name(self) -> str:
        """Model and version, as people are told which one has answered."""
        return f"{self.model} {self.version}"

    @property
    def columns(self) -> dict[str, Any]:
        """What ``scoring_models`` says of a cascade, and of no other model."""
        return {}

    def load(self) -> Champion:
        """Raises as ``models.registry.load_scorer`` and ``require_unchanged``."""
        from emotion_assets.models.registry import load_scorer

        champion = Champion(self, load_scorer(self.folder, self.store, self.precision.number_format))
        self.require_unchanged()
        return champion

    def require_unchanged(self) -> None:
        """Raises StoreError when a file of the model, or of its base, was written after it was verified: weights are
        mapped, so what is computed after that may be of neither the old nor the new ones."""
        for folder, seal in self.seals:
            folder.require_unchanged(seal)

    def statuses(self, scores: Scores) -> np.ndarray:
        """``[n]`` strings, see ``decision.decide``."""
        return decision.decide(scores.probabilities, scores.truncated, self.threshold)

    def who_answered(self, scores: Scores) -> np.ndarray:
        """``[n]``: of a cascade the version of the model that gave each score, else None."""
        return np.full(len(scores.truncated), None, dtype=object)

    def read(self, scores: Scores) -> list[Answer]:
        """Calibrated probabilities as answers."""
        return [
            Answer(self.labels[p.argmax()], float(p.max()), str(status), tuple(map(float, p)), self.version, by)
            for p, status, by in zip(
                scores.probabilities, self.statuses(scores), self.who_answered(scores), strict=True
            )
        ]


@dataclass(frozen=True)
class Answer:
    """One text's emotion. ``status`` is ok, abstain or truncated; ``model_version`` and ``answered_by`` are those
    of ``scored_feedback``."""

    emotion: str
    confidence: float
    status: str
    probabilities: tuple[float, ...]
    model_version: str
    answered_by: str | None = None


@dataclass(frozen=True)
class Champion:
    """The loaded champion. ``labels`` is the order of the probabilities."""

    calibration: Calibration
    scorer: Scorer

    @property
    def model(self) -> str:
        return self.calibration.name

    @property
    def labels(self) -> tuple[str, ...]:
        return self.calibration.labels

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """The first half of ``answers``, without the model: another thread may do it ahead."""
        return self.scorer.prepare(texts)

    def answer(self, prepared: Prepared) -> Scores:
        """The second half: calibrated probabilities, in the order of ``labels``."""
        from emotion_assets.evaluation.metrics import scale

        order = [self.scorer.labels.index(label) for label in self.labels]
        scores = self.scorer.answer(prepared)
        calibrated = scale(scores.probabilities[:, order], self.calibration.temperature).astype(np.float32)
        return replace(scores, probabilities=calibrated)

    def answers(self, texts: Sequence[str]) -> Scores:
        return self.answer(self.prepare(texts))

    def score(self, texts: Sequence[str]) -> list[Answer]:
        """An answer for each text, in their order; a text that repeats is computed once.

        Raises:
            UserError: a text is no string.
            StoreError: the model was written to since it was loaded.
        """
        if isinstance(texts, str):
            raise UserError("texts: one string; give a list of strings")
        wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if wrong is not None:
            raise UserError(f"texts: number {wrong} is a {type(texts[wrong]).__name__}; give a list of strings")
        self.calibration.require_unchanged()
        return self.calibration.read(self.answers(texts))


def calibrate(settings: Settings, store: Store) -> Calibration:
    """The calibration of the current champion.

    Raises:
        StoreError: there is no champion yet.
        UserError: the champion's predictions are not in the store.
    """
    champion = store.current(CHAMPION, verify=False)  # it is verified below
    model, predictions = champion_predictions(settings, store, champion)
    return calibrate_model(model, champion, predictions, settings, store)


def calibrate_model(
    model: str, folder: StoredFolder, predictions: StoredFolder, settings: Settings, store: Store
) -> Calibration:
    """The calibration of a stored model by its predictions. Its threshold is a float32 as confidences are, so that a
    threshold and an equal confidence compare as equal wherever it is done.

    Raises:
        StoreError: the model is not in the store any more, or was altered.
    """
    from emotion_assets.evaluation.metrics import fit_temperature, scale
    from emotion_assets.evaluation.predictions import read_predictions
    from emotion_assets.models.registry import folders_of

    seals = tuple((one, one.seal()) for one in folders_of(folder, store))
    folder = store.open("models", folder.digest)
    validation = read_predictions(predictions, "validation")
    temperature = fit_temperature(validation.actual, validation.probabilities)
    calibrated = scale(validation.probabilities, temperature).astype(np.float32)
    target = settings.feedback.target_accuracy
    threshold = decision.choose_threshold(validation.actual, calibrated, target)
    return Calibration(
        model=model,
        folder=folder,
        store=store,
        labels=validation.labels,
        temperature=temperature,
        threshold=threshold,
        target_accuracy=target,
        coverage=float((decision.certainty(calibrated) >= threshold).mean()),
        validation_rows=len(validation.actual),
        dataset_digest=predictions.info["dataset_digest"],
        seals=seals,
    )


def champion_predictions(settings: Settings, store: Store, champion: StoredFolder) -> tuple[str, StoredFolder]:
    """The champion's name, and its stored predictions.

    A champion stays while its model is trained again, so its predictions are looked for under the champion first.

    Raises:
        UserError: no stored predictions were made by this very model version.
    """
    for key in (CHAMPION_PREDICTIONS, *(predictions_key(name) for name in settings.models)):
        if store.has(key):
            folder = store.current(key)
            if folder.info["model_digest"] == champion.digest:
                return folder.info["model_name"], folder
    raise UserError(
        f"champion_model {champion.version}: no predictions of it are stored; materialise predictions and "
        "champion_model again"
    )
