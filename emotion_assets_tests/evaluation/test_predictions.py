"""Predictions: in dataset order, over the dataset's labels, and never made twice."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_assets.dataset.splits import read_split
from emotion_assets.evaluation.predictions import predict, prediction_problems, read_predictions
from emotion_assets.models import registry
from emotion_assets.settings.errors import DataError
from emotion_assets.storage.keys import RAW_DATASET, model_key, predictions_key
from emotion_assets_tests.worlds.evaluated import World, world

__all__ = ["world"]


def test_predictions_are_the_scorers_probabilities_in_dataset_order(world: World) -> None:
    model = world.store_model("tfidf_svm")
    store = world.workspace.store
    dataset = store.current(RAW_DATASET)
    part = read_predictions(store.current(predictions_key("tfidf_svm")), "test")
    test = read_split(dataset, "test")
    assert [part.labels[i] for i in part.actual] == test["label"].tolist()
    expected = registry.load_scorer(model, store).score(test["text"].tolist())
    assert part.probabilities == pytest.approx(expected)
    assert prediction_problems(store.current(predictions_key("tfidf_svm")), dataset) == []


def test_columns_follow_the_dataset_when_the_model_names_its_labels_in_another_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = world.store_model("tfidf_svm")
    store, load = world.workspace.store, registry.load_scorer
    before = read_predictions(store.current(predictions_key("tfidf_svm")), "test").probabilities

    class Reversed:
        def __init__(self) -> None:
            self.inner = load(model, store)
            self.labels = self.inner.labels[::-1]

        def score(self, texts: list[str]) -> np.ndarray:
            return self.inner.score(texts)[:, ::-1]

    monkeypatch.setattr(registry, "load_scorer", lambda *_: Reversed())
    shorter = world.store_dataset({"validation": read_split(store.current(RAW_DATASET), "validation").head(50)})
    again = predict("tfidf_svm", model, shorter, store)
    assert read_predictions(again, "test").probabilities == pytest.approx(before)


def test_the_same_model_never_scores_the_same_dataset_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = world.store_model("tfidf_svm")
    store = world.workspace.store
    monkeypatch.setattr(registry, "load_scorer", lambda *_: pytest.fail("scored again"))
    again = predict("tfidf_svm", model, store.current(RAW_DATASET), store)
    assert again.digest == store.current(predictions_key("tfidf_svm")).digest


def test_a_model_of_other_labels_is_refused_with_the_fix(world: World) -> None:
    world.store_model("tfidf_svm")
    store = world.workspace.store
    settings = world.workspace.settings.model_copy(update={"labels": ("joy", "anger")})
    dataset = store.current(RAW_DATASET)
    with store.writing("datasets") as draft:
        for split in ("train", "validation", "test"):
            frame = read_split(dataset, split)
            frame[frame["label"].isin(settings.labels)].to_parquet(draft.file(f"{split}.parquet"))
        other = draft.finish(dataset.info | {"labels": list(settings.labels)})
    with pytest.raises(DataError, match=r"the dataset has joy, anger; train the model on this dataset"):
        predict("tfidf_svm", store.current(model_key("tfidf_svm")), other, store)
