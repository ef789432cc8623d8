"""The leaderboard in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from emotion_assets.cli.tables import leaderboard_table
from emotion_assets.dataset.splits import OFFICIAL_TEST_FINGERPRINT


def row(model: str, accuracy: float, **changes: Any) -> dict[str, Any]:
    return {
        "model": model,
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.012,
        "accuracy_high": accuracy + 0.012,
        "macro_f1": 0.88,
        "ece": 0.021,
        "total_parameters": 8_030_000_000,
        "train_seconds": 4100.0,
        "texts_per_second": 310.0,
        "paper_accuracy": None,
        "comparable": True,
        "dataset": "emotion",
        "n_rows": 2000,
        "split_fingerprint": "00916b8d20b3ff",
    } | changes


def printed(*rows: dict[str, Any], width: int = 140) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(leaderboard_table(rows))
    return capture.get()


def words(text: str) -> str:
    return " ".join(text.split())


def test_each_model_stands_with_its_interval_and_its_cost() -> None:
    text = printed(row("llama3_lora_model", 0.926), row("bert_base", 0.906))
    assert "92.6%" in text and "91.4–93.8" in text and "8.03 B" in text and "68 min" in text
    assert text.index("llama3_lora_model") < text.index("bert_base")
    assert "2,000 test rows, fingerprint 00916b8d20b3" in text


def test_on_the_official_rows_the_published_accuracies_stand_among_ours_without_rank() -> None:
    without = printed(row("llama3_lora_model", 0.95))
    assert "published accuracies, on" not in without and "are not shown" in words(without)
    board = [
        row(name, value, texts_per_second=24_800.0, split_fingerprint=OFFICIAL_TEST_FINGERPRINT)
        for name, value in (("llama3_lora_model", 0.95), ("b", 0.91))
    ]
    text = printed(*board, width=80)
    lines = [words(line) for line in text.splitlines() if "%" in line and "accu-" not in line]
    assert [line.split()[:2] for line in lines] == [
        ["1", "llama3_lora_model"],
        ["*", "llama3_lora_model"],
        ["*", "roberta_large"],
        ["*", "roberta_base"],
        ["2", "b"],
        ["*", "bert_large"],
        ["*", "bert_base"],
    ]
    assert lines[1] == "* llama3_lora_model 92.6% 91.4–93.7"
    assert "…" not in text and "24.8 k" in text and "* the published accuracies, on the same rows" in text


def test_a_model_of_other_rows_has_no_rank_and_that_is_said() -> None:
    text = printed(row("llama3_lora_model", 0.926), row("bert_base", 0.99, comparable=False))
    assert "measured on other test rows" in words(text)
    assert not any("2" in line[:4] for line in text.splitlines() if "bert_base" in line)


def test_nothing_is_cut_off_in_a_terminal_of_80_columns() -> None:
    text = printed(row("llama3_lora_model", 0.926), row("roberta_large", 0.919, texts_per_second=24_800.0), width=80)
    assert "…" not in text
    assert all(
        cell in text for cell in ("llama3_lora_model", "91.4–93.8", "0.880", "0.021", "8.03 B", "68 min", "24.8 k")
    )
