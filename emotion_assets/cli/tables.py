"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from emotion_assets.reports.render import count, duration, percent


def leaderboard_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of the view ``leaderboard``, best first; models measured on other test rows come last, without rank."""
    published = any(row["paper_accuracy"] is not None for row in rows)
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
    if published:
        table.add_column("paper", justify="right", no_wrap=True)
    compared = [row for row in rows if row["comparable"]]
    for place, row in enumerate([*compared, *(row for row in rows if not row["comparable"])], 1):
        cells = [
            str(place) if row["comparable"] else "",
            row["model"],
            percent(row["accuracy"]),
            f"{row['accuracy_low'] * 100:.1f}–{row['accuracy_high'] * 100:.1f}",
            f"{row['macro_f1']:.3f}",
            f"{row['ece']:.3f}",
            count(row["total_parameters"]),
            duration(row["train_seconds"]),
            count(row["texts_per_second"]),
        ]
        if published:
            cells.append(percent(row["paper_accuracy"], 2))
        table.add_row(*cells, style=None if row["comparable"] else "dim", end_section=place == len(compared))
    table.caption = _caption(compared, len(rows) - len(compared), published)
    return table


def _caption(compared: Sequence[Mapping[str, Any]], others: int, published: bool) -> str:
    first = compared[0]
    lines = [f"{first['dataset']}: {first['n_rows']:,} test rows, fingerprint {first['split_fingerprint'][:12]}"]
    if not published:
        lines.append("not the official test split: the published accuracies cannot be compared and are not shown")
    if others:
        lines.append(f"{others} dimmed: measured on other test rows, not comparable with the rest")
    return "\n".join(lines)
