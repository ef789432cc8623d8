"""A faster number format is used where validation shows that it may be, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from emotion_assets.dataset.splits import read_split
from emotion_assets.evaluation import precision
from emotion_assets.evaluation.precision import FormatMeasured, choose_precision, stored_precision
from emotion_assets.models import registry
from emotion_assets.models.kind import Scorer
from emotion_assets.storage.keys import RAW_DATASET
from emotion_assets_tests.worlds.evaluated import World, world

__all__ = ["world"]


def measured(
    number_format: str, agreement: float = 1.0, error: float = 0.02, speed: float = 100.0, difference: float = 1e-7
) -> FormatMeasured:
    return FormatMeasured(number_format, 1000, agreement, error, difference, speed)


@pytest.mark.parametrize(
    ("agreement", "error", "speed", "form"),
    [
        (0.995, 0.0249, 200.0, "bf16"),
        (0.9949, 0.02, 200.0, "fp32"),
        (1.0, 0.025, 200.0, "fp32"),
        (1.0, 0.001, 200.0, "bf16"),
        (1.0, 0.02, 99.0, "fp32"),
    ],
)
def test_the_bars_of_a_faster_format(agreement: float, error: float, speed: float, form: str) -> None:
    chosen = precision._choose([measured("fp32"), measured("bf16", agreement, error, speed)])
    assert chosen.number_format == form
    assert "bf16" in chosen.why or chosen.why == "no other format was faster"


def test_a_format_whose_probabilities_depend_on_the_batch_is_not_used() -> None:
    chosen = precision._choose([measured("fp32"), measured("bf16", speed=300.0, difference=2e-5)])
    assert (chosen.number_format, chosen.why) == (
        "fp32",
        "bf16 gives a text other probabilities beside other texts (by up to 2.0e-05)",
    )


class Wobbly(Scorer):
    """The scores of another scorer, with another label for every ``n``-th text."""

    def __init__(self, inner: Scorer, n: int) -> None:
        self.labels, self._inner, self._n = inner.labels, inner, n

    def encode(self, texts: Sequence[str]) -> tuple[Any, np.ndarray]:
        return self._inner.encode(texts)

    def predict(self, rows: Any) -> np.ndarray:
        probabilities = self._inner.predict(rows).copy()
        probabilities[:: self._n] = np.roll(probabilities[:: self._n], 1, axis=1)
        return probabilities


@pytest.mark.parametrize(("n", "agrees"), [(10, False), (10_000, True)])
def test_a_format_is_measured_on_validation_once_and_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch, n: int, agrees: bool
) -> None:
    store = world.workspace.store
    model, dataset = world.store_model("tfidf_svm"), store.current(RAW_DATASET)
    load, loaded = registry.load_scorer, []

    def load_format(folder: Any, store: Any, number_format: str = "") -> Scorer:
        loaded.append(number_format)
        scorer = load(folder, store)
        return Wobbly(scorer, n) if number_format == "bf16" else scorer

    assert choose_precision(model, dataset, store).number_format == ""
    monkeypatch.setattr(registry, "number_formats_of", lambda model: ("bf16",))
    monkeypatch.setattr(registry, "load_scorer", load_format)
    assert stored_precision(model, dataset.digest, store) == precision.OWN
    chosen = choose_precision(model, dataset, store)
    assert loaded == ["fp32", "bf16"]
    fp32, bf16 = chosen.measured
    assert (fp32.agreement, fp32.rows) == (1.0, len(read_split(dataset, "validation")))
    assert (bf16.agreement >= precision.LEAST_AGREEMENT) == agrees
    assert agrees or chosen.number_format == "fp32"
    assert choose_precision(model, dataset, store) == chosen == stored_precision(model, dataset.digest, store)
    assert loaded == ["fp32", "bf16"]
    monkeypatch.setattr(registry, "number_formats_of", lambda model: ("fp8",))  # another chip
    assert stored_precision(model, dataset.digest, store) == precision.OWN
