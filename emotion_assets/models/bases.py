"""Base checkpoints: resolved from the Hub or a folder, or built small and pre-trained on the training texts here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from emotion_assets.models.transformer.attention import ATTENTION_NAME, choose_backend, register_packed_attention
from emotion_assets.models.transformer.batches import make_batch
from emotion_assets.models.transformer.checkpoints import check_checkpoint, read_config
from emotion_assets.models.transformer.classifier import first_position
from emotion_assets.models.transformer.memory import check_memory
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import (
    Architecture,
    BaseSettings,
    FolderSource,
    HubSource,
    PretrainedHere,
    TransformerModel,
)
from emotion_assets.storage.hub import download_checkpoint, hub_problem
from emotion_assets.storage.store import MANIFEST
from emotion_assets.training import distributed
from emotion_assets.training.progress import Report, TrainingHistory
from emotion_assets.training.resume import ResumeState
from emotion_assets.training.runtime import choose_runtime, set_seed
from emotion_assets.training.trainer import Trainer, TrainingTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def resolve_checkpoint(
    base: BaseSettings, name: str, target: Path, models: Mapping[str, TransformerModel]
) -> dict[str, Any]:
    """Put the checkpoint of a Hub repository or folder into ``target`` and return what is known of it.

    Args:
        models: those that are to be trained on this base; the memory they need is looked at before a download.

    Raises:
        DataError: the Hub cannot give it, the folder is no safetensors checkpoint, or the memory is too small.
    """
    if isinstance(base.source, HubSource):
        source = base.source
        if problem := hub_problem(source.hub, source.revision, gated=source.gated, weights=True):
            raise DataError(f"bases.{name}: {source.hub}: {problem}")
        if models:
            config = read_config(download_checkpoint(source.hub, source.revision, weights=False))
            check_memory(config, models, choose_runtime())
        folder, origin = download_checkpoint(source.hub, source.revision), f"{source.hub}@{source.revision}"
    else:
        assert isinstance(base.source, FolderSource)
        folder = base.source.folder
        origin = folder.name
    check_checkpoint(folder)
    for path in sorted(folder.iterdir()):
        wanted = path.suffix in (".json", ".txt", ".model", ".safetensors") or path.name.startswith("LICENSE")
        if wanted and path.name != MANIFEST:  # a folder of a store may be a source too; each store writes its own
            _link_or_copy(path.resolve(), target / path.name)
    return {"origin": origin, **_describe(target)}


def pretrain(
    base: PretrainedHere,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    max_length: int,
    seed: int,
    target: Path,
    stage: str,
    report: Report,
    checkpoint: ResumeState | None = None,
) -> tuple[dict[str, Any], TrainingHistory]:
    """Build the architecture with random weights, train it on token ids, save it as a checkpoint folder.

    A Llama learns to predict the next token; BERT and RoBERTa learn to fill in masked tokens (a share ``mask_share``
    of them: 80% masked, 10% replaced, 10% kept; Devlin et al. 2019).
    """
    set_seed(seed)
    register_packed_attention()
    runtime = choose_runtime(base.pretrain.precision)
    model: Any = build(base.build, tokenizer, max_length)
    model.to(runtime.device)
    model.set_attn_implementation(ATTENTION_NAME)
    backend = choose_backend("auto", runtime)
    rows = [row for row in rows if len(row) > 1]
    causal = base.build.model_type == "llama"
    special = torch.tensor(sorted(tokenizer.all_special_ids))

    def next_token_loss(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        batch = make_batch([rows[i] for i in chosen], runtime.device, causal=True)
        hidden = model.model(**batch.inputs, layout=batch.layout, backend=backend, use_cache=False).last_hidden_state[0]
        ids = batch.inputs["input_ids"][0]
        ends = torch.tensor(batch.lengths).cumsum(0) - 1
        keep = torch.ones(len(ids), dtype=torch.bool)
        keep[ends] = False
        places = keep.nonzero().squeeze(1).to(runtime.device)
        logits = model.lm_head(hidden[places])
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[places + 1], reduction="sum")
        return loss, len(places)

    def masked_token_loss(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        batch = make_batch([rows[i] for i in chosen], runtime.device, False, first_position(model.config))
        ids = batch.inputs["input_ids"][0].cpu()
        candidates = ~torch.isin(ids, special)
        picked = candidates & (torch.rand(ids.shape) < base.mask_share)
        if not picked.any():
            picked = candidates
        fate = torch.rand(ids.shape)
        seen = torch.where(picked & (fate < 0.8), tokenizer.mask_token_id, ids)
        random_ids = torch.randint(len(tokenizer), ids.shape)
        seen = torch.where(picked & (fate >= 0.8) & (fate < 0.9), random_ids, seen)
        inputs = batch.inputs | {"input_ids": seen[None].to(runtime.device)}
        encoder = getattr(model, model.base_model_prefix)
        hidden = encoder(**inputs, layout=batch.layout, backend=backend).last_hidden_state[0][picked.to(runtime.device)]
        head = model.cls if hasattr(model, "cls") else model.lm_head
        loss = torch.nn.functional.cross_entropy(head(hidden).float(), ids[picked].to(runtime.device), reduction="sum")
        return loss, int(picked.sum())

    loss_of = next_token_loss if causal else masked_token_loss
    task = TrainingTask(stage, model, len(rows), loss_of)
    fitted = Trainer(task, base.pretrain, runtime, seed).fit(report, checkpoint)
    if not distributed.is_first():
        return {}, fitted
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
