"""The feedback page: how customers feel, what changed, and whether the scores can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emotion_assets.forms.problems import Reason
from emotion_assets.reports.feedback_charts import share_line, volume_bars
from emotion_assets.reports.feedback_figures import FeedbackReport, make_report
from emotion_assets.reports.render import count, percent, signed_points, write_page
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.store import Store
from emotion_assets.storage.warehouse.database import Warehouse

PAGE = "feedback.html"
EXPLAINED = {str(reason): reason.explain for reason in Reason} | {
    "id_conflict": "an id that was given before with another text"
}


def write_feedback_page(settings: Settings, store: Store, warehouse: Warehouse) -> Path:
    """Write ``reports/feedback.html`` and return its path.

    Raises:
        UserError: there is no champion, or the database cannot be used.
    """
    report = make_report(settings, store, warehouse)
    return write_page(settings.reports / PAGE, PAGE, content(report, datetime.now(UTC)))


def content(report: FeedbackReport, written: datetime) -> dict[str, Any]:
    """What the template shows."""
    total = report.overview["rows"]
    return {
        "report": report,
        "written": f"{written:%Y-%m-%d %H:%M}",
        "cards": _cards(report) if total else [],
        "volume": volume_bars([(row["period"], row["n"]) for row in report.periods], report.unit) if total else None,
        "lines": _lines(report.periods, report.labels),
        "changes": _place_on_chart(report.changes),
        "rejects": [row | {"explained": EXPLAINED.get(row["reason_code"], "")} for row in report.rejects],
    }


def _cards(report: FeedbackReport) -> list[dict[str, str]]:
    overview = report.overview
    totals = {label: sum(row["by"].get(label, 0) for row in report.periods) for label in report.labels}
    first = max(totals, key=totals.__getitem__)
    cards = [
        {
            "title": "rows of feedback",
            "value": count(overview["rows"]),
            "text": f"{overview['first']:%d %b %Y} to {overview['last']:%d %b %Y}",
        },
        {"title": "felt most", "value": first, "text": f"{percent(totals[first] / overview['rows'], 0)} of all rows"},
    ]
    clear = [row for row in report.changes if row["is_clear"]]
    if clear:
        row = clear[0]
        text = f"points: {percent(row['before'], 0)} the week before, {percent(row['now'], 0)} in the last week"
        cards.append(
            {"title": f"changed most: {row['emotion']}", "value": signed_points(row["difference"]), "text": text}
        )
    elif report.changes:
        cards.append({"title": "since last week", "value": "no clear change", "text": "no more than chance explains"})
    unsure = overview["rows"] - overview["answered"]
    cards.append(
        {
            "title": "answered",
            "value": percent(overview["answered"] / overview["rows"], 0),
            "text": f"{count(unsure)} rows were too unsure and wait for a person",
        }
    )
    if report.live:
        live = report.live[0]
        text = f"{live['name']}: {live['n']} texts, {percent(live['low'], 0)} to {percent(live['high'], 0)}"
        cards.append({"title": "live accuracy", "value": percent(live["accuracy"], 0), "text": text})
    return cards


def _lines(periods: Sequence[dict[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """One small chart for each emotion, all on one scale."""
    if len(periods) < 2:
        return []
    from emotion_assets.evaluation.metrics import accuracy_interval

    drawn: list[tuple[str, list[Any]]] = []
    for label in labels:
        intervals = [(row["period"], accuracy_interval(row["by"].get(label, 0), row["n"])) for row in periods]
        drawn.append((label, [(period, i.value, i.low, i.high) for period, i in intervals]))
    top = max(value for _, points in drawn for _, value, _, _ in points)
    return [{"label": label, "svg": share_line(points, min(1.0, top * 1.25), label)} for label, points in drawn]


def _place_on_chart(changes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Places on the chart of changes, in percent of its width; zero is in the middle."""
    reach = max((max(abs(row["low"]), abs(row["high"])) for row in changes), default=0.0) or 1.0

    def at(value: float) -> float:
        return round(50 + value / reach * 50, 2)

    return [
        row | {"at": at(row["difference"]), "left": at(row["low"]), "width": round(at(row["high"]) - at(row["low"]), 2)}
        for row in changes
    ]
