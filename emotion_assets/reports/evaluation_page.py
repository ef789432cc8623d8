"""The evaluation page: what the evaluation tables, the predictions and the dataset report say, for a person to read.

Belongs here: choosing what is shown and in which words. Does not belong here: computing a figure that is kept
(``evaluation``), drawing (``charts``) and the page's form (``templates/evaluation.html``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from emotion_assets.dataset.balance import BalanceReport
from emotion_assets.dataset.splits import OFFICIAL_TEST_FINGERPRINT, read_split
from emotion_assets.evaluation.metrics import accuracy_interval, holm, reliability, scale
from emotion_assets.evaluation.predictions import read_predictions
from emotion_assets.evaluation.promotion import describe_rule
from emotion_assets.evaluation.published import PUBLISHED_ROWS, with_published
from emotion_assets.evaluation.rows import current_predictions
from emotion_assets.reports.charts import Point, histogram, reliability_diagram, scatter
from emotion_assets.reports.render import count, percent, signed_points, write_page
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import BALANCE, RAW_DATASET
from emotion_assets.storage.store import Store, StoredFolder
from emotion_assets.storage.warehouse.database import Warehouse
from emotion_assets.storage.warehouse.evaluation import (
    champion_decisions,
    classes_on,
    comparisons_on,
    confusion_on,
    evaluations_of,
    read_leaderboard,
)

PAGE = "evaluation.html"
MISTAKES = 15
Row = dict[str, Any]


@dataclass(frozen=True)
class Tables:
    """What the page reads from DuckDB, for the test rows of the leaderboard's comparable models."""

    board: list[Row]
    others: list[Row]
    earlier: list[Row]
    classes: list[Row]
    confusion: list[Row]
    pairs: list[Row]
    decisions: list[Row]


def write_evaluation_page(settings: Settings, store: Store, warehouse: Warehouse) -> Path:
    """Write ``reports/evaluation.html`` and return its path. At least one model must be evaluated."""
    dataset = store.current(RAW_DATASET)
    tables = _read_tables(warehouse)
    predictions, missing = current_predictions(settings, store, dataset)
    shown = {row["model"]: row for row in tables.board}
    predictions = {
        name: folder
        for name, folder in predictions.items()
        if name in shown and folder.info["model_digest"] == shown[name]["model_digest"]
    }
    first = tables.board[0]
    champion = _champion(tables.decisions)
    for row in tables.board:
        row["champion"] = champion is not None and row["model_digest"] == champion["model_digest"]
    ranked = with_published(tables.board)
    pairs = _pairs(tables.board, tables.pairs)
    content = {
        "dataset": first["dataset"],
        "profile": settings.profile,
        "is_sample": settings.dataset.source == "sample",
        "test_rows": first["n_rows"],
        "fingerprint": first["split_fingerprint"],
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "missing": missing,
        "cards": _cards(tables.board, champion, pairs),
        "board": tables.board,
        "others": tables.others,
        "earlier": tables.earlier,
        "ranked": ranked,
        **_intervals(ranked),
        "paper": _about_published(first),
        "pairs": pairs,
        "cost_charts": _cost_charts(tables.board),
        "classes": _classes(tables.board, tables.classes),
        "confusions": _confusions(tables.board, tables.confusion),
        "calibration": _calibration(tables.board, predictions),
        "mistakes": _most_confident_mistakes(tables.board, predictions, dataset),
        "data": _data_quality(store, dataset),
        "champion": champion,
        "history": tables.decisions[::-1],
        "rule": describe_rule(settings.evaluation),
    }
    return write_page(settings.reports / PAGE, PAGE, content)


def _read_tables(warehouse: Warehouse) -> Tables:
    with warehouse.reading() as db:
        board = read_leaderboard(db)
        fingerprint = board[0]["split_fingerprint"]
        key = {(row["model"], row["model_version"], row["split_fingerprint"]) for row in board}
        earlier = [
            row
            for row in evaluations_of(db, "test")
            if (row["model"], row["model_version"], row["split_fingerprint"]) not in key
        ]
        return Tables(
            board=[row for row in board if row["comparable"]],
            others=[row for row in board if not row["comparable"]],
            earlier=earlier,
            classes=classes_on(db, "test", fingerprint),
            confusion=confusion_on(db, "test", fingerprint),
            pairs=comparisons_on(db, "test", fingerprint),
            decisions=champion_decisions(db),
        )


def _champion(decisions: Sequence[Row]) -> Row | None:
    if not decisions:
        return None
    last = decisions[-1]
    return last | {"numbers": json.loads(last["numbers"])}


