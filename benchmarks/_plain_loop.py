"""The loop that a good engineer writes in an hour, a peer of ``train_vs_llamafactory --real``: transformers and PEFT.

    python -m benchmarks._plain_loop SETTINGS.json

Padded batches of rows of similar length (sorted within a window of 20 steps), the base frozen in ``dtype``, adapters
and head in fp32, max pooling, AdamW, a cosine schedule. Settings: ``base`` and ``tokens`` (folders), ``labels`` (their
number), ``rows_per_step``, ``epochs``, ``learning_rate``, ``dtype``, ``steps`` (0: all), ``output`` (a folder). Writes
the head as it was at first and ``result.json`` with rows per second and the loss of the first step.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModel, get_cosine_schedule_with_warmup

Rows = list[tuple[list[int], int]]
WINDOW_STEPS = 20


def main(file: str) -> None:
    settings: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
    output = Path(settings["output"])
    table = pq.read_table(Path(settings["tokens"]) / "train.parquet", columns=["input_ids", "label"])
    rows: Rows = list(zip(table["input_ids"].to_pylist(), table["label"].to_pylist(), strict=True))
    torch.manual_seed(17)
    base: Any = AutoModel.from_pretrained(
        settings["base"], dtype=getattr(torch, settings["dtype"]), attn_implementation="sdpa"
    )
    config = LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=8, lora_alpha=16, target_modules="all-linear")
    model = get_peft_model(base, config).train()
    head = torch.nn.Linear(base.config.hidden_size, settings["labels"])
    torch.nn.init.zeros_(head.bias)
    save_file({"weight": head.weight.detach().clone()}, output / "head.safetensors")
    parameters = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings["learning_rate"], weight_decay=0.0, fused=True)
    batches = [batch for epoch in range(settings["epochs"]) for batch in sorted_batches(rows, settings, epoch)]
    batches = batches[: settings["steps"] or None]
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, len(batches))
    losses: list[float] = []
    started = time.perf_counter()
    for batch in batches:
        losses.append(step(model, head, batch))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    rate = sum(map(len, batches)) / (time.perf_counter() - started)
    (output / "result.json").write_text(json.dumps({"rows_per_second": rate, "first_loss": losses[0]}))


def sorted_batches(rows: Rows, settings: dict[str, Any], epoch: int) -> Iterator[Rows]:
    """Random rows, those of similar length in one batch."""
    rng = random.Random(17 + epoch)
    shuffled = rng.sample(rows, len(rows))
    size = settings["rows_per_step"]
    for first in range(0, len(rows), size * WINDOW_STEPS):
        window = sorted(shuffled[first : first + size * WINDOW_STEPS], key=lambda row: len(row[0]))
        batches = [window[i : i + size] for i in range(0, len(window), size)]
        yield from rng.sample(batches, len(batches))


def step(model: Any, head: torch.nn.Linear, batch: Rows) -> float:
    """Forward and backward of a padded batch; its mean loss."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in batch])
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    pooled = states.masked_fill(mask[..., None] == 0, float("-inf")).amax(1).float()
    loss = torch.nn.functional.cross_entropy(head(pooled), torch.tensor([label for _, label in batch]))
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss)


if __name__ == "__main__":
    main(sys.argv[1])
