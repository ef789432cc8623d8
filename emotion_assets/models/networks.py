"""What networks of every kind have in common: batched inference, accuracy, and what is reported of a training."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from emotion_assets.models.transformer.batches import batch_by_length
from emotion_assets.training import distributed
from emotion_assets.training.progress import TrainingHistory
from emotion_assets.training.runtime import Runtime, describe_dtype, peak_memory_mb
from emotion_assets.training.trainer import TrainingError

BATCH = 64
TOKENS = {"cpu": 4096, "cuda": 65_536}
"""Of a batch that is scored: enough to keep a chip's multipliers busy, on a CPU few enough to stay in its caches."""


TOKENS_SIDE_BY_SIDE = 2048
"""Of a batch that one core scores while others score theirs."""
STEADY_TOKENS = 512
"""Of a batch in half precision on a CPU: from here on the sums of its products are made in one order."""


class Network(Protocol):
    """A network that gives the log-probability of each label, ``[rows, labels]``, from rows of ids."""

    def log_probabilities(self, rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor: ...


def accuracy_of(model: Network, rows: Sequence[Sequence[int]], targets: np.ndarray, runtime: Runtime) -> float:
    """Share of rows whose most probable label is the right one."""
    batches = distributed.shard(batch_by_length([len(row) for row in rows], BATCH))
    guesses: list[torch.Tensor] = []
    for chosen in batches:
        with runtime.autocast():
            guesses.append(model.log_probabilities([rows[i] for i in chosen], runtime.device).argmax(1))
    found = torch.cat(guesses).cpu().numpy() if guesses else np.empty(0)  # read once: each reading waits for a GPU
    expected = targets[[i for chosen in batches for i in chosen]]
    right = torch.tensor(int((found == expected).sum()), device=runtime.device)
    distributed.all_reduce([right])
    return int(right) / len(rows)


def require_finite(module: nn.Module, name: str) -> None:
    """Refuse trained weights that are not finite.

    Raises:
        TrainingError: names the first of them.
    """
    for part, parameter in module.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise TrainingError(f"{name}: {part} holds values that are not finite; lower learning_rate")


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Parameters that are trained, and all. A weight in four bits holds two parameters to a byte: PEFT counts them."""
    backbone: Any = getattr(module, "backbone", None)
    if hasattr(backbone, "get_nb_trainable_parameters"):
        trainable, total = backbone.get_nb_trainable_parameters()
        head = sum(p.numel() for name, p in module.named_parameters() if not name.startswith("backbone."))
        return trainable + head, total + head
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def describe_training(module: nn.Module, history: TrainingHistory, runtime: Runtime) -> dict[str, Any]:
    """What ``Kind.train`` returns of every network."""
    trainable, total = count_parameters(module)
    return {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "train_seconds": history.seconds,
        "peak_memory_mb": peak_memory_mb(),
        "runtime": f"{runtime.device.type}, {describe_dtype(runtime.dtype)} ({runtime.why})",
        "validation_accuracy": max(history.scores, default=0.0),
        "curve": history.as_dict(),
    } | ({"processes": distributed.size()} if distributed.is_joined() else {})


def score_in_batches(
    model: Network, rows: Sequence[Sequence[int]], runtime: Runtime, labels: int, steady: bool = False
) -> np.ndarray:
    """Probabilities ``[rows, labels]``, float32, in the order of ``rows``; rows of similar length go together.

    ``steady``: for weights in half precision on a CPU, see ``fill_up``.
    """
    probabilities = np.zeros((len(rows), labels), dtype=np.float32)
    with torch.inference_mode(), runtime.autocast():
        for chosen in batch_by_tokens([len(row) for row in rows], TOKENS[runtime.device.type]):
            batch = [rows[i] for i in chosen]
            scores = model.log_probabilities(fill_up(batch) if steady else batch, runtime.device)
            probabilities[chosen] = scores[: len(batch)].float().exp().cpu().numpy()
    return probabilities


def score_side_by_side(model: Network, rows: Sequence[Sequence[int]], runtime: Runtime, labels: int) -> np.ndarray:
    """As ``score_in_batches``, for a network whose operations are too small to be shared by cores: on a CPU each core
    takes batches of its own, so no batch waits for a core in each of its many short steps."""
    threads = torch.get_num_threads()
    if runtime.device.type != "cpu" or threads == 1:
        return score_in_batches(model, rows, runtime, labels)

    def score(chosen: Sequence[int]) -> np.ndarray:
        return score_in_batches(model, [rows[i] for i in chosen], runtime, labels)

    probabilities = np.zeros((len(rows), labels), dtype=np.float32)
    batches = batch_by_tokens([len(row) for row in rows], TOKENS_SIDE_BY_SIDE)[::-1]  # the long ones begin
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for chosen, scores in zip(batches, pool.map(score, batches), strict=True):
                probabilities[chosen] = scores
    finally:
        torch.set_num_threads(threads)  # for this thread and those that begin later
    return probabilities


def fill_up(rows: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The rows and, where they have few tokens, more behind them, whose scores nobody reads.

    A CPU makes the sums of a product of few tokens in another order. In half precision the last bit of a sum is the
    third digit of a number, so a row's scores would depend on how many stand beside it.
    """
    longest = max(rows, key=len)
    missing = STEADY_TOKENS - sum(map(len, rows))
    return [*rows, *[longest] * -(-max(0, missing) // len(longest))]


def batch_by_tokens(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Row indices in batches, shortest rows first, of at most ``tokens`` tokens once padded to the longest of them;
    a longer row is a batch of its own."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * lengths[i] <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
