"""A workspace with the sample dataset and real TF-IDF models of chosen quality, without running any asset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from emotion_assets.dataset.splits import Dataset, describe_dataset, load_dataset, write_splits
from emotion_assets.evaluation.champion import ChampionRequest, Choice, choose_champion
from emotion_assets.evaluation.evaluate import Outcome, evaluate_all
from emotion_assets.evaluation.predictions import predict
from emotion_assets.models.kinds.tfidf_svm import TfidfSvm, fit_classifier, save_classifier
from emotion_assets.profiles.reader import load_settings
from emotion_assets.storage.keys import RAW_DATASET, model_key, predictions_key
from emotion_assets.storage.store import StoredFolder
from emotion_assets.storage.workspace import Workspace

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """The workspace and a clock: each evaluation or decision happens a minute after the one before."""

    workspace: Workspace
    minutes: int = 0

    def now(self) -> datetime:
        self.minutes += 1
        return START + timedelta(minutes=self.minutes)

    def store_dataset(self, splits: Mapping[str, pd.DataFrame] | None = None) -> StoredFolder:
        settings, store = self.workspace.settings, self.workspace.store
        dataset = load_dataset(settings.dataset, settings.labels, settings.seed)
        if splits is not None:
            dataset = Dataset({**dataset.splits, **splits}, "changed")
        with store.writing("datasets") as draft:
            write_splits(dataset, draft.path)
            folder = draft.finish(describe_dataset(dataset, settings.labels))
        store.point(RAW_DATASET, "datasets", folder)
        return folder

    def store_model(
        self, name: str, rows: int = 2000, parameters: int = 1_000_000, blind_to: str | None = None
    ) -> StoredFolder:
        """Train on the first ``rows`` of train, store the model and its predictions as those of ``name``."""
        settings, store = self.workspace.settings, self.workspace.store
        dataset = store.current(RAW_DATASET)
        frame = load_dataset(settings.dataset, settings.labels, settings.seed).splits["train"].head(rows)
        labels = frame["label"].map(settings.labels.index).to_numpy()
        texts = frame["text"].tolist()
        model = fit_classifier(TfidfSvm(method="tfidf_svm"), texts, labels, len(settings.labels), 17)
        model.fit_temperature(texts, labels)
        if blind_to is not None:
            model.bias = np.where(np.array(settings.labels) == blind_to, -99, model.bias).astype(np.float32)
        with store.writing("models") as draft:
            save_classifier(model, TfidfSvm(method="tfidf_svm"), settings.labels, draft.path)
            info = {"base": "none", "trainable_parameters": parameters, "total_parameters": parameters}
            folder = draft.finish(info | {"train_seconds": 1.0, "peak_memory_mb": 100.0})
        store.point(model_key(name), "models", folder)
        store.point(predictions_key(name), "predictions", predict(name, folder, dataset, store))
        return folder

    def predict_again(self, name: str) -> None:
        store = self.workspace.store
        folder = predict(name, store.current(model_key(name)), store.current(RAW_DATASET), store)
        store.point(predictions_key(name), "predictions", folder)

    def evaluate(self) -> Outcome:
        w = self.workspace
        now = self.now()
        return evaluate_all(w.settings, w.store, w.warehouse, f"run {self.minutes}", now)

    def choose(self, **request: Any) -> Choice:
        w = self.workspace
        now = self.now()
        return choose_champion(w.settings, w.store, w.warehouse, ChampionRequest(**request), f"run {self.minutes}", now)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.workspace.warehouse.reading() as db:
            return [tuple(row.values()) for row in db.sql(sql).to_arrow_table().to_pylist()]

    def without(self, *names: str) -> World:
        """The same home with models taken out of the profile."""
        settings = self.workspace.settings
        models = {name: model for name, model in settings.models.items() if name not in names}
        return World(Workspace(settings.model_copy(update={"models": models})), self.minutes)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty home with the sample dataset stored; the profile has the models tfidf_svm, bert_base and bigru."""
    settings = load_settings("embedded", environ={"EMOTION_HOME": str(tmp_path)})
    models = {name: settings.models[name] for name in ("tfidf_svm", "bert_base", "bigru")}
    world = World(Workspace(settings.model_copy(update={"models": models})))
    world.store_dataset()
    return world
