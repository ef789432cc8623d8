"""Base checkpoints and trained classifiers on disk: checked, loaded and saved, without pickle and without remote code.

Belongs here: what a checkpoint folder must hold before anything of it is loaded, and saving and loading a classifier.
Does not belong here: where a base checkpoint comes from (``bases``), the resume state of a training
(``training.resume``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.transformer.attention import (
    ATTENTION_NAME,
    Backend,
    choose_backend,
    register_packed_attention,
)
from emotion_assets.models.transformer.classifier import (
    CAUSAL_MODEL_TYPES,
    ENCODER_MODEL_TYPES,
    Classifier,
    ClassifierConfig,
)
from emotion_assets.models.transformer.fewer_kernels import launch_fewer_kernels
from emotion_assets.models.transformer.heads import load_pooler
from emotion_assets.models.transformer.lora import (
    add_adapters,
    cast_saved_modules_to_fp32,
    peft_reads_an_old_name,
    speed_up_adapters,
)
from emotion_assets.settings.errors import DataError
from emotion_assets.storage.store import StoredFolder
from emotion_assets.training.runtime import DEVICE, Runtime

ADAPTER, BACKBONE, HEAD = "adapter", "backbone", "head.safetensors"
WITH_POOLER = ("bert", "roberta", "xlm-roberta", "camembert")  # transformers adds a layer that nothing here reads
LATER_KEYS = {"head": "linear", "system": ""}
COMPILED = ("mlp", "input_layernorm", "post_attention_layernorm", "intermediate", "LayerNorm")


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """Check that ``from_pretrained`` can load a checkpoint folder safely; returns its config.json.

    Raises:
        DataError: config.json is missing or unreadable, its model_type is not supported, or the weights are missing,
            damaged or not safetensors.
    """
    config = read_config(folder)
    index = folder / "model.safetensors.index.json"
    shards = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{index}: not an index of weights (no weight_map); get the checkpoint again") from None
        if missing := sorted(names - {path.name for path in shards}):
            raise DataError(f"{folder / missing[0]}: missing, though {index.name} names it; get the checkpoint again")
    if not shards:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"))
        instead = f"only {pickles[0]}, a pickle, which can run code when it is read" if pickles else "none"
        raise DataError(f"{folder}: no safetensors weights (found {instead}); convert the checkpoint to safetensors")
    for path in shards:
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except SafetensorError as error:
            raise DataError(f"{path}: damaged ({str(error).splitlines()[0]}); get the checkpoint again") from None
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint of a supported ``model_type``.

    Raises:
        DataError: see ``check_checkpoint``.
    """
    path = folder / "config.json"
    if not path.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = "this is an adapter, not a base: give the checkpoint it was trained on" if adapter else ""
        raise DataError(f"{folder}: no config.json; {hint or 'give a checkpoint folder as from_pretrained takes it'}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not the config.json of a checkpoint (no model_type); get it again") from None
    supported = (*CAUSAL_MODEL_TYPES, *ENCODER_MODEL_TYPES)
    if model_type not in supported:
        raise DataError(f"{path}: model_type {model_type!r} is not supported; use a base of {', '.join(supported)}")
    return config  # type: ignore[no-any-return]


def new_classifier(
    base_folder: Path, model: TransformerModel, config: ClassifierConfig, runtime: Runtime, backend: Backend
) -> Classifier:
    """The untrained classifier on top of a base checkpoint, with new adapters and a new head."""
    backbone, problem = load_backbone(base_folder, config, runtime), ""
    if model.method == "lora":
        backbone = add_adapters(backbone, model.lora, causal_head=config.objective == "instruction")
        speed_up_adapters(backbone)
        if runtime.device.type == "cuda":
            problem = "parts are compiled" if model.compile else launch_fewer_kernels(backbone)
    if model.compile:
        compile_parts(backbone)
    classifier = Classifier(backbone, config, backend, model.head_dropout, model.embedding_dropout)
    if model.method == "lora" and runtime.device.type == "cuda":
        classifier.needs_autocast = bool(problem)
        classifier.step = f"adapter by adapter ({problem})" if problem else "in few kernels"
    load_pooler(classifier.head, base_folder, read_config(base_folder)["model_type"])
    return classifier.to(runtime.device)


def compile_parts(backbone: Any) -> None:
    """Compile the parts that do not depend on a batch's layout: norms and feed-forward layers."""
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] in COMPILED:
            module.compile(dynamic=True)


