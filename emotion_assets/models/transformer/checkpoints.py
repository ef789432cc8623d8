"""Base checkpoints and classifiers on disk: checked, loaded and saved, without pickle and without foreign code.

Belongs here: what a folder must hold before anything of it is loaded, and the round trip of a classifier. Does not
belong here: where a base comes from (``bases``), the resumable state of a training (``resume``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from emotion_assets.models.transformer.attention import NAME, Backend, choose_backend, register
from emotion_assets.models.transformer.classifier import CAUSAL_MODEL_TYPES, ENCODER_MODEL_TYPES, Classifier, Shape
from emotion_assets.models.transformer.lora import add_adapters, hold_copies_in_fp32, speed_up
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import TransformerModel
from emotion_assets.storage.store import StoredFolder
from emotion_assets.training.runtime import Runtime

ADAPTER, BACKBONE, HEAD = "adapter", "backbone", "head.safetensors"
COMPILED = ("mlp", "input_layernorm", "post_attention_layernorm", "intermediate", "LayerNorm")


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """Refuse a folder that ``from_pretrained`` could not take safely; returns its config.json.

    Raises:
        DataError: no readable config.json, a kind of model this code does not drive, weights that are missing, damaged
            or not safetensors.
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
        found = f"only {pickles[0]}, a pickle, which can run code when it is read" if pickles else "none"
        raise DataError(f"{folder}: no safetensors weights (found {found}); convert the checkpoint to safetensors")
    for path in shards:
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except SafetensorError as error:
            raise DataError(f"{path}: damaged ({str(error).splitlines()[0]}); get the checkpoint again") from None
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint of a kind that this code drives.

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
        kind = config["model_type"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not the config.json of a checkpoint (no model_type); get it again") from None
    known = (*CAUSAL_MODEL_TYPES, *ENCODER_MODEL_TYPES)
    if kind not in known:
        raise DataError(f"{path}: model_type {kind!r} is not supported; use a base of {', '.join(known)}")
    return config  # type: ignore[no-any-return]


def new_classifier(
    base_folder: Path, model: TransformerModel, shape: Shape, runtime: Runtime, backend: Backend
) -> Classifier:
    """The untrained classifier on top of a base checkpoint, adapters and head fresh."""
    backbone = load_backbone(base_folder, shape, runtime)
    if model.method == "lora":
        backbone = add_adapters(backbone, model.lora, causal_head=shape.objective == "instruction")
        speed_up(backbone)
    if model.compile:
        compile_parts(backbone)
    classifier = Classifier(backbone, shape, backend, model.head_dropout, model.embedding_dropout)
    return classifier.to(runtime.device)


def compile_parts(backbone: Any) -> None:
    """Compile what is the same for every batch layout: norms and feed-forward parts, for any number of tokens."""
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] in COMPILED:
            module.compile(dynamic=True)


def load_backbone(folder: Path, shape: Shape, runtime: Runtime) -> Any:
    """A checkpoint as transformers loads it: with its language-model head for ``instruction``, bare for ``head``.

    A frozen base is held in the format it computes in, or in four bits (Dettmers et al. 2023); weights that are trained
    are held in fp32.

    Raises:
        DataError: see ``check_checkpoint``; the weights do not fill the model that config.json describes; or four bits
            are asked for and bitsandbytes is not there.
    """
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    config = check_checkpoint(folder)
    register()
    loader: Any = AutoModelForCausalLM if shape.objective == "instruction" else AutoModel
    extra = {"add_pooling_layer": False} if config["model_type"] in ("bert", "roberta", "xlm-roberta") else {}
    if shape.quantization == "nf4":
        extra["quantization_config"] = _four_bits(runtime)
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()  # milliseconds, for a checkpoint on the disk
    logging.set_verbosity_error()  # the language-model head left out is not worth a warning
    try:
        backbone, found = loader.from_pretrained(
            folder,
            dtype=runtime.dtype if shape.method == "lora" else torch.float32,
            attn_implementation=NAME,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **extra,
        )
    finally:
        logging.set_verbosity(verbosity)
    if others := sorted(str(key[0] if isinstance(key, tuple) else key) for key in found["mismatched_keys"]):
        raise DataError(f"{folder}: {others[0]} has another size than config.json says; get the checkpoint again")
    if missing := sorted(found["missing_keys"]):  # transformers would go on with random ones
        raise DataError(f"{folder}: holds no weights for {missing[0]} ({len(missing)} missing); get a whole checkpoint")
    return backbone


def _four_bits(runtime: Runtime) -> Any:
    import importlib.util

    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise DataError("quantization: nf4 needs bitsandbytes; pip install 'emotion_assets[gpu]', or take it out")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=runtime.dtype,
    )


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Adapters or backbone, head and shape; all weights as safetensors."""
    backbone: Any = classifier.backbone
    if classifier.shape.method == "lora":
        backbone.save_pretrained(folder / ADAPTER, safe_serialization=True)
        for readme in (folder / ADAPTER).glob("*.md"):
            readme.unlink()
        config = folder / ADAPTER / "adapter_config.json"  # the base is found by its digest, not by this machine's path
        content = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": None}
        config.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    else:
        backbone.save_pretrained(folder / BACKBONE)
    if classifier.head is not None:
        save_file({k: v.detach().cpu().contiguous() for k, v in classifier.head.state_dict().items()}, folder / HEAD)
    (folder / "model.json").write_text(json.dumps(vars(classifier.shape), indent=1), encoding="utf-8")


def load_classifier(model: StoredFolder, base: StoredFolder | None, runtime: Runtime) -> Classifier:
    """The trained classifier as it was saved, in evaluation mode; ``base`` is needed by adapters alone.

    Raises:
        DataError: the adapters were trained on another base, or their weights are not safetensors.
    """
    shape = Shape(**model.read_json("model.json"))
    backend = choose_backend(shape.attention, runtime)
    if shape.method == "lora":
        from peft import PeftModel, set_peft_model_state_dict

        assert base is not None
        if shape.base_digest != base.digest:
            raise DataError(
                f"{model.file(ADAPTER)}: trained on the base {shape.base_digest[:12]}, not on {base.version}; give it "
                "the base it was trained on, or train it again"
            )
        weights = model.file(ADAPTER) / "adapter_model.safetensors"
        if not weights.is_file():
            raise DataError(
                f"{weights}: missing (an adapter_model.bin is a pickle and not read); train the model again"
            )
        backbone = load_backbone(base.path, shape, runtime)
        backbone = hold_copies_in_fp32(PeftModel.from_pretrained(backbone, model.file(ADAPTER)))
        set_peft_model_state_dict(backbone, load_file(weights))  # again: a copy in half precision has rounded them
        speed_up(backbone)
    else:
        backbone = load_backbone(model.file(BACKBONE), shape, runtime)
    classifier = Classifier(backbone, shape, backend)
    if classifier.head is not None:
        classifier.head.load_state_dict(load_file(model.file(HEAD)))
    return classifier.to(runtime.device).eval()
