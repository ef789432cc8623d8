"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from emotion_assets.evaluation.published import with_published
from emotion_assets.reports.render import count, duration, percent


def leaderboard_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of the view ``leaderboard``, best first; models measured on other test rows come last, without rank.

    Where the rows are the official test split, the published accuracies stand among them, without rank too.
    """
    table = Table(
        title="Leaderboard (test split)",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", justify="right", min_width=1)
    table.add_column("model", no_wrap=True)
    table.add_column("accu-\nracy", justify="right", no_wrap=True)
    table.add_column("95%\ninterval", min_width=9)
    for name in ("macro\nF1", "calib.\nerror", "para-\nmeters", "trained\nin", "texts/s"):
        table.add_column(name, justify="right", no_wrap=True)
    compared = [row for row in rows if row["comparable"]]
    others = [row for row in rows if not row["comparable"]]
    ranked = with_published(compared)
    rank = 0
    for row in ranked:
        rank += not row["published"]
        last = row is ranked[-1]
        if row["published"]:
            table.add_row("*", row["model"], percent(row["accuracy"]), _interval(row), style="italic", end_section=last)
        else:
            table.add_row(str(rank), *_cells(row), end_section=last)
    for other in others:
        table.add_row("", *_cells(other), style="dim")
    table.caption = _caption(compared, len(others), len(ranked) > len(compared))
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["model"],
        percent(row["accuracy"]),
        _interval(row),
        f"{row['macro_f1']:.3f}",
        f"{row['ece']:.3f}",
        count(row["total_parameters"]),
        duration(row["train_seconds"]),
        count(row["texts_per_second"]),
    ]


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['accuracy_low'] * 100:.1f}–{row['accuracy_high'] * 100:.1f}"


def _caption(compared: Sequence[Mapping[str, Any]], others: int, published: bool) -> str:
    first = compared[0]
    lines = [f"{first['dataset']}: {first['n_rows']:,} test rows, fingerprint {first['split_fingerprint'][:12]}"]
    if published:
        lines.append("* the published accuracies, on the same rows")
    else:
        lines.append("not the official test split: the published accuracies cannot be compared and are not shown")
    if others:
        lines.append(f"{others} dimmed: measured on other test rows, not comparable with the rest")
    return "\n".join(lines)