def load_backbone(folder: Path, config: ClassifierConfig, runtime: Runtime) -> Any:
    """A checkpoint as transformers loads it, with its language-model head for the objective ``instruction`` alone.

    Frozen weights are held in the number format of ``runtime``, or in four bits (QLoRA, Dettmers et al. 2023); weights
    that are trained are held in fp32.

    Raises:
        DataError: see ``check_checkpoint``; the weights do not fill the model that config.json describes; or four bits
            are asked for and bitsandbytes is not installed.
    """
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    model_type = check_checkpoint(folder)["model_type"]
    register_packed_attention()
    loader: Any = AutoModelForCausalLM if config.objective == "instruction" else AutoModel
    extra: dict[str, Any] = {"add_pooling_layer": False} if model_type in WITH_POOLER else {}
    if runtime.device.type != "cpu":
        extra["device_map"] = {"": runtime.device}  # shard by shard: no second copy in the host's memory
    if config.quantization == "nf4":
        extra["quantization_config"] = _four_bit_config(runtime)
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # no warning that the language-model head is left out
    try:
        backbone, loading_info = loader.from_pretrained(
            folder,
            dtype=torch.float32 if config.method == "full" else runtime.dtype,
            attn_implementation=ATTENTION_NAME,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **extra,
        )
    finally:
        logging.set_verbosity(verbosity)
    mismatched = sorted(str(key[0] if isinstance(key, tuple) else key) for key in loading_info["mismatched_keys"])
    if mismatched:
        raise DataError(f"{folder}: {mismatched[0]} has another size than config.json says; get the checkpoint again")
    if missing := sorted(loading_info["missing_keys"]):  # transformers would use random ones
        raise DataError(f"{folder}: holds no weights for {missing[0]} ({len(missing)} missing); get a whole checkpoint")
    return backbone


def _four_bit_config(runtime: Runtime) -> Any:
    import importlib.util

    from transformers import BitsAndBytesConfig

    if runtime.device.type == "mps":
        raise DataError(f"quantization: nf4 is not for Apple's GPU; take it out, or set {DEVICE}=cpu")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise DataError("quantization: nf4 needs bitsandbytes; pip install 'emotion_assets[gpu]', or take it out")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=runtime.dtype,
    )


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Save the adapters or the whole backbone, the head, and the config; all weights as safetensors."""
    backbone: Any = classifier.backbone
    if classifier.config.method == "lora":
        backbone.save_pretrained(folder / ADAPTER, safe_serialization=True)
        for readme in (folder / ADAPTER).glob("*.md"):
            readme.unlink()
        file = folder / ADAPTER / "adapter_config.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content["base_model_name_or_path"] = None  # the base is found by its digest, not by a path on this machine
        if isinstance(content["target_modules"], list):
            content["target_modules"].sort()  # PEFT writes a set: the same model would have another digest every time
        file.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    else:
        backbone.save_pretrained(folder / BACKBONE)
    if classifier.head is not None:
        save_file({k: v.detach().cpu().contiguous() for k, v in classifier.head.state_dict().items()}, folder / HEAD)
    save_config(classifier.config, folder)


def save_config(config: ClassifierConfig, folder: Path) -> None:
    """Write what rebuilds the classifier as ``model.json``; keys that came later are left out while unused, so that
    the same model has the same digest as before."""
    content = {key: value for key, value in vars(config).items() if value != LATER_KEYS.get(key, ...)}
    (folder / "model.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_classifier(model: StoredFolder, base: StoredFolder | None, runtime: Runtime) -> Classifier:
    """The classifier for scoring: in evaluation mode, adapters merged into the base's weights (not into four-bit ones).

    Args:
        base: the base checkpoint that adapters were trained on, or that is untuned; None for a model whose weights were
            all trained.

    Raises:
        DataError: the adapters were trained on another base, or their weights are not safetensors.
    """
    config = ClassifierConfig(**model.read_json("model.json"))
    backend = choose_backend(config.attention, runtime)
    if config.method == "full":
        backbone = load_backbone(model.file(BACKBONE), config, runtime)
    else:
        assert base is not None
        if config.base_digest != base.digest:
            raise DataError(
                f"{model.file(ADAPTER)}: trained on the base {config.base_digest[:12]}, not on {base.version}; give it "
                "the base it was trained on, or train it again"
            )
        backbone = load_backbone(base.path, config, runtime)
        if config.method == "lora":
            backbone = _with_adapters(backbone, model, merge=config.quantization == "none")
    classifier = Classifier(backbone, config, backend)
    if classifier.head is not None:
        classifier.head.load_state_dict(load_file(model.file(HEAD)))
    return classifier.to(runtime.device).eval()


def _with_adapters(backbone: Any, model: StoredFolder, merge: bool) -> Any:
    from peft import PeftModel, set_peft_model_state_dict

    weights = model.file(ADAPTER) / "adapter_model.safetensors"
    if not weights.is_file():
        raise DataError(f"{weights}: missing (an adapter_model.bin is a pickle and not read); train the model again")
    with peft_reads_an_old_name():
        adapted: Any = cast_saved_modules_to_fp32(PeftModel.from_pretrained(backbone, model.file(ADAPTER)))
    set_peft_model_state_dict(adapted, load_file(weights))  # again: a copy in half precision has rounded them
    if merge:
        return adapted.merge_and_unload()
    speed_up_adapters(adapted)
    return adapted
