"""The number format in which a model scores feedback: a faster one than fp32, where validation shows that it may.

A format is used where its labels agree with fp32 on at least ``LEAST_AGREEMENT`` of the validation rows, its
calibration error is larger by less than ``MOST_CALIBRATION_LOSS``, a text gets the same probabilities whatever stands
beside it (within ``MOST_DIFFERENCE``), and it was faster. What was measured is stored, for
the model and the formats that this machine's chip multiplies in; a machine with other ones measures for itself.

Does not belong here: how a model is computed in a format (``models.registry.load_scorer``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_assets.dataset.splits import read_split
from emotion_assets.evaluation.metrics import calibration_error
from emotion_assets.settings import versions
from emotion_assets.storage.store import Store, StoredFolder, fingerprint

if TYPE_CHECKING:
    from emotion_assets.models.kind import Scorer

REFERENCE = "fp32"
LEAST_AGREEMENT, MOST_CALIBRATION_LOSS, MOST_DIFFERENCE = 0.995, 0.005, 1e-5
SCORED_AGAIN, TOGETHER = 24, 4  # rows, and batches of them, to see whether their probabilities depend on their batch
MEASURED_ROWS = 2000  # of validation: a thousandth more or less of agreement shows, and a large model is not kept long
FILE = "precision.json"


@dataclass(frozen=True)
class FormatMeasured:
    """One number format on the validation rows. ``agreement``: share of rows with the label of fp32. ``difference``:
    the largest of a probability when rows were scored again in other, smaller batches."""

    number_format: str
    rows: int
    agreement: float
    calibration_error: float
    difference: float
    texts_per_second: float


@dataclass(frozen=True)
class Precision:
    """The number format in which a model scores, and why; empty: the one that it was trained and measured in."""

    number_format: str
    why: str
    measured: tuple[FormatMeasured, ...] = ()


OWN = Precision("", "no other format was measured on a machine like this one")


def choose_precision(model: StoredFolder, dataset: StoredFolder, store: Store) -> Precision:
    """The number format for a model on this machine: recalled where it was measured before, else measured now."""
    from emotion_assets.models.registry import number_formats_of

    formats = number_formats_of(model)
    if not formats:
        return Precision("", "this kind of model computes in one format")
    recipe = _recipe(model, dataset, formats)
    if (recalled := store.recall(recipe)) is not None:
        return _read(recalled)
    precision = _choose(_measure(model, dataset, store, formats))
    with store.writing("precision") as draft:
        draft.file(FILE).write_text(json.dumps(asdict(precision), indent=1), encoding="utf-8")
        folder = draft.finish({"model_digest": model.digest}, identity=["model_digest"])
    store.remember(recipe, "precision", folder)
    return precision


def stored_precision(model: StoredFolder, dataset_digest: str, store: Store) -> Precision:
    """What ``choose_precision`` stored, without measuring; ``OWN`` where it stored nothing."""
    from emotion_assets.models.registry import number_formats_of

    formats = number_formats_of(model)
    recalled = store.recall(_recipe(model, StoredFolder(model.path, dataset_digest), formats)) if formats else None
    return OWN if recalled is None else _read(recalled)


def _recipe(model: StoredFolder, dataset: StoredFolder, formats: Sequence[str]) -> str:
    return fingerprint("precision", versions.PRECISION, model.digest, dataset.digest, list(formats))


def _read(folder: StoredFolder) -> Precision:
    content: dict[str, Any] = folder.read_json(FILE)
    return Precision(
        content["number_format"], content["why"], tuple(FormatMeasured(**one) for one in content["measured"])
    )


def _measure(model: StoredFolder, dataset: StoredFolder, store: Store, formats: Sequence[str]) -> list[FormatMeasured]:
    """Every format on the same rows, the reference first."""
    from emotion_assets.models.registry import load_scorer

    frame = read_split(dataset, "validation").head(MEASURED_ROWS)
    texts = frame["text"].tolist()
    reference: np.ndarray | None = None
    measured = []
    for number_format in (REFERENCE, *formats):
        scorer = load_scorer(model, store, number_format)
        actual = frame["label"].map(scorer.labels.index).to_numpy().astype(np.int64)
        scorer.score(texts[:8])  # the first call pays for lazy set-up; it is not measured
        started = time.perf_counter()
        probabilities = scorer.score(texts)
        seconds = time.perf_counter() - started
        labels = probabilities.argmax(1)
        reference = labels if reference is None else reference
        agreement = float((labels == reference).mean())
        error = calibration_error(actual, probabilities)
        difference = _difference(scorer, texts, probabilities)
        measured.append(FormatMeasured(number_format, len(texts), agreement, error, difference, len(texts) / seconds))
    return measured


def _difference(scorer: Scorer, texts: Sequence[str], probabilities: np.ndarray) -> float:
    """The largest difference of a probability when some rows are scored again, a few at a time."""
    chosen = np.linspace(0, len(texts) - 1, SCORED_AGAIN).astype(int)[::-1]
    again = [scorer.score([texts[i] for i in chosen[start::TOGETHER]]) for start in range(TOGETHER)]
    before = [probabilities[chosen[start::TOGETHER]] for start in range(TOGETHER)]
    return float(np.abs(np.concatenate(again) - np.concatenate(before)).max())


def _choose(measured: Sequence[FormatMeasured]) -> Precision:
    """The fastest of the formats that may be used; the reference may always be."""
    reference = measured[0]

    def fault(one: FormatMeasured) -> str:
        if one.agreement < LEAST_AGREEMENT:
            return f"agrees with fp32 on {one.agreement:.1%} of the rows only"
        if one.calibration_error - reference.calibration_error >= MOST_CALIBRATION_LOSS:
            return f"has a calibration error of {one.calibration_error:.3f}, fp32 of {reference.calibration_error:.3f}"
        if one.difference >= MOST_DIFFERENCE:
            return f"gives a text other probabilities beside other texts (by up to {one.difference:.1e})"
        return ""

    usable = [one for one in measured if one is reference or not fault(one)]
    best = max(usable, key=lambda one: one.texts_per_second)
    whys = [f"{one.number_format} {fault(one)}" for one in measured[1:] if fault(one)]
    if best is not reference:
        gain = best.texts_per_second / reference.texts_per_second
        whys.insert(
            0,
            f"{best.number_format} is {gain:.1f} times as fast as fp32 and agrees on {best.agreement:.2%} of the rows",
        )
    elif not whys:
        whys.append("no other format was faster")
    return Precision(best.number_format, "; ".join(whys), tuple(measured))
