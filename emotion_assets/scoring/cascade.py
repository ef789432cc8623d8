"""A cascade: a cheap model answers where it is sure enough that the champion would say the same, else the champion.

How sure is enough is chosen on the validation rows for a stated agreement, from stored predictions; nothing is scored
for it. A cascade is a scoring model of its own: its ``model_version`` stands for both models and the threshold between
them, and each of its scores says which of the two has answered. So a score of the champion alone and one of a cascade
are never taken for each other.

Belongs here: choosing the threshold, what it costs and saves, and scoring with two models. Does not belong here: how
one model's probabilities are calibrated (``calibration``), how the cheap model is trained (``models.distillation``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_assets.models.kind import Prepared, Scorer, Scores
from emotion_assets.scoring import decision
from emotion_assets.scoring.calibration import Calibration, Champion, calibrate, calibrate_model, champion_predictions
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import predictions_key
from emotion_assets.storage.store import Store, StoredFolder, fingerprint

if TYPE_CHECKING:
    from emotion_assets.evaluation.predictions import Predictions

RULE = "1"
"""Of the choice of the threshold; another one makes other versions of the same models."""


@dataclass(frozen=True)
class SplitFigures:
    """What the threshold does on one split.

    Attributes:
        share: of the rows, answered by the first model.
        agreement: share of these rows where both models name the same label; ``agreement_low`` and ``agreement_high``
            bound its 95% interval (Wilson). 1 and 0 to 1 where the first model answers no row.
        overall_agreement: share of all rows where the cascade names the champion's label.
        accuracy: share of all rows that the cascade has right, beside ``champion_accuracy``.
    """

    split: str
    rows: int
    share: float
    agreement: float
    agreement_low: float
    agreement_high: float
    overall_agreement: float
    accuracy: float
    champion_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Cascade(Calibration):
    """How a cascade answers. ``model``, ``folder`` and the rest are the champion's or of both together; ``temperature``
    is 1, since each of the two models has its own.

    Attributes:
        first: the cheap model, calibrated on the true labels.
        last: the champion.
        gate: the first model answers from this confidence on; a text that it reads only in part goes on.
        figures: of validation, on which the gate was chosen, and of test, which it has not seen.
    """

    first: Calibration
    last: Calibration
    gate: float
    figures: tuple[SplitFigures, ...]
    key: str

    @property
    def digest(self) -> str:
        return self.key

    def load(self) -> Champion:
        return Champion(self, CascadeScorer(self.first.load(), self.last.load(), self.gate))

    def who_answered(self, scores: Scores) -> np.ndarray:
        assert scores.by_first is not None
        return np.where(scores.by_first, self.first.version, self.last.version).astype(object)

    @property
    def columns(self) -> dict[str, Any]:
        on_validation = self.figures[0]
        return {
            "first_model": self.first.model,
            "first_version": self.first.version,
            "last_version": self.last.version,
            "first_threshold": self.gate,
            "first_share": on_validation.share,
            "first_agreement": on_validation.agreement,
        }

    @property
    def table(self) -> list[dict[str, Any]]:
        """``figures``, a dict for each split."""
        return [asdict(split) for split in self.figures]


class CascadeScorer(Scorer):
    """Two models as one, both with the same order of labels. Its probabilities are calibrated already."""

    def __init__(self, first: Champion, last: Champion, gate: float) -> None:
        assert first.labels == last.labels
        self._first, self._last, self._gate = first, last, gate
        self.labels = list(last.labels)

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """Ahead of both models the texts are encoded for the first one, which answers most of them."""
        prepared = self._first.prepare(texts)
        return replace(prepared, rows=(list(texts), prepared))

    def answer(self, prepared: Prepared) -> Scores:
        """Both models run in the caller's thread, one after the other: side by side they would fight for the cores."""
        texts, prepared_for_first = prepared.rows
        first = self._first.answer(prepared_for_first)
        by_first = passes(first.probabilities, self._gate) & ~first.truncated
        last = self._last.answers([text for text, done in zip(texts, by_first, strict=True) if not done])
        probabilities, truncated = first.probabilities.copy(), first.truncated.copy()
        probabilities[~by_first], truncated[~by_first] = last.probabilities, last.truncated
        return Scores(probabilities, truncated, by_first)

    def encode(self, texts: Sequence[str]) -> tuple[Any, np.ndarray]:
        raise NotImplementedError("each of its models encodes for itself")

    def predict(self, rows: Any) -> np.ndarray:
        raise NotImplementedError("each of its models predicts for itself")


def passes(probabilities: np.ndarray, gate: float) -> np.ndarray:
    """Which answers of the first model stand, ``[n]`` bool; ``probabilities`` ``[n, labels]`` are calibrated."""
    return decision.certainty(probabilities) >= gate  # type: ignore[no-any-return]


