"""An exported model gives plain transformers, or PEFT, the probabilities of our scorer, by the code of its own card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_assets.models.kind import Export
from emotion_assets.models.registry import all_kinds, load_scorer
from emotion_assets.models.transformer.export import TEMPERATURE
from emotion_assets.settings.errors import DataError
from emotion_assets.storage.store import Store, StoredFolder
from emotion_assets_tests.worlds import tiny
from emotion_assets_tests.worlds.tiny import LABELS, trained

TEXTS = ["walk river stone", "cloud", "amber lantern quiet storm " * 40, "garden, copper and meadow"]


def export(model: StoredFolder, store: Store, target: Path, adapter: bool = False) -> Export:
    target.mkdir()
    kind = all_kinds()[model.read_json("model.json")["kind"]]
    return kind.export(model, store, target, 1.5, adapter)


def run_code(code: str, folder: Path, base: Path, temperature: float = 1.0) -> np.ndarray:
    """What the code of a card gives for ``TEXTS``, ``[texts, labels]``."""
    namespace: dict[str, Any] = {}
    code = code.replace('FOLDER = "."', f"FOLDER = {str(folder)!r}").replace("path/to/the/base", str(base))
    exec(compile(code, "card", "exec"), namespace)
    answers = [namespace["probabilities"](text, temperature) for text in TEXTS]
    assert [list(answer) for answer in answers] == [LABELS] * len(TEXTS)
    return np.array([list(answer.values()) for answer in answers])


CASES = [
    ("llama", {"objective": "instruction"}, "AutoModelForCausalLM"),
    ("llama", {"pooling": "last"}, "AutoModelForTokenClassification"),
    ("llama", {"pooling": "mean", "lora": {"train_embeddings": True}}, "AutoModelForTokenClassification"),
    ("llama", {"head": "transformers", "lora": {"use_dora": True}}, "AutoModelForSequenceClassification"),
    ("qwen3", {"head": "transformers"}, "AutoModelForSequenceClassification"),
    ("bert", {"method": "full", "pooling": "first"}, "AutoModelForSequenceClassification"),
    ("bert", {"method": "full", "head": "transformers"}, "AutoModelForSequenceClassification"),
    ("bert", {"pooling": "mean"}, "AutoModelForTokenClassification"),
    ("roberta", {"pooling": "first"}, "AutoModelForSequenceClassification"),
    ("roberta", {"method": "full", "head": "transformers"}, "AutoModelForSequenceClassification"),
    ("electra", {"method": "full", "pooling": "first"}, "AutoModelForTokenClassification"),
    ("electra", {"head": "transformers"}, "AutoModelForSequenceClassification"),
]


@pytest.mark.parametrize(("model_type", "settings", "loaded_by"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_plain_transformers_gives_the_probabilities_of_the_scorer(
    tmp_path: Path, model_type: str, settings: dict[str, Any], loaded_by: str
) -> None:
    store, base, model = trained(tmp_path, model_type, **settings)
    expected = load_scorer(model, store).score(TEXTS)
    made = export(model, store, tmp_path / "out")
    assert (made.library, made.loaded_by, made.format) == ("transformers", loaded_by, "float32")
    difference = np.abs(run_code(made.code, tmp_path / "out", base.path) - expected).max()
    assert difference < min(1e-5, 0.02 * expected.std(0).max())  # far less than what the texts differ by
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config[TEMPERATURE] == 1.5
    assert list(config["id2label"].values()) == LABELS
    calibrated = expected ** (1 / 1.5)
    calibrated /= calibrated.sum(1, keepdims=True)
    np.testing.assert_allclose(run_code(made.code, tmp_path / "out", base.path, 1.5), calibrated, atol=1e-5)


def test_embeddings_that_were_trained_are_not_tied_to_the_language_model_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny._WIDTHS, "tie_word_embeddings", True)
    for name, lora in (("tied", {}), ("trained", {"train_embeddings": True})):
        store, base, model = trained(tmp_path / name, objective="instruction", lora=lora)
        made = export(model, store, tmp_path / name / "out")
        expected = load_scorer(model, store).score(TEXTS)
        np.testing.assert_allclose(run_code(made.code, tmp_path / name / "out", base.path), expected, atol=1e-5)


ADAPTERS = [
    ("llama", {"objective": "instruction"}),
    ("llama", {"pooling": "max"}),
    ("llama", {"head": "transformers", "lora": {"use_rslora": True}}),
    ("bert", {"pooling": "first"}),
    ("roberta", {"head": "transformers"}),
]


@pytest.mark.parametrize(("model_type", "settings"), ADAPTERS, ids=[f"{c[0]}-{c[1]}" for c in ADAPTERS])
def test_peft_gives_the_probabilities_of_the_scorer_from_the_adapter_alone(
    tmp_path: Path, model_type: str, settings: dict[str, Any]
) -> None:
    store, base, model = trained(tmp_path, model_type, **settings)
    expected = load_scorer(model, store).score(TEXTS)
    made = export(model, store, tmp_path / "out", adapter=True)
    np.testing.assert_allclose(run_code(made.code, tmp_path / "out", base.path), expected, atol=1e-4)  # merged there
    content = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert content["base_model_name_or_path"] == "random"  # as the base's origin has it
    assert not list((tmp_path / "out").glob("model*.safetensors"))


def test_what_is_exported_names_no_path_of_this_machine_and_holds_no_pickle(tmp_path: Path) -> None:
    store, _, model = trained(tmp_path, objective="instruction")
    for name, adapter in (("merged", False), ("adapter", True)):
        export(model, store, tmp_path / name, adapter)
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}
        assert not [path for path in files if str(tmp_path).encode() in path.read_bytes()]


def test_a_pooling_that_transformers_lacks_is_refused_with_what_to_train_instead(tmp_path: Path) -> None:
    store, _, model = trained(tmp_path, pooling="max")
    with pytest.raises(
        DataError, match=r"no class that takes the maximum.*head: transformers or pooling: mean, or give"
    ):
        export(model, store, tmp_path / "out")


def test_a_model_without_an_adapter_says_so(tmp_path: Path) -> None:
    store, _, model = trained(tmp_path, "bert", method="full", pooling="first")
    with pytest.raises(DataError, match="it has no adapter"):
        export(model, store, tmp_path / "out", adapter=True)


def test_half_precision_is_exported_as_it_is_scored(tmp_path: Path) -> None:
    store, base, model = trained(tmp_path, objective="instruction", training={"epochs": 1, "precision": "bf16"})
    made = export(model, store, tmp_path / "out")
    assert made.format == "bfloat16"
    expected = load_scorer(model, store).score(TEXTS)
    np.testing.assert_allclose(run_code(made.code, tmp_path / "out", base.path), expected, atol=0.05)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "llama"])
def test_the_gradient_through_the_head_of_transformers_is_theirs(tmp_path: Path, model_type: str) -> None:
    """The loss and the gradient of one batch, against the class itself with its own padding and mask."""
    from transformers import AutoModelForSequenceClassification

    from emotion_assets.models.transformer.checkpoints import load_classifier
    from emotion_assets_tests.worlds.tiny import CPU, rows_of

    method = {"method": "lora" if model_type == "llama" else "full"}
    store, base, model = trained(tmp_path, model_type, head="transformers", **method)
    export(model, store, tmp_path / "out")
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    mine = load_classifier(model, base, CPU).requires_grad_(True)
    rows, labels = rows_of(6), torch.arange(6) % 3
    longest = max(map(len, rows))
    pad = theirs.config.pad_token_id
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    loss = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    summed, count = mine.loss(rows, labels)
    (summed / count).backward()
    torch.testing.assert_close(summed / count, loss, rtol=1e-4, atol=1e-5)
    one = theirs.get_input_embeddings().weight.grad
    two = mine.backbone.get_input_embeddings().weight.grad  # type: ignore[operator]
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-6)
    head = mine.head.out if hasattr(mine.head, "out") else mine.head
    reference = {"bert": "classifier.weight", "llama": "score.weight"}.get(model_type, "classifier.out_proj.weight")
    torch.testing.assert_close(head.weight.grad, theirs.get_parameter(reference).grad, rtol=1e-3, atol=1e-6)  # type: ignore[union-attr]
