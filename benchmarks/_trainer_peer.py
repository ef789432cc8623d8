"""The peer of ``train_vs_llamafactory --real``: transformers' Trainer with PEFT and a classification head.

    python -m benchmarks._trainer_peer SETTINGS.json

Settings: ``base`` and ``tokens`` (folders), ``labels`` (their number), ``rows_per_step``, ``epochs``,
``learning_rate``, ``sampling`` (a value of ``train_sampling_strategy``), ``steps`` (0: all), ``output`` (a folder).
Writes the head as it was at first and ``result.json`` with rows per second and the loss of the first step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


def main(file: str) -> None:
    settings: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
    output = Path(settings["output"])
    table = pq.read_table(Path(settings["tokens"]) / "train.parquet", columns=["input_ids", "label"])
    rows = [
        {"input_ids": ids, "labels": label, "length": len(ids)}
        for ids, label in zip(table.column("input_ids").to_pylist(), table.column("label").to_pylist(), strict=True)
    ]
    tokenizer = AutoTokenizer.from_pretrained(settings["base"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(17)
    base: Any = AutoModelForSequenceClassification.from_pretrained(
        settings["base"],
        num_labels=settings["labels"],
        dtype=torch.bfloat16,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules="all-linear", modules_to_save=["score"]
    )
    model = get_peft_model(base, config)
    head = model.base_model.model.score.modules_to_save["default"].float()
    save_file({"weight": head.weight.detach().clone()}, output / "head.safetensors")
    arguments = TrainingArguments(
        output_dir=str(output / "out"),
        per_device_train_batch_size=settings["rows_per_step"],
        num_train_epochs=settings["epochs"],
        max_steps=settings["steps"] or -1,
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        bf16=True,
        use_cpu=True,
        train_sampling_strategy=settings["sampling"],
        length_column_name="length",
        logging_steps=1 if settings["steps"] else 50,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=17,
        dataloader_num_workers=0,
        remove_unused_columns=False,
    )

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        return padding([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in batch])

    padding = DataCollatorWithPadding(tokenizer)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)  # type: ignore[arg-type]
    metrics = trainer.train().metrics
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = {"rows_per_second": metrics["train_samples_per_second"], "first_loss": losses[0] if losses else None}
    (output / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
