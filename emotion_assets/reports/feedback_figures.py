"""The figures of the feedback page: volumes, changes with their uncertainty, drift, examples, live accuracy.

Belongs here: what is compared with what, and from how many rows on. Does not belong here: SQL
(``warehouse.feedback_report``), distances (``drift``), looks (``pages.feedback``).

"Now" is the moment of the newest row, not the clock: an inbox that has been quiet for a month still has a last week. A
row whose date cannot be right does not move it (``feedback_moments`` in ``warehouse/schema.sql``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from emotion_assets.ingest.redating import undated_by_form
from emotion_assets.reports.drift import Drift, Figures, compare_counts, compare_values, share_difference
from emotion_assets.scoring.calibration import Calibration, champion_predictions
from emotion_assets.scoring.cascade import calibrate_scoring, validation_probabilities
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.store import Store
from emotion_assets.storage.warehouse import feedback_report as ask
from emotion_assets.storage.warehouse.database import Warehouse

Row = dict[str, Any]
WEEK, RECENT = timedelta(days=7), timedelta(days=28)
SAMPLE, ATTRIBUTES, VALUES, EXAMPLES, FILES = 20_000, 8, 8, 3, 12
MOST_DISTINCT_SHARE = 0.5
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class FeedbackReport:
    """Everything that the page shows; each list of rows is ready to be a table."""

    labels: tuple[str, ...]
    overview: Row
    unit: str
    periods: list[Row]
    changes: list[Row]
    last_week: Row
    attributes: list[Row]
    drift: list[Drift]
    typical: list[Row]
    surprising: list[Row]
    rejects: list[Row]
    undated: list[Row]
    files: list[Row]
    models: list[Row]
    live: list[Row]


def make_report(settings: Settings, store: Store, warehouse: Warehouse) -> FeedbackReport:
    """The figures as of now.

    Raises:
        UserError: there is no champion, or the database cannot be used.
    """
    calibration, _ = calibrate_scoring(settings, store)
    with warehouse.reading() as db:
        ask.prepare(db)
        overview = ask.overview(db)
        last = overview["last"]
        unit = _period_length(overview)
        periods = ask.over_time(db, unit)
        weeks = (
            (ask.emotions_between(db, last - WEEK, last), ask.emotions_between(db, last - 2 * WEEK, last - WEEK))
            if last
            else ({}, {})
        )
        recent = ask.recent_rows(db, last - RECENT, SAMPLE) if last else None
        attributes = {name: ask.by_attribute(db, name, VALUES) for name in ask.attribute_names(db, ATTRIBUTES)}
        rest = {
            "rejects": ask.rejects(db),
            "undated": undated_by_form(db),
            "files": ask.newest_files(db, FILES),
            "models": ask.by_model(db),
            "live": _live_accuracy(ask.reviewed(db)),
        }
    drift, unseen = measure_drift(settings, store, calibration, recent) if recent is not None else ([], np.zeros(0))
    return FeedbackReport(
        labels=calibration.labels,
        overview=overview,
        unit=unit,
        periods=_count_by_period(periods, calibration.labels),
        changes=changes(*weeks, calibration.labels),
        last_week={"start": last - WEEK if last else None, "end": last, "n": sum(weeks[0].values())},
        attributes=[
            _attribute(name, rows, calibration.labels) for name, rows in attributes.items() if _has_groups(rows)
        ],
        drift=drift,
        typical=_most_confident_texts(recent, calibration.labels),
        surprising=_texts_with_unseen_words(recent, unseen),
        **rest,
    )


def changes(now: dict[str, int], before: dict[str, int], labels: Sequence[str]) -> list[Row]:
    """Each emotion's share in the last week minus its share in the week before, with an interval; the largest first.

    The intervals hold together: each has a confidence of 1 - 0.05 / labels (Bonferroni). ``is_clear``: zero is
    outside.
    """
    n_now, n_before = sum(now.values()), sum(before.values())
    if not n_now or not n_before:
        return []
    rows = []
    for label in labels:
        a, b = now.get(label, 0), before.get(label, 0)
        difference, low, high = share_difference(a, n_now, b, n_before, 1 - 0.05 / len(labels))
        rows.append(
            {
                "emotion": label,
                "now": a / n_now,
                "before": b / n_before,
                "n_now": n_now,
                "n_before": n_before,
                "difference": difference,
                "low": low,
                "high": high,
                "is_clear": low > 0 or high < 0,
            }
        )
    return sorted(rows, key=lambda row: -abs(row["difference"]))


def _period_length(overview: Row) -> str:
    if not overview["last"]:
        return "day"
    days = (overview["last"] - overview["first"]).days
    return "day" if days <= 45 else "week" if days <= 730 else "month"


def _count_by_period(rows: Sequence[Row], labels: Sequence[str]) -> list[Row]:
    """One row for each period that has feedback: its rows by label."""
    periods: dict[datetime, Row] = {}
    for row in rows:
        period = periods.setdefault(row["period"], {"period": row["period"], "n": 0, "by": dict.fromkeys(labels, 0)})
        period["n"] += row["n"]
        period["by"][row["emotion"]] = period["by"].get(row["emotion"], 0) + row["n"]
    return list(periods.values())


def _has_groups(rows: Sequence[Row]) -> bool:
    """Whether an attribute groups the rows: more than one value, and not nearly as many values as rows."""
    if not rows:
        return False
    shown = {row["value"]: row["rows"] for row in rows}
    return len(shown) > 1 and rows[0]["distinct_values"] <= MOST_DISTINCT_SHARE * sum(shown.values())


def _attribute(name: str, rows: Sequence[Row], labels: Sequence[str]) -> Row:
    values: dict[str, Row] = {}
    for row in rows:
        value = values.setdefault(row["value"], {"value": row["value"], "n": row["rows"], "by": {}})
        value["by"][row["emotion"]] = row["n"]
    ordered = sorted(values.values(), key=_sort_by_number) if all(map(_is_number, values)) else list(values.values())
    listed = [{**value, "shares": [value["by"].get(label, 0) / value["n"] for label in labels]} for value in ordered]
    return {"name": name, "values": listed, "more": rows[0]["distinct_values"] - len(values)}


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _sort_by_number(value: Row) -> float:
    return float(value["value"])


def measure_drift(
    settings: Settings, store: Store, calibration: Calibration, recent: pa.Table
) -> tuple[list[Drift], np.ndarray]:
    """Recent rows against the data the champion comes from, and each recent row's share of unseen words.

    Mix, confidence and unseen words are compared with the validation split, which the model has not learned from; the
    length with the training split.
    """
    from emotion_assets.dataset.splits import read_split

    _, predictions = champion_predictions(settings, store, calibration.folder)
    probabilities = validation_probabilities(settings, store, calibration)
    dataset = store.open("datasets", predictions.info["dataset_digest"])
    train, validation = read_split(dataset, "train")["text"], read_split(dataset, "validation")["text"]
    vocabulary = {word for text in train for word in words(text)}
    texts, labels = recent["text"].to_pylist(), calibration.labels
    unseen, unseen_before = (
        np.array([unseen_share(text, vocabulary) for text in part]) for part in (texts, validation)
    )
    length, length_before = (np.array([len(words(text)) for text in part]) for part in (texts, train))
    sure, sure_before = recent["confidence"].to_numpy(), probabilities.max(1)
    emotions = recent["emotion"].to_pylist()
    mix = [emotions.count(label) for label in labels]
    mix_before = np.bincount(probabilities.argmax(1), minlength=len(labels)).tolist()
    n = len(texts)

    def drift(what: str, reference: str, figures: Figures, examples: tuple[str, str]) -> Drift:
        if n < settings.feedback.drift_min_rows:
            return Drift(what, reference, n, None, None, None, *examples)
        return Drift(what, reference, n, *figures, *examples)

    return [
        drift(
            "predicted emotions",
            "validation",
            compare_counts(mix, mix_before),
            _describe_most_frequent(mix, mix_before, labels),
        ),
        drift(
            "confidence",
            "validation",
            compare_values(sure, sure_before),
            _describe_means(sure, sure_before, "{:.0%} sure"),
        ),
        drift(
            "length",
            "training",
            compare_values(length, length_before),
            _describe_means(length, length_before, "{:.1f} words"),
        ),
        drift(
            "unseen words",
            "validation",
            compare_values(unseen, unseen_before),
            _describe_means(unseen, unseen_before, "{:.1%}"),
        ),
    ], unseen


def _describe_most_frequent(now: Sequence[int], before: Sequence[int], labels: Sequence[str]) -> tuple[str, str]:
    first, second = (f"most: {labels[int(np.argmax(n))]} {max(n) / max(sum(n), 1):.0%}" for n in (now, before))
    return first, second


def _describe_means(now: np.ndarray, before: np.ndarray, form: str) -> tuple[str, str]:
    return form.format(now.mean()) if len(now) else "", form.format(before.mean())


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def unseen_share(text: str, vocabulary: set[str]) -> float:
    """Share of the text's words that no training text has; 0 for a text without words."""
    found = words(text)
    return sum(word not in vocabulary for word in found) / len(found) if found else 0.0


