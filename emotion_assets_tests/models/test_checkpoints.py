"""What a base checkpoint must hold before anything of it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from emotion_assets.models.transformer.checkpoints import check_checkpoint, load_backbone, save_config
from emotion_assets.models.transformer.classifier import ClassifierConfig
from emotion_assets.settings.errors import DataError
from emotion_assets_tests.worlds.tiny import CPU, base_folder, classifier_config_of, config_of

OLD_MODEL = {
    "method": "full",
    "objective": "head",
    "pooling": "mean",
    "labels": ["joy", "anger"],
    "max_length": 64,
    "base_digest": "d",
    "instruction": "",
    "answers": [],
    "quantization": "none",
    "precision": "auto",
    "attention": "auto",
    "kind": "transformer",
}
"""A ``model.json`` from before there were other heads and system prompts."""


def test_a_model_of_before_is_read_and_described_as_before(tmp_path: Path) -> None:
    """So that the same training gives the same digest, and what was made from it is found again."""
    config = ClassifierConfig(**OLD_MODEL)  # type: ignore[arg-type]
    assert (config.head, config.system) == ("linear", "")
    save_config(config, tmp_path)
    assert (tmp_path / "model.json").read_text(encoding="utf-8") == json.dumps(OLD_MODEL, indent=1)


def test_a_base_without_config_is_refused(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match=r"no config\.json; give a checkpoint folder"):
        check_checkpoint(folder)


def test_an_adapter_given_as_a_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="this is an adapter, not a base"):
        check_checkpoint(tmp_path)


def test_a_pickle_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin, a pickle.*convert"):
        check_checkpoint(folder)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"model\.safetensors: damaged"):
        check_checkpoint(folder)


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(DataError, match=r"model-00002\.safetensors: missing"):
        check_checkpoint(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"model\.safetensors\.index\.json: not an index"):
        check_checkpoint(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "t5"}'])
def test_a_config_that_is_none_or_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"config\.json: "):
        check_checkpoint(folder)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "camembert"])
def test_an_encoder_without_a_pooler_is_taken(tmp_path: Path, model_type: str) -> None:
    """Nothing reads the pooler, and checkpoints of masked language models have none."""
    from transformers import AutoModel

    AutoModel.from_config(config_of(model_type), add_pooling_layer=False).save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, classifier_config_of(method="full"), CPU)
    assert not [name for name, _ in backbone.named_parameters() if "pooler" in name]