def _cards(board: Sequence[Row], champion: Row | None, pairs: Row) -> list[Row]:
    first = board[0]
    cards = [
        {
            "title": "best on test",
            "value": f"{first['model']} {percent(first['accuracy'])}",
            "text": f"95% interval {percent(first['accuracy_low'])} to {percent(first['accuracy_high'])}",
        }
    ]
    if len(board) > 1:
        equal = pairs["equal_to_first"]
        cards.append(
            {
                "title": "no real difference from it",
                "value": ", ".join(equal) or "none",
                "text": "the test rows cannot tell these from the best"
                if equal
                else "the best is ahead of every other",
            }
        )
    small = min(board, key=lambda row: row["total_parameters"] or 0)
    if small is not first:
        cards.append(
            {
                "title": "smallest model",
                "value": f"{small['model']} {percent(small['accuracy'])}",
                "text": f"{count(small['total_parameters'])} parameters; the best: {count(first['total_parameters'])}",
            }
        )
    if champion is not None:
        text = "pinned by run config" if champion["pinned"] else "chosen on validation; scores feedback"
        cards.append({"title": "champion", "value": champion["model"], "text": text})
    return cards


def _intervals(rows: Sequence[Row]) -> Row:
    """Places on the interval chart, in percent of its width."""
    low = np.floor(min(row["accuracy_low"] for row in rows) * 20) / 20
    high = np.ceil(max(row["accuracy_high"] for row in rows) * 20) / 20

    def at(value: float) -> float:
        return round(float((value - low) / (high - low) * 100), 2)

    return {
        "axis": {"low": float(low), "high": float(high)},
        "intervals": [
            {
                "model": row["model"],
                "accuracy": row["accuracy"],
                "champion": row.get("champion"),
                "published": row["published"],
                "at": at(row["accuracy"]),
                "left": at(row["accuracy_low"]),
                "width": round(at(row["accuracy_high"]) - at(row["accuracy_low"]), 2),
            }
            for row in rows
        ],
    }


def _about_published(first: Row) -> Row:
    official = first["split_fingerprint"] == OFFICIAL_TEST_FINGERPRINT
    interval = accuracy_interval(1840, PUBLISHED_ROWS)
    if official:
        why = (
            "These are the 2,000 rows of the official test split: the published accuracies stand among the rows, in "
            "italics."
        )
    else:
        why = (
            f"The published accuracies are not shown: they are of the 2,000 official test rows (fingerprint "
            f"{OFFICIAL_TEST_FINGERPRINT[:12]}), and these {first['n_rows']:,} rows are others (fingerprint "
            f"{first['split_fingerprint'][:12]}). Figures from different rows cannot be compared."
        )
    return {"shown": official, "why": why, "interval": f"{(interval.high - interval.low) * 50:.1f}"}


def _pairs(board: Sequence[Row], rows: Sequence[Row]) -> Row:
    """The paired comparisons of the versions on the leaderboard, as a list and as a matrix."""
    versions = {row["model"]: row["model_version"] for row in board}
    chosen = [
        row
        for row in rows
        if versions.get(row["model_a"]) == row["version_a"] and versions.get(row["model_b"]) == row["version_b"]
    ]
    corrected = holm([row["mcnemar_p"] for row in chosen]) if chosen else []
    listed = [row | {"corrected_p": p} for row, p in zip(chosen, corrected, strict=True)]
    differences = {}
    for row in listed:
        differences[row["model_a"], row["model_b"]] = (row["accuracy_difference"], row)
        differences[row["model_b"], row["model_a"]] = (-row["accuracy_difference"], row)
    largest = max((abs(difference) for difference, _ in differences.values()), default=1.0) or 1.0

    def cell(a: str, b: str) -> Row | None:
        if (a, b) not in differences:
            return None
        difference, row = differences[a, b]
        return {
            "difference": difference,
            "shade": abs(difference) / largest,
            "real": row["corrected_p"] < 0.05,
            "tip": f"{row['model_a']} minus {row['model_b']}: {signed_points(row['accuracy_difference'])} points, 95% "
            f"interval {signed_points(row['difference_low'])} to {signed_points(row['difference_high'])}, "
            f"p {row['mcnemar_p']:.2g}, corrected {row['corrected_p']:.2g}",
        }

    names = [row["model"] for row in board]
    equal = _not_significantly_worse(names, differences)
    return {
        "names": names,
        "rows": [{"name": a, "cells": [cell(a, b) for b in names]} for a in names],
        "list": sorted(listed, key=lambda row: row["mcnemar_p"]),
        "equal_to_first": equal,
        "sentence": _sentence(names, differences, equal),
    }


def _not_significantly_worse(names: Sequence[str], differences: Mapping[tuple[str, str], Any]) -> list[str]:
    """The models whose difference from the best may be chance, corrected for having compared each with the best."""
    others = [name for name in names[1:] if (names[0], name) in differences]
    corrected = holm([differences[names[0], name][1]["mcnemar_p"] for name in others])
    return [name for name, p in zip(others, corrected, strict=True) if p >= 0.05]


def _sentence(names: Sequence[str], differences: Mapping[tuple[str, str], Any], equal: Sequence[str]) -> str:
    if len(names) < 2 or (names[0], names[1]) not in differences:
        return ""
    difference, row = differences[names[0], names[1]]
    low, high = row["difference_low"], row["difference_high"]
    if row["model_a"] != names[0]:
        low, high = -high, -low
    lead = (
        f"{names[0]} leads {names[1]} by {signed_points(difference)} points (95% interval {signed_points(low)} to "
        f"{signed_points(high)})."
    )
    compared = f"{len(names) - 1} comparisons" if len(names) > 2 else "1 comparison"
    if not equal:
        return f"{lead} Over {compared} with the best, no other model's gap is explained by chance."
    return f"{lead} Over {compared} with the best, chance may explain the gap of {', '.join(equal)}."