def _most_confident_texts(recent: pa.Table | None, labels: Sequence[str]) -> list[Row]:
    """For each emotion the recent texts that the model is surest of."""
    if recent is None:
        return []
    rows = sorted(recent.to_pylist(), key=lambda row: -row["confidence"])
    chosen = []
    for label in labels:
        texts = list(dict.fromkeys(row["text"] for row in rows if row["emotion"] == label))[:EXAMPLES]
        confidence = {row["text"]: row["confidence"] for row in rows}
        chosen += [{"emotion": label, "text": text, "confidence": confidence[text]} for text in texts]
    return chosen


def _texts_with_unseen_words(recent: pa.Table | None, unseen: np.ndarray) -> list[Row]:
    """Recent answered texts with the largest share of words that are new to the model: look at them first."""
    if recent is None:
        return []
    rows = [
        {**row, "unseen": share}
        for row, share in zip(recent.to_pylist(), unseen.tolist(), strict=True)
        if row["status"] != "abstain" and share > 0
    ]
    rows.sort(key=lambda row: (-row["unseen"], -row["confidence"]))
    return list({row["text"]: row for row in rows}.values())[: 2 * EXAMPLES]


def _live_accuracy(rows: Sequence[Row]) -> list[Row]:
    """Accuracy on reviewed texts, with its interval: the audit sample whole, its answered part, and the abstained."""
    from emotion_assets.evaluation.metrics import accuracy_interval

    def part(name: str, chosen: list[Row]) -> Row | None:
        n, right = sum(row["n"] for row in chosen), sum(row["n_right"] for row in chosen)
        if not n:
            return None
        interval = accuracy_interval(right, n)
        return {"name": name, "n": n, "accuracy": interval.value, "low": interval.low, "high": interval.high}

    parts = [
        part("answered rows of the audit sample", [row for row in rows if row["audit"] and row["answered"]]),
        part("all rows of the audit sample", [row for row in rows if row["audit"]]),
        part("rows that the model abstained from", [row for row in rows if not row["answered"]]),
    ]
    return [row for row in parts if row is not None]
