"""The optimiser and its learning-rate schedule, as a profile's ``training`` block asks for them."""

from __future__ import annotations

import math

import torch

from emotion_assets.settings.schema import Training


def make_optimizer(parameters: list[torch.nn.Parameter], training: Training) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019) over ``parameters``."""
    if training.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=training.learning_rate, fused=True)
    return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)


def learning_rate_factor(training: Training, step: int, total_steps: int) -> float:
    """What ``training.learning_rate`` is multiplied by at a step, counted from 0.

    Linear warm-up over the first ``warmup_share`` of the steps, then half a cosine or a straight line down to 0, or 1
    throughout.
    """
    warmup_steps = int(total_steps * training.warmup_share)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    if training.scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return max(0.0, 1 - progress) if training.scheduler == "linear" else 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use this learning rate for all parameters from the next optimizer step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
