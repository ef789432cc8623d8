"""Kinds of models: what a recipe holds of each stays the same, and a new kind is one file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emotion_assets.jobs.process import TrainingJob, run_job, stored_input
from emotion_assets.models import kinds
from emotion_assets.models.registry import all_kinds, kind_of, load_scorer
from emotion_assets.profiles import reader
from emotion_assets.storage.keys import RAW_DATASET
from emotion_assets_tests.worlds.evaluated import World, world

__all__ = ["world"]

TRAINING = {
    "epochs": 3,
    "min_steps": 0,
    "batch_size": 20,
    "gradient_accumulation": 1,
    "learning_rate": 5e-05,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "scheduler": "cosine",
    "warmup_share": 0.0,
    "max_grad_norm": 1.0,
    "label_smoothing": 0.0,
    "precision": "auto",
    "keep": "best",
}
IN_A_RECIPE = {
    "transformer": (
        {"method": "lora", "base": "a"},
        {
            "method": "lora",
            "base": "a",
            "objective": "head",
            "pooling": "last",
            "embedding_dropout": 0.0,
            "head_dropout": 0.0,
            "consistency": 0.0,
            "lora": {
                "rank": 8,
                "alpha": 16,
                "dropout": 0.0,
                "target_modules": "all-linear",
                "train_embeddings": False,
            },
            "training": TRAINING,
            "attention": "auto",
            "quantization": "none",
            "compile": False,
            "paper_accuracy": None,
        },
    ),
    "bigru": (
        {"method": "bigru"},
        {
            "method": "bigru",
            "embedding_size": 128,
            "hidden_size": 128,
            "dropout": 0.5,
            "vocab_size": 20000,
            "max_length": 128,
            "training": TRAINING | {"learning_rate": 0.002, "epochs": 6, "batch_size": 64},
            "paper_accuracy": None,
        },
    ),
    "distilled": (
        {"method": "distilled", "teacher": "a"},
        {
            "method": "distilled",
            "teacher": "a",
            "temperature": 2.0,
            "teacher_weight": 0.5,
            "feedback_texts": 5000,
            "recombined_texts": 50000,
            "hidden_words": 0.01,
            "embedding_size": 128,
            "hidden_size": 128,
            "dropout": 0.2,
            "vocab_size": 20000,
            "max_length": 128,
            "training": TRAINING | {"learning_rate": 0.002, "epochs": 6, "batch_size": 64, "keep": "last"},
            "paper_accuracy": None,
        },
    ),
    "zero_shot": (
        {"method": "zero_shot", "base": "a"},
        {"method": "zero_shot", "base": "a", "paper_accuracy": None},
    ),
    "tfidf_svm": (
        {"method": "tfidf_svm"},
        {"method": "tfidf_svm", "ngram_max": 2, "min_frequency": 1, "c": 1.0, "paper_accuracy": None},
    ),
}
"""What ``model_dump`` gave when homes of today were made: another key or value trains every model again."""


@pytest.mark.parametrize("name", IN_A_RECIPE)
def test_what_a_recipe_holds_of_a_model_stays_the_same(name: str) -> None:
    given, expected = IN_A_RECIPE[name]
    assert all_kinds()[name].settings.model_validate(given).model_dump(mode="json") == expected


def test_the_recipe_of_a_training_stays_the_same() -> None:
    job = TrainingJob("bigru", "x", {"a": 1}, ["joy"], 17, {"dataset": {"path": "p", "digest": "d"}}, "t", "c")
    assert job.recipe == "a95d80ccd15aa2571b77f614627c5388823e8433841b06f9ba0990e116faaacf"


NEW_KIND = '''
"""Always names the most frequent label of the training rows."""

import json
from typing import Literal

from emotion_assets.models.kind import Kind, Scorer
from emotion_assets.settings.schema import ModelSettings


class Majority(ModelSettings):
    method: Literal["majority"]
    smoothing: float = 1.0


class MajorityKind(Kind):
    name = "majority"
    settings = Majority
    ui_kinds = ("python",)

    def describe(self, model):
        return "The shares of the training labels."

    def train(self, model, run):
        from emotion_assets.dataset.splits import read_split

        labels = read_split(run.inputs["dataset"], "train")["label"].tolist()
        counts = [labels.count(label) + model.smoothing for label in run.labels]
        content = {"kind": self.name, "labels": list(run.labels), "shares": [n / sum(counts) for n in counts]}
        (run.target / "model.json").write_text(json.dumps(content))
        return {"trainable_parameters": len(counts), "total_parameters": len(counts), "train_seconds": 0.1,
                "peak_memory_mb": 1.0, "base": "none", "runtime": "cpu", "validation_accuracy": 0.0}

    def load(self, model, store, number_format=""):
        return MajorityScorer(model.read_json("model.json"))


class MajorityScorer(Scorer):
    def __init__(self, content):
        self.labels, self.shares = content["labels"], content["shares"]

    def encode(self, texts):
        import numpy as np

        return np.array(texts), np.zeros(len(texts), dtype=bool)

    def predict(self, rows):
        import numpy as np

        return np.tile(np.array(self.shares, dtype=np.float32), (len(rows), 1))
'''


@pytest.fixture
def majority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The new kind's file, where the package of kinds looks for its modules."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    (folder / "majority.py").write_text(NEW_KIND, encoding="utf-8")
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(folder)])
    all_kinds.cache_clear()
    monkeypatch.setattr(reader, "_PROFILE", reader._profile_type())
    yield
    monkeypatch.undo()
    all_kinds.cache_clear()
    sys.modules.pop("emotion_assets.models.kinds.majority", None)


def test_a_new_kind_is_one_file_and_a_profile(majority: None, world: World, tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        "description: mine\ndataset: {source: sample}\nlabels: [joy, sadness, anger, fear, love, surprise]\n"
        "models: {most_frequent: {method: majority, smoothing: 2}}\n"
    )
    settings = reader.load_settings(str(profile), environ={"EMOTION_HOME": str(tmp_path / "home")})
    model = settings.models["most_frequent"]
    kind, store = kind_of(model), world.workspace.store
    sources = kind.inputs(model, settings)
    assert sources == {"dataset": RAW_DATASET}
    inputs = {role: stored_input(store.current(key)) for role, key in sources.items()}
    with store.writing("models") as draft:
        job = TrainingJob(
            kind.name, "most_frequent", model.model_dump(mode="json"), list(settings.labels), 17, inputs,
            str(draft.path), str(tmp_path / "state"),
        )  # fmt: skip
        folder = draft.finish(run_job(job, print))
    scorer = load_scorer(folder, store)
    assert scorer.labels[scorer.score(["any text"]).argmax()] == "joy"


def test_a_method_that_no_kind_has_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(reader.SettingsError, match=r"models\.x: .*'tfidf_svm'"):
        reader.load_settings("embedded", environ={}, overrides={"models": {"x": {"method": "perceptron"}}})
