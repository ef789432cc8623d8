"""Build a small base checkpoint with random weights and pre-train it on the training texts; no labels are seen.

A Llama learns to predict the next token; BERT and RoBERTa learn to fill in masked tokens (80% of the chosen ones
masked, 10% replaced, 10% kept; Devlin et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from emotion_assets.models.bases import describe_checkpoint
from emotion_assets.models.kind import TrainingRun
from emotion_assets.models.transformer.attention import ATTENTION_NAME, choose_backend, register_packed_attention
from emotion_assets.models.transformer.batches import make_batch
from emotion_assets.models.transformer.classifier import first_position
from emotion_assets.models.transformer.tokens import TOKENIZER_FOLDER, load_tokenizer, read_tokens
from emotion_assets.settings.schema import Architecture, PretrainedHere
from emotion_assets.training import distributed
from emotion_assets.training.runtime import Runtime, choose_runtime, set_seed
from emotion_assets.training.trainer import Trainer, TrainingTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def pretrain(base: PretrainedHere, run: TrainingRun) -> dict[str, Any]:
    """Build the architecture, train it on the stored ``tokens`` and save it as a checkpoint folder.

    Returns what is known of the checkpoint, its training curve included.
    """
    tokens = run.inputs["tokens"]
    tokenizer = load_tokenizer(tokens.file(TOKENIZER_FOLDER))
    rows = [row for row in read_tokens(tokens, "train")[0] if len(row) > 1]
    set_seed(run.seed)
    register_packed_attention()
    runtime = choose_runtime(base.pretrain.precision)
    model: Any = build_model(base.build, tokenizer, tokens.read_json("tokens.json")["max_length"])
    model.to(runtime.device)
    model.set_attn_implementation(ATTENTION_NAME)
    loss: _NextToken | _MaskedTokens
    if base.build.model_type == "llama":
        loss = _NextToken(model, rows, runtime)
    else:
        loss = _MaskedTokens(model, rows, runtime, tokenizer, base.mask_share)
    task = TrainingTask(run.name, model, len(rows), loss)
    history = Trainer(task, base.pretrain, runtime, run.seed).fit(run.report, run.resume_state)
    measured = {"train_seconds": history.seconds, "curve": history.as_dict()}
    if not distributed.is_first():
        return measured
    model.to("cpu").save_pretrained(run.target)
    tokenizer.save_pretrained(run.target)
    return {"origin": f"{base.build.model_type} pre-trained here", **describe_checkpoint(run.target), **measured}


class _NextToken:
    """Summed cross entropy of each token after the first of its row."""

    def __init__(self, model: Any, rows: Sequence[Sequence[int]], runtime: Runtime) -> None:
        self.model, self.rows, self.device = model, rows, runtime.device
        self.backend = choose_backend("auto", runtime)

    def __call__(self, chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        batch = make_batch([self.rows[i] for i in chosen], self.device, causal=True)
        out = self.model.model(**batch.inputs, layout=batch.layout, backend=self.backend, use_cache=False)
        ids = batch.inputs["input_ids"][0]
        ends = torch.tensor(batch.lengths).cumsum(0) - 1
        keep = torch.ones(len(ids), dtype=torch.bool)
        keep[ends] = False
        places = keep.nonzero().squeeze(1).to(self.device)
        logits = self.model.lm_head(out.last_hidden_state[0][places])
        return cross_entropy(logits.float(), ids[places + 1], reduction="sum"), len(places)


class _MaskedTokens:
    """Summed cross entropy of the tokens that were chosen to be filled in, a share ``mask_share`` of all."""

    def __init__(
        self,
        model: Any,
        rows: Sequence[Sequence[int]],
        runtime: Runtime,
        tokenizer: PreTrainedTokenizerBase,
        mask_share: float,
    ) -> None:
        self.model, self.rows, self.device = model, rows, runtime.device
        self.backend = choose_backend("auto", runtime)
        self.tokenizer, self.mask_share = tokenizer, mask_share
        self.special = torch.tensor(sorted(tokenizer.all_special_ids))

    def __call__(self, chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        rows = [self.rows[i] for i in chosen]
        batch = make_batch(rows, self.device, False, first_position(self.model.config))
        ids = batch.inputs["input_ids"][0].cpu()
        candidates = ~torch.isin(ids, self.special)
        picked = candidates & (torch.rand(ids.shape) < self.mask_share)
        if not picked.any():
            picked = candidates
        fate = torch.rand(ids.shape)
        seen = torch.where(picked & (fate < 0.8), self.tokenizer.mask_token_id, ids)
        random_ids = torch.randint(len(self.tokenizer), ids.shape)
        seen = torch.where(picked & (fate >= 0.8) & (fate < 0.9), random_ids, seen)
        inputs = batch.inputs | {"input_ids": seen[None].to(self.device)}
        encoder = getattr(self.model, self.model.base_model_prefix)
        out = encoder(**inputs, layout=batch.layout, backend=self.backend)
        hidden = out.last_hidden_state[0][picked.to(self.device)]
        head = self.model.cls if hasattr(self.model, "cls") else self.model.lm_head
        loss = cross_entropy(head(hidden).float(), ids[picked].to(self.device), reduction="sum")
        return loss, int(picked.sum())


def build_model(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, max_length: int) -> PreTrainedModel:
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