def calibrate_scoring(settings: Settings, store: Store) -> tuple[Calibration, str]:
    """How feedback is scored: the cascade of the settings or the champion alone, and for a cascade that was asked for
    and cannot be had, why the champion answers alone.

    Raises:
        StoreError, UserError: as ``calibrate``.
    """
    last, asked = calibrate(settings, store), settings.scoring.cascade
    if asked is None:
        return last, ""
    name, key = asked.model, predictions_key(asked.model)
    alone = f"scoring.cascade: {last.model} answers alone"
    if not store.has(key):
        return last, f"{alone}: {'/'.join(key)} was not materialised yet; materialise it"
    first_predictions = store.current(key)
    _, last_predictions = champion_predictions(settings, store, last.folder)
    if first_predictions.info["model_digest"] == last.folder.digest:
        return last, f"{alone}: {name} is the champion itself"
    if first_predictions.info["dataset_digest"] != last_predictions.info["dataset_digest"]:
        return last, f"{alone}: the predictions of {name} are of another dataset; materialise them again"
    folder = store.open("models", first_predictions.info["model_digest"], verify=False)
    first = calibrate_model(name, folder, first_predictions, settings, store)
    cascade = join(first, last, first_predictions, last_predictions, asked.agreement)
    if not cascade.figures[0].share:
        return last, f"{alone}: {name} agrees with it nowhere on validation in {asked.agreement:.1%} of the rows"
    return cascade, ""


def join(
    first: Calibration,
    last: Calibration,
    first_predictions: StoredFolder,
    last_predictions: StoredFolder,
    target: float,
) -> Cascade:
    """The cascade of two models that reaches ``target``: of the validation rows that the first model answers, at least
    that share has the champion's label. The threshold is the lowest one that does (``decision.choose_threshold``, with
    the champion's labels in place of the true ones)."""
    folders = (first_predictions, last_predictions)
    (mine, mine_test), (theirs, theirs_test) = (
        tuple(_calibrated(one, folder, split) for split in ("validation", "test"))
        for one, folder in zip((first, last), folders, strict=True)
    )
    gate = decision.choose_threshold(theirs.probabilities.argmax(1), mine.probabilities, target)
    answered = _together(mine, theirs, gate)
    threshold = decision.choose_threshold(theirs.actual, answered, last.target_accuracy)
    parts = (first.digest, last.digest, *(folder.digest for folder in folders), target, RULE, decision.RULE)
    return Cascade(
        model=f"{first.model}+{last.model}",
        folder=last.folder,
        store=last.store,
        labels=last.labels,
        temperature=1.0,
        threshold=threshold,
        target_accuracy=last.target_accuracy,
        coverage=float((decision.certainty(answered) >= threshold).mean()),
        validation_rows=last.validation_rows,
        dataset_digest=last.dataset_digest,
        seals=first.seals + last.seals,
        first=first,
        last=last,
        gate=gate,
        figures=(_measure("validation", mine, theirs, gate), _measure("test", mine_test, theirs_test, gate)),
        key=fingerprint("cascade", *parts),
    )


def validation_probabilities(settings: Settings, store: Store, calibration: Calibration) -> np.ndarray:
    """Calibrated probabilities ``[rows, labels]`` of the validation rows, as this calibration answers them."""
    last = calibration.last if isinstance(calibration, Cascade) else calibration
    _, predictions = champion_predictions(settings, store, last.folder)
    theirs = _calibrated(last, predictions, "validation")
    if not isinstance(calibration, Cascade):
        return theirs.probabilities
    mine = _calibrated(calibration.first, store.current(predictions_key(calibration.first.model)), "validation")
    return _together(mine, theirs, calibration.gate)


def _calibrated(calibration: Calibration, folder: StoredFolder, split: str) -> Predictions:
    from emotion_assets.evaluation.metrics import scale
    from emotion_assets.evaluation.predictions import Predictions, read_predictions

    part = read_predictions(folder, split)
    return Predictions(part.labels, part.actual, scale(part.probabilities, calibration.temperature).astype(np.float32))


def _together(mine: Predictions, theirs: Predictions, gate: float) -> np.ndarray:
    """The cascade's probabilities, rounded as ``Champion.answer`` rounds them."""
    from emotion_assets.evaluation.metrics import scale

    chosen = np.where(passes(mine.probabilities, gate)[:, None], mine.probabilities, theirs.probabilities)
    return scale(chosen, 1.0).astype(np.float32)  # type: ignore[no-any-return]


def _measure(split: str, mine: Predictions, theirs: Predictions, gate: float) -> SplitFigures:
    from emotion_assets.evaluation.metrics import accuracy_interval

    by_first = passes(mine.probabilities, gate)
    same = mine.probabilities.argmax(1) == theirs.probabilities.argmax(1)
    labels = _together(mine, theirs, gate).argmax(1)
    answered, agreed = int(by_first.sum()), int((by_first & same).sum())
    interval = accuracy_interval(agreed, answered) if answered else None
    return SplitFigures(
        split=split,
        rows=len(same),
        share=answered / len(same),
        agreement=interval.value if interval else 1.0,
        agreement_low=interval.low if interval else 0.0,
        agreement_high=interval.high if interval else 1.0,
        overall_agreement=float((labels == theirs.probabilities.argmax(1)).mean()),
        accuracy=float((labels == theirs.actual).mean()),
        champion_accuracy=float(theirs.right.mean()),
    )
