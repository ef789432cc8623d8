"""``emotion-assets export --model``: the folder, its card with the figures of the table, and its refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from emotion_assets.cli.model_export import CARD, export_model
from emotion_assets.evaluation.metrics import scale
from emotion_assets.evaluation.predictions import predict
from emotion_assets.models.registry import load_scorer
from emotion_assets.profiles.reader import load_settings
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.keys import RAW_DATASET, model_key, predictions_key
from emotion_assets.storage.store import StoredFolder
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.conftest import TINY_PROFILE
from emotion_assets_tests.models.test_export import TEXTS, run_code, trained
from emotion_assets_tests.worlds.evaluated import World
from emotion_assets_tests.worlds.tiny import LABELS

NAME = "bert_base"


@pytest.fixture
def make_world(tmp_path: Path, write_dataset: Callable[..., Path]) -> Callable[..., tuple[World, StoredFolder]]:
    """A home with a dataset of three labels and a transformer under the name ``bert_base``, evaluated on it."""

    def make(evaluated: bool = True, **settings: Any) -> tuple[World, StoredFolder]:
        texts = ["walk river", "stone cloud amber", "quiet storm"]
        rows = [(f"{text} {n * 'copper '}", LABELS[i]) for n in range(4) for i, text in enumerate(texts)]
        dataset = write_dataset({"train": rows, "validation": rows[:6], "test": rows[3:]})
        environment = {"EMOTION_HOME": str(tmp_path), "EMOTION_DATASET": str(dataset)}
        profile = load_settings(str(TINY_PROFILE), environ=environment, overrides={"labels": LABELS})
        world = World(Workspace(profile))
        world.store_dataset()
        store, _, model = trained(tmp_path, "bert", **{"method": "full", "pooling": "first", **settings})
        store.point(model_key(NAME), "models", model)
        if evaluated:
            predictions = predict(NAME, model, store.current(RAW_DATASET), store)
            store.point(predictions_key(NAME), "predictions", predictions)
            world.evaluate()
        return world, model

    return make


def _card(folder: Path) -> tuple[dict[str, Any], str, str]:
    """The metadata of the card, its code, and the whole of it."""
    text = (folder / CARD).read_text(encoding="utf-8")
    metadata = yaml.safe_load(text.split("---\n")[1])
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return metadata, code, text


def test_the_card_has_the_figures_of_the_table_and_code_that_gives_the_scorers_probabilities(
    make_world: Callable[..., tuple[World, StoredFolder]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, model = make_world()
    said = export_model(world.workspace, NAME, tmp_path / "out", adapter=False)
    assert said[0].startswith(
        f"{NAME} {model.version} written to {tmp_path / 'out'}: transformers AutoModelForSequence"
    )
    metadata, code, text = _card(tmp_path / "out")
    ((accuracy, low, high, macro_f1),) = world.query(
        "SELECT accuracy, accuracy_low, accuracy_high, macro_f1 FROM leaderboard"
    )
    assert f"{accuracy:.4f} ({low:.4f} to {high:.4f})" in text
    for label, precision, recall in world.query(
        "SELECT emotion, precision, recall FROM evaluation_by_class WHERE split = 'test'"
    ):
        assert re.search(rf"\| {label} \| \d+ \| {precision:.4f} \| {recall:.4f} \|", text)
    (result,) = metadata["model-index"]
    assert [m["value"] for r in result["results"] for m in r["metrics"]] == [round(accuracy, 4), round(macro_f1, 4)]
    assert metadata["pipeline_tag"] == "text-classification"
    scores = load_scorer(model, world.workspace.store).score(TEXTS)
    np.testing.assert_allclose(run_code(code, tmp_path / "out", tmp_path), scores, atol=1e-5)
    temperature = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["calibration_temperature"]
    assert f"`temperature={temperature:.6g}`" in text
    calibrated = run_code(code, tmp_path / "out", tmp_path, temperature)
    np.testing.assert_allclose(calibrated, scale(scores, temperature), atol=1e-5)
    assert "I can't thank you enough" in code
    for file in (tmp_path / "out").iterdir():
        assert file.stat().st_mode & 0o777 == 0o644
        assert str(tmp_path).encode() not in file.read_bytes()


def test_the_adapter_alone_has_its_card_too(
    make_world: Callable[..., tuple[World, StoredFolder]], tmp_path: Path
) -> None:
    world, model = make_world(method="lora", pooling="max")
    export_model(world.workspace, NAME, tmp_path / "out", adapter=True)
    metadata, code, _ = _card(tmp_path / "out")
    assert metadata["library_name"] == "peft"
    assert "pipeline_tag" not in metadata
    store = world.workspace.store
    base = store.open("base_models", model.read_json("model.json")["base_digest"])
    scores = load_scorer(model, store).score(TEXTS)
    np.testing.assert_allclose(run_code(code, tmp_path / "out", base.path), scores, atol=1e-4)


def test_a_model_whose_scores_are_pooled_over_tokens_says_so(
    make_world: Callable[..., tuple[World, StoredFolder]], tmp_path: Path
) -> None:
    world, _ = make_world(pooling="mean")
    export_model(world.workspace, NAME, tmp_path / "out", adapter=False)
    metadata, _, text = _card(tmp_path / "out")
    assert "pipeline_tag" not in metadata
    assert "It is a model for token classification" in text


@pytest.mark.parametrize(
    ("settings", "arguments", "said"),
    [
        ({"evaluated": False}, {}, r"--model bert_base: its version \w{12} was not evaluated yet; materialise"),
        ({"pooling": "max"}, {}, "--model bert_base: transformers has no class that takes the maximum"),
        ({}, {"adapter": True}, "--model bert_base: it has no adapter"),
        ({}, {"name": "nobody"}, "--model nobody: not a model of the profile; use llama3_lora_model, bert_base"),
        ({}, {"target": ""}, "is there already; give a folder that is new or empty"),
        ({}, {"target": "/sys/out"}, r"--to /sys/out: cannot be written \("),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    make_world: Callable[..., tuple[World, StoredFolder]],
    tmp_path: Path,
    settings: dict[str, Any],
    arguments: dict[str, Any],
    said: str,
) -> None:
    world, _ = make_world(**settings)
    before = sorted(tmp_path.iterdir())
    target = tmp_path / arguments.get("target", "out")
    with pytest.raises(UserError, match=said) as error:
        export_model(world.workspace, arguments.get("name", NAME), target, arguments.get("adapter", False))
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_baseline_that_is_no_transformer_says_where_it_is(
    make_world: Callable[..., tuple[World, StoredFolder]], tmp_path: Path
) -> None:
    world, _ = make_world()
    store = world.workspace.store
    model = world.store_model("tfidf_svm")
    world.evaluate()
    with pytest.raises(UserError, match=f"--model tfidf_svm: tfidf_svm is no model of transformers; {model.path}"):
        export_model(world.workspace, "tfidf_svm", tmp_path / "out", adapter=False)
    assert store.current(model_key("tfidf_svm")).digest == model.digest
