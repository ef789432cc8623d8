"""Choose the champion and record why: the rule of ``promotion`` applied to what the tables hold.

The decision in DuckDB is the truth; the pointer in the store follows it. A crash between the two heals with the next
run, which comes to the same decision and moves the pointer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from emotion_assets.evaluation.predictions import predict
from emotion_assets.evaluation.promotion import Candidate, Decision, champion_before, decide
from emotion_assets.evaluation.rows import EvaluationContext, evaluate_model
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import CHAMPION, CHAMPION_PREDICTIONS, RAW_DATASET, model_key, predictions_key
from emotion_assets.storage.store import Store, StoredFolder, StoreError, fingerprint
from emotion_assets.storage.warehouse.database import Warehouse, insert_rows
from emotion_assets.storage.warehouse.evaluation import (
    add_evaluations,
    champion_decisions,
    evaluations_on,
    model_versions,
)
from emotion_assets.storage.warehouse.tables import ChampionDecision

Row = dict[str, Any]


class ChampionError(UserError):
    """A champion that cannot be chosen as asked."""


@dataclass(frozen=True)
class ChampionRequest:
    """What a person asks for: ``pin`` a model or version, ``rollback``, or ``unpin``; all off lets the rule decide."""

    pin: str = ""
    rollback: bool = False
    unpin: bool = False


@dataclass(frozen=True)
class Choice:
    """The decision in force (a row of ``champion_decisions``), the champion, and its predictions on the dataset."""

    decision: Row
    model: StoredFolder
    predictions: StoredFolder


def choose_champion(
    settings: Settings, store: Store, warehouse: Warehouse, request: ChampionRequest, run_id: str, now: datetime
) -> Choice:
    """Decide, record the decision if it is new, and move the pointers. A pin or rollback holds until unpinned.

    The champion may be a version that its model's own predictions have moved on from, so its predictions get a pointer
    of their own, ``CHAMPION_PREDICTIONS``.

    Raises:
        ChampionError: requests that exclude each other, nothing evaluated yet, an unknown pin, nothing to roll back to,
            or no candidate.
        DataError: the requested model does not know the dataset's labels.
        StoreError: the folder of the requested model is not in the store any more.
    """
    if [bool(request.pin), request.rollback, request.unpin].count(True) > 1:
        raise ChampionError("champion_model: pin, rollback and unpin exclude each other; give one of them")
    with warehouse.reading() as db:
        history, versions = champion_decisions(db), model_versions(db)
    if not versions:
        raise ChampionError("champion_model: no model was evaluated yet; materialise evaluation_table first")
    context = EvaluationContext(settings.profile, store.current(RAW_DATASET), run_id, now)
    last = history[-1] if history else None
    if last and last["run_id"] == run_id:
        made = last  # a step that is tried again must not roll back twice
    elif request.pin:
        made = _pin(settings, store, versions, request.pin)
    elif request.rollback:
        made = _roll_back(history)
    elif last and last["pinned"] and not request.unpin:
        made = last
    else:
        made = _apply_rule(settings, store, warehouse, last, context)
    model = store.open("models", made["model_digest"])
    predictions = predict(made["model"], model, context.dataset, store)
    if last and last["evidence"] == made["evidence"]:
        decision = last
    else:
        if last:  # decisions are read in the order of their times, and a clock may jump back
            now = max(now, last["decided_at"] + timedelta(microseconds=1))
        decision = {"decided_at": now, "run_id": run_id, **_predecessor_columns(last), **made}
        with warehouse.writing() as db:
            if champion_decisions(db) != history:
                raise ChampionError("champion_model: another run has decided in the meantime; materialise it again")
            insert_rows(db, [ChampionDecision(**decision)])
    store.point(CHAMPION_PREDICTIONS, "predictions", predictions)
    store.point(CHAMPION, "models", model)
    return Choice(decision, model, predictions)


def _predecessor_columns(last: Row | None) -> Row:
    columns = {"model": "model", "version": "model_version", "digest": "model_digest"}
    return {f"predecessor_{part}": last[column] if last else None for part, column in columns.items()}


def _pin(settings: Settings, store: Store, versions: Sequence[Row], pin: str) -> Row:
    if pin in settings.models:
        model, digest = pin, store.current(model_key(pin), verify=False).digest
    else:
        matches = [row for row in versions if pin in (row["model_version"], row["model_digest"])]
        if not matches:
            choices = ", ".join([*settings.models, *sorted({row["model_version"] for row in versions})])
            raise ChampionError(f"champion_model: pin {pin!r} is no model or version; use one of {choices}")
        model, digest = matches[0]["model"], matches[0]["model_digest"]
    reason = f"pinned to {model} by run config; holds until unpin"
    return _decision_by_request("pinned", model, digest, reason, fingerprint("pinned", digest))


def _roll_back(history: Sequence[Row]) -> Row:
    digest = champion_before([(row["action"], row["model_digest"]) for row in history])
    if digest is None:
        raise ChampionError("champion_model: there is no earlier champion to roll back to; pin a model instead")
    model = next(row["model"] for row in reversed(history) if row["model_digest"] == digest)
    reason = f"rolled back from {history[-1]['model']} to {model} by run config; holds until unpin"
    return _decision_by_request("rolled_back", model, digest, reason, fingerprint("rolled_back", len(history)))


def _decision_by_request(action: str, model: str, digest: str, reason: str, evidence: str) -> Row:
    return {
        "action": action,
        "pinned": True,
        "model": model,
        "model_version": digest[:12],
        "model_digest": digest,
        "split_fingerprint": None,
        "reason": reason,
        "numbers": "[]",
        "evidence": evidence,
    }


def _apply_rule(
    settings: Settings, store: Store, warehouse: Warehouse, last: Row | None, context: EvaluationContext
) -> Row:
    """The rule's decision among the newest version of each model of the profile, and the champion so far."""
    validation_rows = context.fingerprint("validation")
    current = _current_versions(settings, store)
    with warehouse.reading() as db:
        rows = evaluations_on(db, "validation", validation_rows)
    candidates = [_candidate(row) for row in rows if current.get(row["model"]) == row["model_version"]]
    if not candidates:
        raise ChampionError(
            "champion_model: no model is evaluated on the current validation rows; materialise evaluation_table"
        )
    incumbent, remark = None, ""
    if last is not None:
        measured = [row for row in rows if row["model_version"] == last["model_version"]]
        try:
            row = measured[0] if measured else _evaluate_incumbent(settings, store, warehouse, last, context)
            incumbent = _candidate(row)
        except UserError as error:
            remark = f" (the champion so far cannot be measured on these rows: {error})"
    decision = decide(candidates, incumbent, settings.evaluation)
    return _decision_row(decision, settings, validation_rows, candidates, remark)