def _cost_charts(board: Sequence[Row]) -> list[Row]:
    charts = []
    for column, title, label in (
        ("total_parameters", "Accuracy against size", "parameters"),
        ("train_seconds", "Accuracy against training time", "seconds of training"),
        ("texts_per_second", "Accuracy against speed", "texts scored per second"),
    ):
        points = [
            Point(
                row["model"], row[column], row["accuracy"], row["accuracy_low"], row["accuracy_high"], row["champion"]
            )
            for row in board
            if row[column]
        ]
        if points:
            charts.append({"title": title, "svg": scatter(points, label, "accuracy")})
    return charts


def _classes(board: Sequence[Row], rows: Sequence[Row]) -> Row:
    figures = {(row["model"], row["model_version"], row["emotion"]): row for row in rows}
    labels = list(dict.fromkeys(row["emotion"] for row in rows))
    first = board[0]
    return {
        "labels": labels,
        "support": [figures[first["model"], first["model_version"], label]["support"] for label in labels],
        "rows": [
            {"model": m["model"], "f1": [figures[m["model"], m["model_version"], label]["f1"] for label in labels]}
            for m in board
        ],
    }


def _confusions(board: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """A matrix for each model, the champion first."""
    labels = list(dict.fromkeys(row["actual"] for row in rows))
    n = {(r["model"], r["model_version"], r["actual"], r["predicted"]): r["n"] for r in rows}
    matrices = []
    for model in sorted(board, key=lambda row: not row["champion"]):
        lines = []
        for actual in labels:
            counts = [n[model["model"], model["model_version"], actual, predicted] for predicted in labels]
            total = sum(counts)
            cells = [
                {"label": label, "n": c, "share": c / total if total else 0.0, "right": label == actual}
                for label, c in zip(labels, counts, strict=True)
            ]
            lines.append({"label": actual, "n": total, "cells": cells})
        matrices.append({"model": model["model"], "labels": labels, "rows": lines})
    return matrices


def _calibration(board: Sequence[Row], predictions: Mapping[str, StoredFolder]) -> list[Row]:
    drawn = []
    for row in board:
        if row["model"] in predictions:
            part = read_predictions(predictions[row["model"]], "test")
            bins = [(b.confidence, b.accuracy, b.n) for b in reliability(part.actual, part.probabilities)]
            svg = reliability_diagram(bins, f"Reliability of {row['model']}")
            drawn.append(
                {"name": row["model"], "svg": svg, **{k: row[k] for k in ("ece", "ece_scaled", "temperature")}}
            )
    return drawn


def _most_confident_mistakes(
    board: Sequence[Row], predictions: Mapping[str, StoredFolder], dataset: StoredFolder
) -> Row:
    """The wrong predictions with the highest probability, of the champion or else of the best model."""
    ordered = sorted(board, key=lambda row: not row["champion"])
    row = next((row for row in ordered if row["model"] in predictions), None)
    if row is None:
        return {"model": "", "rows": []}
    part = read_predictions(predictions[row["model"]], "test")
    texts = read_split(dataset, "test")["text"]
    probabilities = scale(part.probabilities, row["temperature"]) if row["temperature"] else part.probabilities
    confidence = probabilities.max(1)
    wrong = np.flatnonzero(~part.right)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    return {
        "model": row["model"],
        "rows": [
            {
                "text": texts.iloc[int(i)],
                "label": part.labels[part.actual[i]],
                "predicted": part.labels[int(probabilities[i].argmax())],
                "confidence": float(confidence[i]),
            }
            for i in worst
        ],
    }


def _data_quality(store: Store, dataset: StoredFolder) -> Row | None:
    """What ``class_balance_report`` found, if it was made for this very dataset."""
    if not store.has(BALANCE):
        return None
    folder = store.current(BALANCE)
    if folder.info["dataset"] != dataset.digest:
        return None
    report = BalanceReport.model_validate_json(folder.file("report.json").read_text(encoding="utf-8"))
    shares = {(s.split, s.emotion): s.share for s in report.shares}
    shifts = {shift.split: shift for shift in report.shifts}
    splits = [{**split.model_dump(), "shift": shifts.get(split.split)} for split in report.splits]
    lengths = [(split.split, split.lengths.histogram) for split in report.splits]
    return {
        "remarks": report.remarks(),
        "splits": splits,
        "shares": [
            {"label": label, "shares": [shares[split.split, label] for split in report.splits]}
            for label in report.labels
        ],
        "largest": max(shares.values()),
        "errors": report.likely_label_errors,
        "overlaps": report.overlaps,
        "lengths": histogram(report.splits[0].lengths.bin_edges, lengths, "words"),
        "examples": [
            {"title": "Texts with conflicting labels", "rows": report.conflicts},
            {"title": "Texts in more than one split", "rows": report.leaks},
        ],
        "label_errors": report.label_errors,
    }
