"""A trained classifier as a folder that plain transformers loads, or its adapter alone as PEFT loads it.

transformers has a class for the same computation in three cases: the objective ``instruction`` is its causal model; the
heads of ``heads.DenseHead``, and a linear one behind an encoder's first token, are its model for sequence
classification; any other linear head with a bias, its model for token classification, whose scores at the last token,
or in the mean over tokens, are ours: both are linear. None takes a maximum over tokens.

Belongs here: which class it is, its weights and its config. Does not belong here: the code that reads it (``usage``),
figures and the model card (``cli.model_export``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from emotion_assets.models.kind import Export
from emotion_assets.models.transformer import usage
from emotion_assets.models.transformer.checkpoints import ADAPTER, HEAD, load_classifier, read_config
from emotion_assets.models.transformer.classifier import Classifier, ClassifierConfig, without_shared_end
from emotion_assets.models.transformer.heads import names_in_transformers
from emotion_assets.models.transformer.tokens import TOKENIZER_FOLDER, load_tokenizer, max_text_tokens
from emotion_assets.settings.errors import DataError
from emotion_assets.storage.store import Store, StoredFolder
from emotion_assets.training.runtime import choose_runtime, describe_dtype

TEMPERATURE = "calibration_temperature"
PLAIN_TEMPLATE = "{{ bos_token or '' }}{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"
WITH_POOLER = ("bert", "roberta", "xlm-roberta", "camembert")  # their heads end in tanh, which small values pass as is
IDENTITY_SCALE = 2.0**-14


def export_model(model: StoredFolder, store: Store, target: Path, temperature: float, adapter: bool) -> Export:
    """See ``Kind.export``.

    The weights are in the number format in which this machine scores the model, and adapters are merged as for scoring:
    the probabilities are the scorer's but for rounding.
    """
    config = ClassifierConfig(**model.read_json("model.json"))
    base = None if config.method == "full" else store.open("base_models", config.base_digest)
    origin = _hub_name(model.info["base"])
    if adapter:
        return _export_adapter(model, base, config, target, temperature, origin)
    if config.quantization != "none":
        raise DataError("its base is in four bits, which no adapter is merged into unchanged; give --adapter too")
    if config.pooling == "max" and config.objective == "head":
        instead = "" if config.method == "full" else ", or give --adapter too"
        raise DataError(
            "transformers has no class that takes the maximum over tokens (pooling: max); train it with head: "
            f"transformers or pooling: mean{instead}"
        )
    classifier = load_classifier(model, base, choose_runtime(config.precision))
    loaded_by = _class_of(config, classifier)
    _save_merged(classifier, loaded_by, target, _facts(config, model, temperature))
    _save_tokenizer(model, config, target)
    dtype = describe_dtype(next(classifier.backbone.parameters()).dtype)
    return Export("transformers", loaded_by, usage.merged(loaded_by, config), dtype, origin)


def _class_of(config: ClassifierConfig, classifier: Classifier) -> str:
    if config.objective == "instruction":
        return "AutoModelForCausalLM"
    base: Any = classifier.backbone.config
    first_token = config.pooling == "first" and base.model_type in WITH_POOLER
    sequence = config.head == "transformers" or first_token
    return "AutoModelForSequenceClassification" if sequence else "AutoModelForTokenClassification"


def _facts(config: ClassifierConfig, model: StoredFolder, temperature: float) -> dict[str, Any]:
    """What the exported config says besides what transformers itself keeps there."""
    facts: dict[str, Any] = {
        "id2label": dict(enumerate(config.labels)),
        "label2id": {label: i for i, label in enumerate(config.labels)},
        TEMPERATURE: temperature,
    }
    if config.objective == "head":
        return facts | {"pooling": config.pooling}
    tokenizer = load_tokenizer(model.file(TOKENIZER_FOLDER))
    return facts | {
        "system": config.system,
        "instruction": config.instruction,
        "answers": without_shared_end(config.answers),
        "max_text_tokens": max_text_tokens(tokenizer, config.instruction, config.max_length, config.system),
    }


def _save_merged(classifier: Classifier, loaded_by: str, target: Path, facts: Mapping[str, Any]) -> None:
    import transformers

    backbone: Any = classifier.backbone
    settings = type(backbone.config).from_dict(backbone.config.to_dict())
    for key, value in facts.items():
        setattr(settings, key, value)
    if classifier.head is None:  # embeddings that were trained do not share the weights of the language-model head
        settings.tie_word_embeddings = backbone.get_output_embeddings().weight is backbone.get_input_embeddings().weight
    with torch.device("meta"):  # no second copy of the weights
        model: Any = getattr(transformers, loaded_by).from_config(settings)
    state = dict(backbone.state_dict())
    if classifier.head is not None:
        prefix = model.base_model_prefix
        state = {f"{prefix}.{name}": weight for name, weight in state.items()}
        state |= {name: w.to(backbone.dtype) for name, w in _head_weights(classifier, model).items()}
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    if classifier.head is None:
        model.generation_config = backbone.generation_config
    model.save_pretrained(target)


def _head_weights(classifier: Classifier, model: Any) -> dict[str, torch.Tensor]:
    """The head by the names it has in transformers."""
    assert classifier.head is not None
    config, model_type = classifier.config, model.config.model_type
    head = classifier.head.state_dict()
    if config.head == "transformers":
        return names_in_transformers(head, model_type)
    if type(model).__name__.endswith("ForTokenClassification"):
        part = "score" if classifier.causal else "classifier"
        return {f"{part}.{name}": weight for name, weight in head.items()}
    width = head["weight"].shape[1]
    dense = {"dense.weight": torch.eye(width) * IDENTITY_SCALE, "dense.bias": torch.zeros(width)}
    out = {"out.weight": head["weight"] / IDENTITY_SCALE, "out.bias": head["bias"]}
    return names_in_transformers(dense | out, model_type)


def _save_tokenizer(model: StoredFolder, config: ClassifierConfig, target: Path) -> None:
    tokenizer = load_tokenizer(model.file(TOKENIZER_FOLDER))
    tokenizer.model_max_length = config.max_length
    tokenizer.padding_side = "right"
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if config.objective == "instruction" and not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
    tokenizer.save_pretrained(target)


def _export_adapter(
    model: StoredFolder,
    base: StoredFolder | None,
    config: ClassifierConfig,
    target: Path,
    temperature: float,
    origin: tuple[str, str] | None,
) -> Export:
    if config.method != "lora" or base is None:
        raise DataError("it has no adapter: all or none of its weights were trained; leave --adapter out")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(model.file(ADAPTER) / name, target / name)
    file = target / "adapter_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["base_model_name_or_path"], content["revision"] = origin or (model.info["base"], None)
    file.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    if config.objective == "head":
        save_file(load_file(model.file(HEAD)), target / HEAD)
    _save_tokenizer(model, config, target)
    facts = {key: value for key, value in _facts(config, model, temperature).items() if key != "label2id"}
    (target / usage.FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    dtype = describe_dtype(choose_runtime(config.precision).dtype)
    code = usage.adapter(config, read_config(base.path)["model_type"], origin, dtype)
    return Export("peft", "PeftModel", code, describe_dtype(torch.float32), origin)


def _hub_name(origin: str) -> tuple[str, str] | None:
    """Repository and revision of a base that came from the Hub."""
    repository, _, revision = origin.partition("@")
    return (repository, revision) if len(revision) == 40 else None
