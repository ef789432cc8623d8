"""The transformer classifier: a backbone, read by a pooled head or by the label words, with or without LoRA.

Both objectives end in class probabilities ``[B, labels]``, so nothing downstream asks which one was used. How a
classifier is put on disk and read back is ``checkpoints``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from emotion_assets.models.transformer.attention import Backend
from emotion_assets.models.transformer.batches import Batch, common_prefix, make_batch
from emotion_assets.settings.errors import DataError

CAUSAL_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
ENCODER_MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")  # positions begin at pad_token_id + 1


@dataclass(frozen=True)
class Shape:
    """All that is needed to rebuild the classifier round its weights; stored as ``model.json``."""

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


class Classifier(nn.Module):
    """Backbone and head. ``log_probabilities`` is the one way in for scoring, ``loss`` for training."""

    def __init__(
        self,
        backbone: nn.Module,
        shape: Shape,
        backend: Backend,
        head_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone, self.shape, self.backend = backbone, shape, backend
        config: Any = backbone.config
        self.causal = config.model_type in CAUSAL_MODEL_TYPES
        self.first_position = first_position(config)
        if shape.objective == "instruction" and not self.causal:
            raise DataError(f"objective instruction needs a causal base; this one is {config.model_type}, use head")
        self.dropout = nn.Dropout(head_dropout)
        if embedding_dropout:
            table: Any = backbone.get_input_embeddings()  # type: ignore[operator]
            table.register_forward_hook(
                lambda module, _, vectors: nn.functional.dropout(vectors, embedding_dropout, module.training)
            )
        self.head = nn.Linear(config.hidden_size, len(shape.labels)) if shape.objective == "head" else None
        self.scored_answers = _telling_part(shape.answers)

    def log_probabilities(self, rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
        """Log-probability of each label, ``[rows, labels]``, from the token ids of texts or prompts.

        ``instruction``: the log-probabilities of each label's tokens after the prompt, summed and normalised over the
        labels, in one forward pass: a prompt is read once, its answers branch off behind it.
        """
        if self.head is None:
            return torch.log_softmax(self._answer_scores(rows, device), dim=-1)
        batch = make_batch(rows, device, self.causal, self.first_position)
        pooled = self.dropout(batch.pool(self.hidden(batch), self.shape.pooling).float())
        with torch.autocast(device.type, enabled=False):  # half-precision logits are so coarse that labels tie
            return torch.log_softmax(self.head(pooled), dim=-1)

    def loss(
        self, rows: Sequence[Sequence[int]], labels: torch.Tensor, smoothing: float = 0.0, consistency: float = 0.0
    ) -> tuple[torch.Tensor, int]:
        """The summed training loss and how many targets it sums over.

        ``head``: cross entropy over the labels. With ``consistency`` each row passes twice, under two draws of dropout
        that give p and q, and the loss is the mean of the two cross entropies plus ``consistency`` times
        (KL(p, q) + KL(q, p)) / 2 (R-Drop, Liang et al. 2021). ``instruction``: cross entropy of the right answer's
        tokens, as in supervised fine-tuning; the wrong answers are not seen.
        """
        if self.head is None:
            return self._answer_loss(rows, labels)
        if not consistency:
            return self._cross_entropy(self.log_probabilities(rows, labels.device), labels, smoothing), len(rows)
        both = self.log_probabilities([*rows, *rows], labels.device)
        p, q = both.chunk(2)
        loss = self._cross_entropy(both, labels.repeat(2), smoothing) / 2
        return loss + consistency * ((p.exp() - q.exp()) * (p - q)).sum() / 2, len(rows)

    @staticmethod
    def _cross_entropy(log_probabilities: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
        right = log_probabilities.gather(1, labels[:, None]).sum()
        spread = log_probabilities.mean(1).sum()
        return -((1 - smoothing) * right + smoothing * spread)

    def hidden(self, batch: Batch) -> torch.Tensor:
        """The last hidden states ``[1, T, H]`` of a packed batch."""
        backbone: Any = self.backbone
        model = backbone.get_base_model() if hasattr(backbone, "get_base_model") else backbone
        model = model.model if self.head is None else model
        extra = {"use_cache": False} if self.causal else {}
        out = model(**batch.inputs, **extra, layout=batch.layout, backend=self.backend)
        return out.last_hidden_state  # type: ignore[no-any-return]

    @property
    def _lm_head(self) -> Any:
        backbone: Any = self.backbone
        return (backbone.get_base_model() if hasattr(backbone, "get_base_model") else backbone).lm_head

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._lm_head(hidden).float()  # type: ignore[no-any-return]

    def _logits_of(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of some tokens alone, in fp32: ``[n, k]`` from ``[n, H]`` and token ids ``[n, k]`` or ``[1, k]``.

        A step of half precision is an eighth between 16 and 32: label words closer than that would tie.
        """
        if type(self._lm_head) is not nn.Linear:  # adapters on the head, or four bits
            return self._logits(hidden).gather(1, tokens.expand(len(hidden), -1))
        with torch.autocast(hidden.device.type, enabled=False):
            weights = self._lm_head.weight[tokens].float()
            return (weights @ hidden.float().unsqueeze(-1)).squeeze(-1)

    def _answer_loss(self, prompts: Sequence[Sequence[int]], labels: torch.Tensor) -> tuple[torch.Tensor, int]:
        right = [self.shape.answers[label] for label in labels.tolist()]
        rows = [[*prompt, *answer] for prompt, answer in zip(prompts, right, strict=True)]
        batch = make_batch(rows, labels.device, True, prefix=common_prefix(prompts))
        before: list[int] = []  # the places whose next token is an answer's
        for start, prompt, answer in zip(batch.starts, prompts, right, strict=True):
            first = start + len(prompt) - batch.prefix - 1
            before += range(first, first + len(answer))
        hidden = self.hidden(batch)[0].index_select(0, torch.tensor(before, device=labels.device))
        goal = torch.tensor([token for answer in right for token in answer], device=labels.device)
        return nn.functional.cross_entropy(self._logits(hidden), goal, reduction="sum"), len(goal)

    def _answer_scores(self, prompts: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
        """Summed log-probability of each label's telling tokens after each prompt, ``[prompts, labels]``."""
        answers = self.scored_answers
        tails = [(p, a) for p in range(len(prompts)) for a in range(len(answers)) if len(answers[a]) > 1]
        branches = [(p, answers[a][:-1]) for p, a in tails]
        batch = make_batch(prompts, device, True, prefix=common_prefix(prompts), branches=branches)
        hidden = self.hidden(batch)[0]
        ends = torch.tensor(batch.starts, device=device) + torch.tensor(batch.lengths, device=device) - 1
        # The softmax over the vocabulary at a prompt's end is one constant for all its labels: it cancels.
        scores = self._logits_of(hidden[ends], torch.tensor([[answer[0] for answer in answers]], device=device))
        if not tails:
            return scores
        places: list[int] = []
        owners: list[int] = []
        goals: list[int] = []
        for (p, a), start in zip(tails, batch.branch_starts, strict=True):
            places += range(start, start + len(answers[a]) - 1)
            owners += [p * len(answers) + a] * (len(answers[a]) - 1)
            goals += answers[a][1:]
        hidden = hidden[torch.tensor(places, device=device)]
        rest = self._logits_of(hidden, torch.tensor(goals, device=device)[:, None]).squeeze(1)
        rest = rest - self._logits(hidden).logsumexp(-1)
        return scores.flatten().index_add(0, torch.tensor(owners, device=device), rest).view_as(scores)


def first_position(config: Any) -> int:
    """The position id of a row's first token."""
    return config.pad_token_id + 1 if config.model_type in COUNT_FROM_PADDING else 0


def _telling_part(answers: Sequence[Sequence[int]]) -> list[list[int]]:
    """The answers without their closing end-of-turn token, unless one label is the beginning of another."""
    words = [list(answer[:-1]) for answer in answers]
    ambiguous = any(a != b and b[: len(a)] == a for a in words for b in words) or not all(words)
    return [list(answer) for answer in answers] if ambiguous else words