def _decision_row(
    decision: Decision, settings: Settings, split_fingerprint: str, candidates: Sequence[Candidate], remark: str
) -> Row:
    measured = sorted((c.model, c.model_version, c.accuracy) for c in candidates)
    chosen = decision.chosen
    return {
        "action": decision.action,
        "pinned": False,
        "model": chosen.model,
        "model_version": chosen.model_version,
        "model_digest": chosen.model_digest,
        "split_fingerprint": split_fingerprint,
        "reason": decision.reason + remark,
        "numbers": json.dumps([verdict.as_dict() for verdict in decision.verdicts]),
        "evidence": fingerprint(chosen.model_digest, split_fingerprint, measured, settings.evaluation.model_dump()),
    }


def _evaluate_incumbent(
    settings: Settings, store: Store, warehouse: Warehouse, last: Row, context: EvaluationContext
) -> Row:
    """Measure a champion that the current predictions do not cover: retrained or removed since, on new rows."""
    model = store.open("models", last["model_digest"])
    predictions = predict(last["model"], model, context.dataset, store)
    rows = evaluate_model(last["model"], settings.models.get(last["model"]), predictions, model, context)
    with warehouse.writing() as db:
        add_evaluations(db, rows)
    with warehouse.reading() as db:
        evaluations = evaluations_on(db, "validation", context.fingerprint("validation"))
    return next(row for row in evaluations if row["model_version"] == last["model_version"])


def _current_versions(settings: Settings, store: Store) -> dict[str, str]:
    """The model version that the current predictions of each model of the profile come from."""
    versions = {}
    for name in settings.models:
        with suppress(StoreError):  # a model whose predictions are lost is no candidate
            versions[name] = store.current(predictions_key(name), verify=False).info["model_digest"][:12]
    return versions


def _candidate(row: Mapping[str, Any]) -> Candidate:
    return Candidate(
        model=row["model"],
        model_version=row["model_version"],
        model_digest=row["model_digest"],
        split_fingerprint=row["split_fingerprint"],
        accuracy=row["accuracy"],
        macro_f1=row["macro_f1"],
        total_parameters=row["total_parameters"] or 0,
        recalls=row["recalls"] or {},
    )
