"""Base checkpoints: resolved from the Hub or a folder, or built small and pre-trained on the training texts here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from emotion_assets.ml.batches import make_batch
from emotion_assets.ml.datasets import DataError
from emotion_assets.ml.fitting import Fitted, Report, fit
from emotion_assets.ml.hub import download_checkpoint, hub_problem
from emotion_assets.ml.runtime import choose_runtime, set_seed
from emotion_assets.settings import Architecture, BaseSettings, FolderSource, HubSource, PretrainedHere

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CAUSAL_MODEL_TYPES = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "smollm3"}


def resolve_checkpoint(base: BaseSettings, name: str, target: Path) -> dict[str, Any]:
    """Put the checkpoint of a Hub repository or folder into ``target`` and return what is known of it.

    Raises:
        DataError: the Hub cannot give it, or the folder is no safetensors checkpoint.
    """
    if isinstance(base.source, HubSource):
        source = base.source
        if problem := hub_problem(source.hub, source.revision, gated=source.gated):
            raise DataError(f"bases.{name}: {source.hub}: {problem}")
        folder, origin = download_checkpoint(source.hub, source.revision), f"{source.hub}@{source.revision}"
    else:
        assert isinstance(base.source, FolderSource)
        folder = base.source.folder
        origin = folder.name
    check_checkpoint(folder)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".txt", ".model", ".safetensors") or path.name.startswith("LICENSE"):
            _link_or_copy(path.resolve(), target / path.name)
    return {"origin": origin, **_describe(target)}


def check_checkpoint(folder: Path) -> None:
    """Refuse a folder that ``from_pretrained`` could not take safely.

    Raises:
        DataError: no config.json, or weights that are not safetensors.
    """
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: no config.json; give a checkpoint folder as from_pretrained takes it")
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.glob("*.bin"))
        found = f"only {pickles[0]}, a pickle" if pickles else "none"
        raise DataError(f"{folder}: no safetensors weights (found {found}); convert the checkpoint to safetensors")


def pretrain(
    base: PretrainedHere,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    max_length: int,
    seed: int,
    target: Path,
    stage: str,
    report: Report,
) -> tuple[dict[str, Any], Fitted]:
    """Build the architecture with random weights, train it on token ids, save it as a checkpoint folder.

    A Llama learns to predict the next token; BERT and RoBERTa learn to fill in masked tokens (a share ``mask_share``
    of them: 80% masked, 10% replaced, 10% kept; Devlin et al. 2019).
    """
    set_seed(seed)
    runtime = choose_runtime(base.pretrain.precision)
    model = build(base.build, tokenizer, max_length).to(runtime.device)
    rows = [row for row in rows if len(row) > 1]
    causal = base.build.model_type == "llama"
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor(sorted(tokenizer.all_special_ids))

    def next_token_loss(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        batch = make_batch([rows[i] for i in chosen], True, 0, runtime.device)
        hidden = model.model(**batch.inputs, use_cache=False).last_hidden_state[0]
        ids = batch.inputs["input_ids"][0]
        ends = torch.tensor(batch.lengths).cumsum(0) - 1
        keep = torch.ones(len(ids), dtype=torch.bool)
        keep[ends] = False
        places = keep.nonzero().squeeze(1).to(runtime.device)
        logits = model.lm_head(hidden[places])
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[places + 1], reduction="sum")
        return loss, len(places)

    def masked_token_loss(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        batch = make_batch([rows[i] for i in chosen], False, tokenizer.pad_token_id, torch.device("cpu"))
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
        candidates = mask & ~torch.isin(ids, special)
        picked = candidates & (torch.rand(ids.shape, generator=generator) < base.mask_share)
        if not picked.any():
            picked = candidates
        fate = torch.rand(ids.shape, generator=generator)
        random_ids = torch.randint(len(tokenizer), ids.shape, generator=generator)
        seen = torch.where(picked & (fate < 0.8), tokenizer.mask_token_id, ids)
        seen = torch.where(picked & (fate >= 0.8) & (fate < 0.9), random_ids, seen)
        inputs = {"input_ids": seen.to(runtime.device), "attention_mask": mask.long().to(runtime.device)}
        encoder = getattr(model, model.base_model_prefix)
        hidden = encoder(**inputs).last_hidden_state[picked.to(runtime.device)]
        head = model.cls if hasattr(model, "cls") else model.lm_head
        loss = torch.nn.functional.cross_entropy(head(hidden).float(), ids[picked].to(runtime.device), reduction="sum")
        return loss, int(picked.sum())

    loss_of = next_token_loss if causal else masked_token_loss
    fitted = fit(model, len(rows), loss_of, base.pretrain, runtime, seed, stage, report)
    model.to("cpu").save_pretrained(target)
    tokenizer.save_pretrained(target)
    return {"origin": f"{base.build.model_type} pre-trained here", **_describe(target)}, fitted


def build(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, max_length: int) -> PreTrainedModel:
    """The untrained model: Llama with RoPE, grouped-query attention and SwiGLU, or a BERT or RoBERTa encoder."""
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        LlamaConfig,
        LlamaForCausalLM,
        RobertaConfig,
        RobertaForMaskedLM,
    )

    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "intermediate_size": architecture.intermediate_size,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if architecture.model_type == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                **common,
                num_key_value_heads=architecture.key_value_heads or architecture.heads,
                max_position_embeddings=max_length,
                tie_word_embeddings=True,
            )
        )
    common["tie_word_embeddings"] = True
    if architecture.model_type == "bert":
        return BertForMaskedLM(BertConfig(**common, max_position_embeddings=max_length))
    positions = max_length + tokenizer.pad_token_id + 1  # RoBERTa counts positions from pad_token_id + 1
    return RobertaForMaskedLM(RobertaConfig(**common, max_position_embeddings=positions, type_vocab_size=1))


def _describe(folder: Path) -> dict[str, Any]:
    from safetensors import safe_open
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    parameters = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (a safetensors file is not a dict)
                size = 1
                for width in file.get_slice(name).get_shape():
                    size *= width
                parameters += size
    return {"model_type": config.model_type, "parameters": parameters, "vocab_size": config.vocab_size}


def _link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system allows it (no second copy of 16 GB), else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
