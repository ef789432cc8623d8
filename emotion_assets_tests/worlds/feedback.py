"""A small world to run the feedback group in: a home with a trained champion, and feedback files to drop in.

Not a test. Used by the feedback tests, the fault harness and the benchmarks.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa

from emotion_assets.ingest.ledger import ingest
from emotion_assets.profiles.reader import load_settings
from emotion_assets.reports.feedback_page import write_feedback_page
from emotion_assets.reports.pending import record_shown_reviews
from emotion_assets.scoring.score import score_feedback
from emotion_assets.settings.schema import SAMPLE_DIR, ModelSettings, Settings
from emotion_assets.storage.exports import export_tables
from emotion_assets.storage.store import StoredFolder
from emotion_assets.storage.warehouse.database import fetch, tables
from emotion_assets.storage.workspace import Workspace

TINY = Path(__file__).parent.parent / "profiles" / "tiny.yaml"
LABELS = ["joy", "sadness", "anger", "fear", "love", "surprise"]
TIMES = {"ingested_at", "received_at", "scored_at", "recorded_at", "run_id", "reviewed_at", "forgotten_at"}
SALTED = {"salt", "identity_hash"}


def make_workspace(home: Path, train_rows: int = 600, **feedback: Any) -> Workspace:
    """A home whose champion is a tfidf_svm trained on the first rows of the sample corpus, in about a second."""
    from emotion_assets.dataset.splits import Dataset, describe_dataset, load_dataset, write_splits

    workspace = Workspace(settings(home, **feedback))
    store, labels = workspace.store, workspace.settings.labels
    whole = load_dataset(workspace.settings.dataset, labels, 17)
    dataset = Dataset({split: frame.head(train_rows) for split, frame in whole.splits.items()}, "sample")
    with store.writing("datasets") as draft:
        write_splits(dataset, draft.path)
        folder = draft.finish(describe_dataset(dataset, labels))
    store.point(["raw_emotion_dataset"], "datasets", folder)
    train_champion(workspace)
    return workspace


def settings(home: Path, **feedback: Any) -> Settings:
    overrides = {
        "home": str(home),
        "labels": LABELS,
        "dataset": {"source": "sample"},
        "feedback": {"settle_seconds": 0, "target_accuracy": 0.9, "audit_share": 0.2} | feedback,
    }
    return load_settings(str(TINY), environ={}, overrides=overrides)


def train_champion(workspace: Workspace, c: float = 1.0) -> None:
    """Train a tfidf_svm, store its predictions, and make it the champion."""
    from emotion_assets.models.kinds.tfidf_svm import TfidfSvm

    _train(workspace, "tfidf_svm", TfidfSvm(method="tfidf_svm", c=c))


def train_bigru_champion(workspace: Workspace, max_length: int) -> None:
    """The same with the smallest bigru: a champion that reads only the first ``max_length`` words of a text."""
    from emotion_assets.models.kinds.bigru import BiGru
    from emotion_assets.settings.schema import Training

    training = Training(epochs=3, batch_size=32, learning_rate=1e-2)
    small = BiGru(method="bigru", hidden_size=16, embedding_size=16, max_length=max_length, training=training)
    _train(workspace, "bigru", small)


def _train(workspace: Workspace, name: str, model: ModelSettings) -> None:
    """Train a model on the stored dataset, store its predictions, and make it the champion."""
    from emotion_assets.models.kind import TrainingRun
    from emotion_assets.models.registry import kind_of

    store = workspace.store
    inputs = {"dataset": store.current(["raw_emotion_dataset"])}
    with store.writing("models") as draft:
        run = TrainingRun(name, workspace.settings.labels, 17, inputs, draft.path, report=lambda progress: None)
        folder = draft.finish(kind_of(model).train(model, run))
    _promote(workspace, name, folder)


def predict_on_part(workspace: Workspace, rows: int) -> None:
    """Measure the champion again on the first validation rows only, as after a change of the dataset."""
    from emotion_assets.dataset.splits import Dataset, describe_dataset, read_split, write_splits

    store, labels = workspace.store, workspace.settings.labels
    whole = store.current(["raw_emotion_dataset"])
    splits = {split: read_split(whole, split) for split in ("train", "validation", "test")}
    dataset = Dataset(splits | {"validation": splits["validation"].head(rows)}, "sample")
    with store.writing("datasets") as draft:
        write_splits(dataset, draft.path)
        folder = draft.finish(describe_dataset(dataset, labels))
    store.point(["raw_emotion_dataset"], "datasets", folder)
    _promote(workspace, "tfidf_svm", store.current(["champion_model"]))


def _promote(workspace: Workspace, name: str, model: StoredFolder) -> None:
    from emotion_assets.evaluation.predictions import predict

    store = workspace.store
    dataset = store.current(["raw_emotion_dataset"])
    store.point(["baseline_models", name], "models", model)
    store.point(["predictions", name], "predictions", predict(name, model, dataset, store))
    store.point(["champion_model"], "models", model)


def run_feedback(
    workspace: Workspace, run_id: str = "run", rescore: str = "", now: Callable[[], float] = time.time
) -> None:
    """What the feedback job does, without Dagster: ingest, score, report."""
    ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, run_id, now=now)
    score_feedback(workspace.settings, workspace.store, workspace.warehouse, run_id, rescore, now=now)
    with record_shown_reviews(workspace.settings, workspace.warehouse):
        write_feedback_page(workspace.settings, workspace.store, workspace.warehouse)
        export_tables(workspace.warehouse)


def drop_csv(workspace: Workspace, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    path = workspace.settings.inbox / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def drop_jsonl(workspace: Workspace, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    path = workspace.settings.inbox / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def drop_inbox(workspace: Workspace) -> None:
    """Two sources with what goes wrong in real life: repeated texts and ids, a new version, rejects, broken files."""
    texts = sample_texts()
    day = "2026-11-{:02d}T09:00:00Z"
    first = [
        {"id": f"c-{i}", "text": text, "created_at": day.format(i % 28 + 1), "country": "de" if i % 3 else "fr"}
        for i, text in enumerate(texts[:120])
    ]
    drop_csv(workspace, "a_web.csv", first)
    second = [{"text": text, "channel": "app", "stars": i % 5} for i, text in enumerate(texts[60:160])]
    drop_jsonl(workspace, "b_app.jsonl", [*second, {"text": "   "}, {"stars": 3}, {"text": 7}])
    third = [*first[:10], {**first[10], "text": "quite another text"}, {**first[0], "id": "c-new"}]
    drop_csv(workspace, "c_again.csv", third)
    (workspace.settings.inbox / "d_copy.csv").write_bytes((workspace.settings.inbox / "a_web.csv").read_bytes())
    (workspace.settings.inbox / "e_broken.csv").write_bytes(b'id,text\n1,caf\xe9\n2,"never closed\n')
    drop_shop(workspace, texts[100:180])


SHOP_READ = {"shop": {"encoding": "cp1252", "created_at_format": "%d-%m-%Y %H.%M"}}
"""What reads the files of ``drop_shop`` whole."""


def drop_shop(workspace: Workspace, texts: Sequence[str]) -> None:
    """A source of its own: gzip, Excel, a JSON list, UTF-16, ids that another source has too, rows that repeat, and
    what only ``SHOP_READ`` reads: an encoding and times."""
    shop = workspace.settings.inbox / "shop"
    shop.mkdir(parents=True, exist_ok=True)
    lines = [f"c-{i};{text};{i % 28 + 1:02d}-11-2026 10.30\n" for i, text in enumerate(texts[:30])]
    (shop / "a_orders.csv.gz").write_bytes(gzip.compress("".join(["id;text;created_at\n", *lines]).encode(), mtime=0))
    (shop / "b_survey.xlsx").write_bytes(_survey(tuple(texts[20:50])))
    grown = [{"text": text, "tags": ["app", i]} for i, text in enumerate([*texts[40:60], *texts[40:45]])]
    (shop / "c_app.json").write_text(json.dumps([*grown, {"tags": []}], indent=1), encoding="utf-8")
    (shop / "d_app.json").write_text(json.dumps([*grown, {"text": texts[60]}]), encoding="utf-8")
    wide = "".join(["id\tTEXT\n", *(f"w-{i}\t{text}\n" for i, text in enumerate(texts[55:75]))])
    (shop / "e_play.csv").write_bytes(b"\xff\xfe" + wide.encode("utf-16-le"))
    (shop / "f_ansi.csv").write_bytes("text;stars\nd\u00e9\u00e7u, very sad;1\nso happy;5\nshort\n".encode("cp1252"))


@cache
def _survey(texts: tuple[str, ...]) -> bytes:
    """A workbook; made once, since it holds the time at which it was made."""
    book, buffer = openpyxl.Workbook(), io.BytesIO()
    for row in [["Survey"], ["Text", "Stars"], *([text, i % 5] for i, text in enumerate(texts)), [None, 3]]:
        book.active.append(row)
    book.save(buffer)
    return buffer.getvalue()


def sample_texts() -> list[str]:
    """Texts that the champion has not seen."""
    lines = (SAMPLE_DIR / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def state(workspace: Workspace) -> dict[str, list[dict[str, Any]]]:
    """Every table of the warehouse, sorted, without times and run ids: what two runs must agree on."""
    with workspace.warehouse.reading() as db:
        return {name: _comparable(fetch(db, f'SELECT * FROM "{name}"')) for name in tables(db)}


def _comparable(table: pa.Table) -> list[dict[str, Any]]:
    kept = [name for name in table.column_names if name not in TIMES | SALTED]
    return sorted(table.select(kept).to_pylist(), key=lambda row: json.dumps(row, default=str))
