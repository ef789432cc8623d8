"""Scoring: the champion's answer for every row that has none, the scores of a second in one transaction.

Belongs here: which texts are scored, in which batches, what status a score gets, which rows a person should see. Does
not belong here: where the model runs (``engines``), what is SQL (``warehouse.scores``).

The rows to be scored are written to a nameless file first and come back with equal texts behind each other. So an
identical text is computed once, the database is free while the model works, and memory does not grow with the rows. The
engine reads and scores ahead while this thread, the only one that writes, stores what came before.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from emotion_assets.scoring import decision
from emotion_assets.scoring.calibration import Calibration, Champion
from emotion_assets.scoring.cascade import Cascade, calibrate_scoring
from emotion_assets.scoring.decision import ABSTAIN, OK, TRUNCATED
from emotion_assets.scoring.engines.engine import score_batches
from emotion_assets.scoring.engines.registry import make_engine
from emotion_assets.scoring.spool import Spool
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.failpoints import failpoint
from emotion_assets.storage.store import Store
from emotion_assets.storage.warehouse.database import Warehouse, room_to_write
from emotion_assets.storage.warehouse.memory import in_little_memory, limit_memory
from emotion_assets.storage.warehouse.scores import (
    churn,
    current_model,
    list_waiting,
    record_model,
    store_scores,
    waiting_texts,
)
from emotion_assets.storage.warehouse.tables import ScoringModel

if TYPE_CHECKING:
    from emotion_assets.models.kind import Scores
    from emotion_assets.storage.workspace import Workspace

SPOOL_ROWS = 1024
ROW_BYTES = 50
"""Of a row that waits, beside its text, about."""
BATCH_CHARACTERS = 16_000_000
STORE_SECONDS = 1.0
STORE_SHARE = 0.1
STORE_BYTES = 16_000_000
"""Scores are stored as soon as they are this old, and storing takes no more than this share of the time, or are this
large. A commit costs the more the larger the database is, so one for each batch of a fast model would make a row
dearer, the more rows there are."""
COLUMNS = ("text", "feedback_id", "probabilities", "truncated", "answered_by")
"""Of the rows that wait, as ``warehouse.scores.waiting_texts`` gives them."""


@dataclass(frozen=True)
class ScoringReport:
    """What a scoring run did. ``computed`` texts went through the model; ``redecided`` rows scored before got another
    status from a changed threshold; ``churn`` is as ``warehouse.scores.churn`` gives it, empty unless history was
    rescored. ``by_first`` rows were answered by the first model of the ``cascade``; ``remark`` says why there is none
    where one was asked for."""

    calibration: Calibration
    rows: int
    computed: int
    statuses: dict[str, int]
    redecided: int
    churn: tuple[dict[str, Any], ...]
    by_first: int
    remark: str

    @property
    def cascade(self) -> Cascade | None:
        return self.calibration if isinstance(self.calibration, Cascade) else None

    @property
    def model(self) -> str:
        return self.calibration.model

    @property
    def model_version(self) -> str:
        return self.calibration.version

    @property
    def threshold(self) -> float:
        return self.calibration.threshold


def parse_rescore(value: str | None) -> date | None:
    """``None`` for no rescoring, ``all``, or ``since YYYY-MM-DD``: the day from which on history is scored again.

    Raises:
        UserError: anything else.
    """
    if not value:
        return None
    if value == "all":
        return date.min
    word, _, day = value.partition(" ")
    try:
        if word != "since":
            raise ValueError
        return date.fromisoformat(day.strip())
    except ValueError:
        raise UserError(
            f"rescore: {value!r} is no choice; use all, or since and a day as in: since 2026-01-31"
        ) from None


def load_champion(workspace: Workspace | None = None) -> Champion:
    """The current champion, or the cascade of the settings, calibrated and loaded: of the home and profile of the
    environment, unless told otherwise.

    Raises as ``calibrate_scoring`` and ``Calibration.load`` do.
    """
    if workspace is None:
        from emotion_assets.profiles.reader import load_settings
        from emotion_assets.storage.workspace import Workspace

        workspace = Workspace(load_settings())
    return calibrate_scoring(workspace.settings, workspace.store)[0].load()


def score_feedback(
    settings: Settings,
    store: Store,
    warehouse: Warehouse,
    run_id: str,
    rescore: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    now: Callable[[], float] = time.time,
) -> ScoringReport:
    """Score whatever no model has scored yet; with ``rescore`` also history that the champion has not scored.

    A threshold or temperature that is another than before is applied to the champion's earlier scores first.

    Raises:
        UserError: no champion yet, its predictions are missing, or ``rescore`` is not understood.
        WarehouseError: the database cannot be used, or the disk is full; what was stored before stays stored.
    """
    since = parse_rescore(rescore)
    calibration, remark = calibrate_scoring(settings, store)
    version = calibration.version
    redecided = _record_champion(warehouse, calibration, now())
    statuses = dict.fromkeys((OK, ABSTAIN, TRUNCATED), 0)
    computed = by_first = 0
    writer = _Writer(warehouse, settings.feedback.audit_share)
    with room_to_write(warehouse.path), tempfile.TemporaryFile(dir=warehouse.path.parent) as spool:
        total, waiting = _spool(warehouse, version, since, spool)
        failpoint("scoring.spooled")
        if total:
            batches = _batches(waiting.read(), settings.feedback.batch_size)
            engine = make_engine(settings.scoring)
            for batch, fresh in score_batches(engine, calibration, batches, lambda batch: batch.new_texts):
                computed += len(batch.new)
                scores, answered_by = _with_stored(batch, fresh, calibration)
                rows = _rows(batch, scores, answered_by, calibration, run_id, now())
                by_first += _count_first(rows, calibration)
                writer.add(rows)
                for status, n in zip(*np.unique(rows["status"].to_numpy(), return_counts=True), strict=True):
                    statuses[str(status)] += int(n)
                progress(sum(statuses.values()), total)
            writer.store()
    changed: list[dict[str, Any]] = []
    if since is not None:
        with warehouse.reading() as db:
            changed = churn(db, version)
    return ScoringReport(
        calibration=calibration,
        rows=writer.stored,
        computed=computed,
        statuses=statuses,
        redecided=redecided,
        churn=tuple(changed),
        by_first=by_first,
        remark=remark,
    )


class _Writer:
    """Stores scored rows, those of a second in one transaction."""

    def __init__(self, warehouse: Warehouse, audit_share: float) -> None:
        self.stored = 0
        self._warehouse, self._audit_share = warehouse, audit_share
        self._waiting: list[pa.Table] = []
        self._bytes = 0
        self._last = time.monotonic()
        self._pause = STORE_SECONDS

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= STORE_BYTES or time.monotonic() - self._last >= self._pause:
            self.store()

    def store(self) -> None:
        """Store what waits."""
        started = time.monotonic()
        if self._waiting:
            rows, self._waiting, self._bytes = pa.concat_tables(self._waiting), [], 0
            queue = _queue(rows, self._audit_share)
            failpoint("scoring.mid_batch")
            with self._warehouse.writing() as db:
                limit_memory(db, 2 * (rows.nbytes + queue.nbytes))
                self.stored += store_scores(db, rows.drop(["text"]), queue)
                failpoint("scoring.stored")
        self._last = time.monotonic()
        self._pause = max(STORE_SECONDS, (self._last - started) / STORE_SHARE)


def _count_first(rows: pa.Table, calibration: Calibration) -> int:
    """How many rows the first model of a cascade has answered."""
    first = calibration.columns.get("first_version")
    return rows["answered_by"].to_pylist().count(first) if first else 0


@dataclass(frozen=True)
class _Batch:
    """Distinct texts; ``ids[i]`` are the rows with ``texts[i]``; ``stored[i]`` its earlier probabilities, if any."""

    texts: list[str]
    ids: list[list[str]]
    stored: list[list[float] | None]
    truncated: list[bool | None]
    answered_by: list[str | None]

    @property
    def new(self) -> list[int]:
        """Which texts the model has to compute."""
        return [i for i, stored in enumerate(self.stored) if stored is None]

    @property
    def new_texts(self) -> list[str]:
        return [self.texts[i] for i in self.new]


def _record_champion(warehouse: Warehouse, calibration: Calibration, now: float) -> int:
    """Note the champion and how it is read, if that is new; how many earlier scores got another status by it."""
    row: dict[str, Any] = {
        "model_version": calibration.version,
        "model": calibration.model,
        "labels": list(calibration.labels),
        "temperature": calibration.temperature,
        "threshold": calibration.threshold,
        "target_accuracy": calibration.target_accuracy,
        "coverage": calibration.coverage,
        "validation_rows": calibration.validation_rows,
        "decision_rule": decision.RULE,
        **calibration.columns,
    }
    with warehouse.reading() as db:
        current = current_model(db)
    if current is not None and all(current[key] == value for key, value in row.items()):
        return 0
    with warehouse.writing() as db:
        return record_model(
            db, ScoringModel(**row, place=0, recorded_at=datetime.fromtimestamp(now, UTC)), decision.decide
        )


def _spool(warehouse: Warehouse, version: str, since: date | None, file: IO[bytes]) -> tuple[int, Spool]:
    """Write the rows that wait to a file; how many they are, and the file to read them from."""
    with warehouse.reading() as db:

        def write() -> tuple[int, Spool]:
            total, size = list_waiting(db, version, since)
            spool = Spool(file, size + ROW_BYTES * total)
            if total:  # else nothing of the database needs to be read
                for rows in waiting_texts(db, version, SPOOL_ROWS):
                    spool.add(rows)
            return total, spool

        return in_little_memory(db, write)


def _batches(rows: Iterable[pa.RecordBatch], size: int) -> Iterator[_Batch]:
    """Batches of at most ``size`` distinct texts and about ``BATCH_CHARACTERS`` characters."""
    batch, characters = _Batch([], [], [], [], []), 0
    last = None
    for part in rows:
        columns = (part[name].to_pylist() for name in COLUMNS)
        for text, feedback_id, stored, truncated, answered_by in zip(*columns, strict=True):
            if text == last:
                batch.ids[-1].append(feedback_id)
                continue
            last = text
            if batch.texts and (len(batch.texts) >= size or characters + len(text) > BATCH_CHARACTERS):
                yield batch
                batch, characters = _Batch([], [], [], [], []), 0
            batch.texts.append(text)
            batch.ids.append([feedback_id])
            batch.stored.append(stored)
            batch.truncated.append(truncated)
            batch.answered_by.append(answered_by)
            characters += len(text)
    if batch.texts:
        yield batch


def _with_stored(batch: _Batch, computed: Scores | None, calibration: Calibration) -> tuple[Scores, np.ndarray]:
    """The scores of a whole batch: those of its new texts, which were ``computed``, and those stored before; and which
    model of a cascade gave each."""
    from emotion_assets.models.kind import Scores

    probabilities = np.zeros((len(batch.texts), len(calibration.labels)), dtype=np.float32)
    truncated = np.array([bool(value) for value in batch.truncated])
    for i, stored in enumerate(batch.stored):
        if stored is not None:
            probabilities[i] = stored
    answered_by = np.array(batch.answered_by, dtype=object)
    if computed is not None:
        probabilities[batch.new], truncated[batch.new] = computed.probabilities, computed.truncated
        answered_by[batch.new] = calibration.who_answered(computed)
    return Scores(probabilities, truncated), answered_by


def _rows(
    batch: _Batch, scores: Scores, answered_by: np.ndarray, calibration: Calibration, run_id: str, now: float
) -> pa.Table:
    """The rows of ``scored_feedback`` for a batch, with their text."""
    emotions = np.array(calibration.labels, dtype=object)[scores.probabilities.argmax(1)]
    repeats = np.repeat(np.arange(len(batch.texts)), [len(ids) for ids in batch.ids])
    flat = pa.array(scores.probabilities[repeats].ravel())
    n = len(repeats)
    return pa.table(
        {
            "feedback_id": pa.array([identity for ids in batch.ids for identity in ids], pa.string()),
            "text": pa.array(batch.texts, pa.string()).take(pa.array(repeats)),
            "model_version": pa.array([calibration.version] * n, pa.string()),
            "emotion": pa.array(emotions[repeats], pa.string()),
            "confidence": pa.array(scores.probabilities.max(1).astype(float)[repeats]),
            "probabilities": pa.FixedSizeListArray.from_arrays(flat, len(calibration.labels)),
            "status": pa.array(calibration.statuses(scores)[repeats].astype(object), pa.string()),
            "scored_at": pa.array([datetime.fromtimestamp(now, UTC)] * n, pa.timestamp("us", "UTC")),
            "run_id": pa.array([run_id] * n, pa.string()),
            "truncated": pa.array(scores.truncated[repeats]),
            "answered_by": pa.array(answered_by[repeats], pa.string()),
        }
    )


def _queue(rows: pa.Table, audit_share: float) -> pa.Table:
    """The rows a person should see: those the model was not sure of, and a sample drawn whatever it answered."""
    audit = np.array([in_audit(identity, audit_share) for identity in rows["feedback_id"].to_pylist()])
    unsure = rows["status"].to_numpy() == ABSTAIN
    chosen = rows.select(["feedback_id", "text", "emotion", "confidence"])
    chosen = chosen.append_column("reason", pa.array(np.where(unsure, "abstain", "audit").astype(object), pa.string()))
    return chosen.append_column("audit", pa.array(audit)).filter(pa.array(audit | unsure))


def in_audit(feedback_id: str, share: float) -> bool:
    """Whether a row is in the random sample. The draw depends on the id alone, so a run that is repeated after a crash
    draws the same rows."""
    draw = int.from_bytes(hashlib.sha256(f"audit:{feedback_id}".encode()).digest()[:8], "big")
    return draw < share * 2**64
