"""The transformer classifier: a backbone with a classification head, or one that answers with a label word.

Both objectives (``head`` and ``instruction``) end in log-probabilities of the labels, so nothing downstream asks which
one was used.

Belongs here: probabilities and losses from token ids. Does not belong here: saving and loading (``checkpoints``), LoRA
(``lora``), the training loop (``training.trainer``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from emotion_assets.models.transformer.attention import Backend
from emotion_assets.models.transformer.batches import Batch, common_prefix, pack_rows
from emotion_assets.models.transformer.heads import new_head
from emotion_assets.models.transformer.last_layer import narrow_last_layer
from emotion_assets.settings.errors import DataError
from emotion_assets.training.loss import summed_cross_entropy
from emotion_assets.training.transfer import to_device

CAUSAL_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
ENCODER_MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
IGNORED = -100  # a target that torch's cross entropy leaves out
COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")  # positions begin at pad_token_id + 1


@dataclass(frozen=True)
class ClassifierConfig:
    """All that is needed, besides the weights, to rebuild a trained classifier; stored as ``model.json``.

    Attributes:
        method: ``lora``, ``full`` or ``zero_shot``.
        objective: ``head`` or ``instruction``.
        pooling: how a row's hidden states become one vector: ``first``, ``last``, ``mean`` or ``max``.
        base_digest: digest of the stored base checkpoint.
        answers: token ids of each label word, for the objective ``instruction``.
        head: ``linear`` or ``transformers``, see ``heads.new_head``.
        system: the system prompt before the instruction; none where it is empty.
    """

    method: str
    objective: str
    pooling: str
    labels: list[str]
    max_length: int
    base_digest: str
    instruction: str = ""
    answers: list[list[int]] = field(default_factory=list)
    quantization: str = "none"
    precision: str = "auto"
    attention: str = "auto"
    kind: str = "transformer"
    head: str = "linear"
    system: str = ""


class Classifier(nn.Module):
    """Backbone and head. Scoring calls ``log_probabilities``, training calls ``loss``."""

    def __init__(
        self,
        backbone: nn.Module,
        config: ClassifierConfig,
        backend: Backend,
        head_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone, self.config, self.backend = backbone, config, backend
        self.needs_autocast = True  # the backbone mixes number formats; not so after ``launch_fewer_kernels``
        self.step = ""  # how a training step is computed, where there is a choice
        base: Any = backbone.config
        self.causal = base.model_type in CAUSAL_MODEL_TYPES
        self.first_position = first_position(base)
        if config.objective == "instruction" and not self.causal:
            raise DataError(f"objective instruction needs a causal base; this one is {base.model_type}, use head")
        self.dropout = nn.Dropout(head_dropout)
        if embedding_dropout:
            embeddings: Any = backbone.get_input_embeddings()  # type: ignore[operator]
            embeddings.register_forward_hook(
                lambda module, _, vectors: nn.functional.dropout(vectors, embedding_dropout, module.training)
            )
        self.head: nn.Module | None = None
        if config.objective == "head":
            self.head = new_head(base, self.causal, config.head, len(config.labels))
        self.scored_answers = without_shared_end(config.answers)
        self.narrows = self.causal and narrow_last_layer(self._body)

    def log_probabilities(self, rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
        """Log-probability of each label, ``[rows, labels]``, from the token ids of texts or prompts.

        ``instruction``: the log-probabilities of a label's tokens after the prompt are summed, and the sums normalised
        over the labels. One forward pass does it: each prompt is in the batch once, with its answers as branches.
        """
        if self.head is None:
            return torch.log_softmax(self._answer_scores(rows, device), dim=-1)
        return self._head_log_probabilities(to_device(self._pack(rows), device))

    def _pack(self, rows: Sequence[Sequence[int]], **options: Any) -> Batch:
        """Rows as one sequence on the host, with the padded blocks that the attention backend reads, if any."""
        return pack_rows(rows, self.causal, self.first_position, padded=self._reads_padded(), **options)

    def _reads_padded(self) -> bool:
        config: Any = self.backbone.config
        dropout = getattr(config, "attention_dropout", getattr(config, "attention_probs_dropout_prob", 0.0))
        return self.backend.reads_padded(dropout or 0.0)

    def _head_log_probabilities(self, batch: Batch) -> torch.Tensor:
        token = batch.pooled_token(self.config.pooling)
        if token is None:
            hidden = self.hidden(batch)  # in scoring in fp32: sums do not depend on padding
            pooled = batch.pool(hidden if self.training else hidden.float(), self.config.pooling)
        else:
            pooled = self._hidden_at(batch, token)
        pooled = self.dropout(pooled.float())
        assert self.head is not None
        with torch.autocast(pooled.device.type, enabled=False):  # half-precision logits are so coarse that labels tie
            return torch.log_softmax(self.head(pooled), dim=-1)

    def loss(
        self,
        rows: Sequence[Sequence[int]],
        labels: torch.Tensor,
        smoothing: float = 0.0,
        consistency: float = 0.0,
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, int]:
        """The training loss, summed over targets, and the number of targets. ``labels`` ``[rows]`` are on the host.

        ``weights`` ``[labels]`` multiply the cross entropy of a label's rows, for the objective ``head``.

        ``head``: cross entropy over the labels. With ``consistency`` each row passes twice, under two draws of dropout
        that give p and q, and the loss is the mean of the two cross entropies plus ``consistency`` times
        (KL(p, q) + KL(q, p)) / 2 (R-Drop, Liang et al. 2021). ``instruction``: cross entropy of the right answer's
        tokens, as in supervised fine-tuning; the wrong answers take no part.
        """
        batch, targets = self.pack_for_loss(rows, labels, consistency)
        batch = to_device(batch, next(self.parameters()).device)
        return self.loss_of_packed(batch, smoothing, consistency, weights), targets

    def pack_for_loss(
        self, rows: Sequence[Sequence[int]], labels: torch.Tensor, consistency: float = 0.0, bucket: int = 0
    ) -> tuple[Batch, int]:
        """What ``loss_of_packed`` takes, on the host, and the number of targets.

        With a ``bucket`` (see ``pack_rows``) all that differs between batches of a shape is in tensors.
        """
        if self.head is None:
            batch, targets = self._pack_answers(rows, labels, bucket)
        else:
            twice = bool(consistency)
            batch, targets = self._pack([*rows, *rows] if twice else rows, bucket=bucket), len(rows)
            batch = replace(batch, extra={"labels": labels.repeat(2) if twice else labels})
        return (replace(batch, starts=[], lengths=[], branch_starts=[]) if bucket else batch), targets

    def loss_of_packed(
        self, batch: Batch, smoothing: float = 0.0, consistency: float = 0.0, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``loss`` of what ``pack_for_loss`` gave, now on the device. Nothing of it is computed on the host."""
        targets = batch.extra["targets" if self.head is None else "labels"]
        if self.head is None:
            hidden = self._hidden_at(batch, batch.extra["predicting"])
            return nn.functional.cross_entropy(self._logits(hidden), targets, reduction="sum")
        scores = self._head_log_probabilities(batch)
        loss = summed_cross_entropy(scores, targets, smoothing, weights)
        if not consistency:
            return loss
        p, q = scores.chunk(2)
        divergence = ((p.exp() - q.exp()) * (p - q)).sum(1)
        if weights is not None:
            divergence = divergence * weights[targets[: len(p)]]
        return loss / 2 + consistency * divergence.sum() / 2

    def why_shapes_differ(self) -> str:
        """Why batches in a bucket would still differ in more than the numbers in tensors; empty if they do not."""
        if self.head is not None and self.config.pooling not in ("first", "last"):
            return f"pooling {self.config.pooling} reads the rows' lengths on the host"
        if self._reads_padded():
            return f"attention reads blocks padded to the longest row ({self.backend.name})"
        if getattr(self.backbone.config, "sliding_window", None):
            return "the base attends to a window of tokens"
        return ""

    def checkpoint_activations(self) -> None:
        """From here on keep of each layer its input alone, and compute the rest again in the backward pass.

        Less memory, more time (Chen et al. 2016).
        """
        model = self._base_model
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()

    @property
    def _base_model(self) -> Any:
        """The model of transformers, without PEFT's wrapper."""
        backbone: Any = self.backbone
        return backbone.get_base_model() if hasattr(backbone, "get_base_model") else backbone

    @property
    def _body(self) -> Any:
        """The model of transformers that gives hidden states."""
        return self._base_model.model if self.head is None else self._base_model

    def _hidden_at(self, batch: Batch, tokens: torch.Tensor) -> torch.Tensor:
        """The last hidden states ``[n, H]`` of some tokens ``[n]`` of a packed batch."""
        if self.narrows and torch.is_grad_enabled():
            return self.hidden(batch, reads=tokens).squeeze(0)
        return self.hidden(batch).squeeze(0).index_select(0, tokens)

    def hidden(self, batch: Batch, **reads: torch.Tensor) -> torch.Tensor:
        """The last hidden states ``[1, T, H]`` of a packed batch; with ``reads`` see ``narrow_last_layer``."""
        model = self._body
        extra = {"use_cache": False} if self.causal else {}
        device = batch.extents.device.type
        with nullcontext() if self.needs_autocast else torch.autocast(device, enabled=False):
            out = model(**batch.inputs, **extra, **reads, layout=batch.layout, backend=self.backend)
        return out.last_hidden_state  # type: ignore[no-any-return]

    @property
    def _lm_head(self) -> Any:
        return self._base_model.lm_head

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._lm_head(hidden).float()  # type: ignore[no-any-return]

    def _logits_of(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of some tokens alone, in fp32: ``[n, k]`` from ``[n, H]`` and token ids ``[n, k]`` or ``[1, k]``.

        Computed in bf16, logits between 16 and 32 are multiples of 1/8: label words closer than that would tie.
        """
        if type(self._lm_head) is not nn.Linear:  # with adapters, or in four bits
            return self._logits(hidden).gather(1, tokens.expand(len(hidden), -1))
        with torch.autocast(hidden.device.type, enabled=False):
            weights = self._lm_head.weight[tokens].float()
            return (weights @ hidden.float().unsqueeze(-1)).squeeze(-1)

    def _pack_answers(self, prompts: Sequence[Sequence[int]], labels: torch.Tensor, bucket: int) -> tuple[Batch, int]:
        """Prompts with their right answers; in a bucket each answer has as many targets as the longest label's."""
        answers = [self.config.answers[label] for label in labels.tolist()]
        rows = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
        batch = self._pack(rows, prefix=common_prefix(prompts), bucket=bucket)
        predicting: list[int] = []  # indices of the tokens whose next token belongs to an answer
        for start, prompt, answer in zip(batch.starts, prompts, answers, strict=True):
            first = start + len(prompt) - batch.prefix - 1
            predicting += range(first, first + len(answer))
        targets = [token for answer in answers for token in answer]
        missing = len(answers) * max(map(len, self.config.answers)) - len(targets) if bucket else 0
        extra = {
            "predicting": torch.tensor(predicting + [batch.prefix] * missing),  # of the filler
            "targets": torch.tensor(targets + [IGNORED] * missing),
        }
        return replace(batch, extra=extra), len(targets)

    def _answer_scores(self, prompts: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
        """Summed log-probability of each label's tokens after each prompt, ``[prompts, labels]``, but for a constant
        per prompt.

        An answer's first token is predicted at the prompt's end. Its other tokens are predicted in a branch.
        """
        answers = self.scored_answers
        longer = [(p, a) for p in range(len(prompts)) for a in range(len(answers)) if len(answers[a]) > 1]
        branches = [(p, answers[a][:-1]) for p, a in longer]
        batch = self._pack(prompts, prefix=common_prefix(prompts), branches=branches)
        predicting: list[int] = []  # index of each branch's tokens in the sequence
        targets: list[int] = []  # the token that follows each of them
        cells: list[int] = []  # the element of the scores, flattened, to which its log-probability is added
        for (p, a), start in zip(longer, batch.branch_starts, strict=True):
            predicting += range(start, start + len(answers[a]) - 1)
            targets += answers[a][1:]
            cells += [p * len(answers) + a] * (len(answers[a]) - 1)
        extra = {"first": torch.tensor([[answer[0] for answer in answers]]), "predicting": torch.tensor(predicting)}
        extra |= {"targets": torch.tensor(targets), "cells": torch.tensor(cells)}
        batch = to_device(replace(batch, extra=extra), device)
        hidden = self.hidden(batch).squeeze(0)
        starts, lengths = batch.extents
        # The normaliser of the softmax over the vocabulary is the same for all labels of a prompt: it cancels.
        scores = self._logits_of(hidden.index_select(0, starts + lengths - 1), batch.extra["first"])
        if not longer:
            return scores
        hidden = hidden.index_select(0, batch.extra["predicting"])
        rest = self._logits_of(hidden, batch.extra["targets"][:, None]).squeeze(1)
        rest = rest - self._logits(hidden).logsumexp(-1)
        return scores.flatten().index_add(0, batch.extra["cells"], rest).view_as(scores)


def first_position(config: Any) -> int:
    """The position id of a row's first token, for a base of this config."""
    return config.pad_token_id + 1 if config.model_type in COUNT_FROM_PADDING else 0


def without_shared_end(answers: Sequence[Sequence[int]]) -> list[list[int]]:
    """The answers without the end-of-turn token that all end with; with it if one label is a prefix of another."""
    words = [list(answer[:-1]) for answer in answers]
    ambiguous = any(a != b and b[: len(a)] == a for a in words for b in words) or not all(words)
    return [list(answer) for answer in answers] if ambiguous else words
