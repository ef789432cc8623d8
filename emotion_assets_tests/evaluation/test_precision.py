"""A faster number format is used where validation shows that it may be, and nowhere else."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from emotion_assets.dataset.splits import Dataset, read_split, write_splits
from emotion_assets.evaluation import precision
from emotion_assets.evaluation.precision import FormatMeasured, choose_precision, stored_precision
from emotion_assets.models import registry
from emotion_assets.models.kind import Scorer
from emotion_assets.models.transformer.checkpoints import save_classifier
from emotion_assets.models.transformer.tokens import TOKENIZER_FOLDER
from emotion_assets.storage.keys import RAW_DATASET
from emotion_assets.storage.store import Store, StoredFolder
from emotion_assets.training.runtime import cpu_has_bf16
from emotion_assets_tests.worlds.evaluated import World, world
from emotion_assets_tests.worlds.tiny import LABELS, classifier_of, stored_case

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


def store_transformer(root: Path) -> tuple[Store, StoredFolder, StoredFolder]:
    """A small BERT with random weights, and a dataset of the words that it knows."""
    store, base, tokens = stored_case(root, "bert")
    classifier = classifier_of(base.path, pooling="mean", method="full")
    with store.writing("models") as draft:
        save_classifier(classifier, draft.path)
        shutil.copytree(tokens.file(TOKENIZER_FOLDER), draft.file(TOKENIZER_FOLDER))
        model = draft.finish({})
    words = ["walk river", "stone", "cloud amber lantern", "quiet storm", "garden copper meadow walk"]
    rows = [{"text": f"{text} {other}", "label": LABELS[i % 3]} for i, text in enumerate(words) for other in words]
    frame = pd.DataFrame(rows)
    with store.writing("datasets") as draft:
        write_splits(Dataset({"train": frame, "validation": frame, "test": frame}, "made up"), draft.path)
        dataset = draft.finish({"labels": LABELS})
    return store, model, dataset


@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU does not multiply bf16 matrices")
def test_a_transformer_is_measured_in_bf16_and_its_scores_hold_in_any_batch(tmp_path: Path) -> None:
    store, model, dataset = store_transformer(tmp_path)
    fp32, bf16 = choose_precision(model, dataset, store).measured
    assert (fp32.number_format, bf16.number_format) == ("fp32", "bf16")
    assert fp32.difference < precision.MOST_DIFFERENCE
    assert bf16.difference < precision.MOST_DIFFERENCE
    texts = read_split(dataset, "validation")["text"].tolist()
    scores = [registry.load_scorer(model, store, form).score(texts) for form in ("fp32", "bf16")]
    assert bf16.agreement == (scores[0].argmax(1) == scores[1].argmax(1)).mean()
    assert np.abs(scores[0] - scores[1]).max() > 0


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs /proc")
def test_weights_are_mapped_and_not_copied(tmp_path: Path) -> None:
    store, model, _ = store_transformer(tmp_path)
    scorer: Any = registry.load_scorer(model, store, "fp32")
    mapped = [
        [int(bound, 16) for bound in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(model.file("backbone") / "model.safetensors"))
    ]
    weights = list(scorer._model.backbone.parameters())
    assert all(any(low <= weight.data_ptr() < high for low, high in mapped) for weight in weights)
