"""The transformer classifier: a backbone, read by a pooled head or by the label words, with or without LoRA.

Both objectives end in class probabilities ``[B, labels]``, so nothing downstream asks which one was used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from emotion_assets.ml.bases import CAUSAL_MODEL_TYPES, check_checkpoint
from emotion_assets.ml.batches import Batch, make_batch
from emotion_assets.ml.datasets import DataError
from emotion_assets.ml.runtime import Runtime
from emotion_assets.settings import TransformerModel

ADAPTER, BACKBONE, HEAD = "adapter", "backbone", "head.safetensors"


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
    kind: str = "transformer"


class Classifier(nn.Module):
    """Backbone and head. ``log_probabilities`` is the one way in, for training and for scoring."""

    def __init__(self, backbone: nn.Module, shape: Shape, head_dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone, self.shape = backbone, shape
        config: Any = backbone.config
        self.packed = config.model_type in CAUSAL_MODEL_TYPES
        self.pad_id = config.pad_token_id or 0
        if shape.objective == "instruction" and not self.packed:
            raise DataError(f"objective instruction needs a causal base; this one is {config.model_type}, use head")
        self.dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(config.hidden_size, len(shape.labels)) if shape.objective == "head" else None

    def log_probabilities(self, rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
        """Log-probability of each label, ``[rows, labels]``, from the token ids of texts or prompts."""
        if self.head is not None:
            batch = make_batch(rows, self.packed, self.pad_id, device)
            pooled = batch.pool(self._hidden(batch), self.shape.pooling).float()
            return torch.log_softmax(self.head(self.dropout(pooled)), dim=-1)
        scores = self._answer_scores(rows, list(range(len(self.shape.labels))), device)
        return torch.log_softmax(scores.view(len(rows), -1), dim=-1)

    def loss(self, rows: Sequence[Sequence[int]], labels: torch.Tensor, smoothing: float) -> tuple[torch.Tensor, int]:
        """The summed training loss and how many targets it sums over.

        ``head``: cross entropy over the labels. ``instruction``: cross entropy of the right answer's tokens, as in
        supervised fine-tuning; the wrong answers are not seen.
        """
        device = labels.device
        if self.head is not None:
            log_probabilities = self.log_probabilities(rows, device)
            right = log_probabilities.gather(1, labels[:, None]).sum()
            spread = log_probabilities.mean(1).sum()
            return -((1 - smoothing) * right + smoothing * spread), len(rows)
        answers = labels.tolist()
        scores = self._answer_scores(rows, None, device, answers)
        return -scores.sum(), sum(len(self.shape.answers[a]) for a in answers)

    def _hidden(self, batch: Batch) -> torch.Tensor:
        extra = {"use_cache": False} if self.packed else {}
        return self.backbone(**batch.inputs, **extra).last_hidden_state

    def _answer_scores(
        self,
        prompts: Sequence[Sequence[int]],
        every: list[int] | None,
        device: torch.device,
        right: list[int] | None = None,
    ) -> torch.Tensor:
        """Log-probability of answers after their prompts, one per (prompt, answer) pair; logits at answers only."""
        answers = self.shape.answers
        pairs = [(p, a) for p in range(len(prompts)) for a in (every if right is None else [right[p]])]  # type: ignore[union-attr]
        batch = make_batch([[*prompts[p], *answers[a]] for p, a in pairs], True, self.pad_id, device)
        causal: Any = self.backbone.get_base_model() if hasattr(self.backbone, "get_base_model") else self.backbone
        hidden = causal.model(**batch.inputs, use_cache=False).last_hidden_state[0]
        places, owners, start = [], [], 0
        for pair, (p, a) in enumerate(pairs):
            first = start + len(prompts[p])
            places += range(first, first + len(answers[a]))
            owners += [pair] * len(answers[a])
            start = first + len(answers[a])
        at = torch.tensor(places, device=device)
        logits = causal.lm_head(hidden[at - 1]).float()
        token_scores = torch.log_softmax(logits, -1).gather(1, batch.inputs["input_ids"][0, at][:, None]).squeeze(1)
        return torch.zeros(len(pairs), device=device).index_add(0, torch.tensor(owners, device=device), token_scores)


def new_classifier(
    base_folder: Path, model: TransformerModel, shape: Shape, runtime: Runtime, attention: str
) -> Classifier:
    """The untrained classifier on top of a base checkpoint, adapters and head fresh."""
    backbone = load_backbone(base_folder, shape.objective, runtime, attention, frozen=model.method == "lora")
    if model.method == "lora":
        from peft import LoraConfig, TaskType, get_peft_model

        task = TaskType.CAUSAL_LM if shape.objective == "instruction" else TaskType.FEATURE_EXTRACTION
        config = LoraConfig(
            task_type=task,
            r=model.lora.rank,
            lora_alpha=model.lora.alpha,
            lora_dropout=model.lora.dropout,
            target_modules=model.lora.target_modules,
            modules_to_save=["embed_tokens"] if model.lora.train_embeddings else None,
        )
        backbone = get_peft_model(backbone, config)
    return Classifier(backbone, shape, model.head_dropout).to(runtime.device)


def load_backbone(folder: Path, objective: str, runtime: Runtime, attention: str, frozen: bool) -> Any:
    """A checkpoint as transformers loads it: with its language-model head for ``instruction``, bare for ``head``.

    A frozen base is held in the format it computes in; weights that are trained are held in fp32.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    check_checkpoint(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    loader: Any = AutoModelForCausalLM if objective == "instruction" else AutoModel
    extra = {"add_pooling_layer": False} if config.model_type in ("bert", "roberta") else {}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the language-model head left out is not worth a warning
    try:
        return loader.from_pretrained(
            folder,
            dtype=runtime.dtype if frozen else torch.float32,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            **extra,
        )
    finally:
        logging.set_verbosity(verbosity)


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


def load_classifier(folder: Path, base_folder: Path, runtime: Runtime) -> Classifier:
    """The trained classifier as it was saved, in evaluation mode."""
    from emotion_assets.ml.runtime import attention_backend

    shape = Shape(**json.loads((folder / "model.json").read_text(encoding="utf-8")))
    attention, _ = attention_backend("auto", runtime)
    if shape.method == "lora":
        from peft import PeftModel

        backbone = load_backbone(base_folder, shape.objective, runtime, attention, frozen=True)
        backbone = PeftModel.from_pretrained(backbone, folder / ADAPTER)
    else:
        backbone = load_backbone(folder / BACKBONE, shape.objective, runtime, attention, frozen=False)
    classifier = Classifier(backbone, shape)
    if classifier.head is not None:
        classifier.head.load_state_dict(load_file(folder / HEAD))
    return classifier.to(runtime.device).eval()
