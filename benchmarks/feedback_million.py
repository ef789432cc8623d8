"""One million feedback rows in 40 files, ingested and scored by tfidf_svm: is the cost per row flat, and the memory?

    python -m benchmarks.feedback_million [--rows 1000000] [--home FOLDER]

Half of the files come from a source whose columns and times are mapped. Prints, for each tenth of the rows, CPU time
per row and the peak of resident memory (Linux: /proc), then the same for a second run over the same files, which must
add nothing. A third of the rows repeat a text, one in fifty repeats a row. Times are CPU seconds of this process and
its threads, so that other work on the machine does not show.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from emotion_assets.ingest.ledger import ingest
from emotion_assets.reports.feedback_page import write_feedback_page
from emotion_assets.scoring.score import load_champion, score_feedback
from emotion_assets.storage.exports import export_tables
from emotion_assets.storage.warehouse.database import row_counts
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds.feedback import make_workspace, sample_texts

FILES = 40
SOURCES = {
    "shop": {
        "columns": {"id": "Review Link", "text": "Review Text", "created_at": "Submitted"},
        "created_at_format": "%d-%m-%Y %H.%M",
    }
}


@dataclass
class Meter:
    """CPU time and peak memory between marks, one mark for each tenth of the rows."""

    step: int
    done: int = 0
    cpu: float = field(default_factory=time.process_time)
    wall: float = field(default_factory=time.perf_counter)
    lines: list[tuple[int, float, float, float]] = field(default_factory=list)

    def reached(self, rows: int) -> None:
        if rows < self.done + self.step:
            return
        cpu, wall = time.process_time(), time.perf_counter()
        each = 1e6 / (rows - self.done)
        self.lines.append((rows, (cpu - self.cpu) * each, (wall - self.wall) * each, peak_megabytes()))
        self.done, self.cpu, self.wall = rows, time.process_time(), time.perf_counter()
        reset_peak()

    def show(self, what: str) -> None:
        print(f"\n{what}: up to row, CPU us per row, wall us per row, peak MB")
        for rows, cpu, wall, peak in self.lines:
            print(f"  {rows:>9,}  {cpu:7.1f}  {wall:7.1f}  {peak:7.0f}")
        costs, peaks = [line[1] for line in self.lines], [line[3] for line in self.lines]
        mean = sum(costs) / len(costs)
        spread = max(abs(cost - mean) for cost in costs) / mean
        print(
            f"  cost per row within {spread:.0%} of its mean; last tenth against first: {costs[-1] / costs[0] - 1:+.0%}"
        )
        print(f"  memory: {peaks[0]:.0f} MB in the first tenth, {max(peaks):.0f} MB at most")


def peak_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def rows_of(number: int, rows: int, texts: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of one file: new sentences made of pieces of the sample texts, every third of them used before."""
    rng = random.Random(number)
    pieces = [piece.strip() for text in texts for piece in text.replace("!", ".").split(".") if piece.strip()]
    for i in range(rows):
        draw = random.Random(rng.randrange(rows * FILES // 3)) if i % 3 == 0 else rng
        text = ". ".join(draw.choice(pieces) for _ in range(draw.randint(1, 3)))
        text += f" ({draw.randrange(10**6)})"
        yield {
            "id": f"f{number:02d}-{i - (i % 50 == 49):07d}",
            "text": text,
            "created_at": f"2026-{rng.randint(1, 10):02d}-{rng.randint(1, 28):02d}T{rng.randint(0, 23):02d}:00:00Z",
            "country": rng.choice(["de", "fr", "it", "es", "pl"]),
            "channel": rng.choice(["web", "app", "phone"]),
        }


def vendors_rows(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same rows as a vendor's tool would name and date them."""
    for row in rows:
        moment = datetime.fromisoformat(row.pop("created_at")).strftime("%d-%m-%Y %H.%M")
        yield {"Review Link": row.pop("id"), "Review Text": row.pop("text"), "Submitted": moment, **row}


def write_files(inbox: Path, rows: int, texts: list[str]) -> None:
    """Half of the files are the source ``default``, half the mapped source ``shop``; both have every form."""
    (inbox / "shop").mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        made = rows_of(number, rows // FILES, texts)
        stem = inbox / f"feedback_{number:02d}"
        if number % 8 >= 4:
            made, stem = vendors_rows(made), inbox / "shop" / stem.name
        if number % 4 in (0, 3):
            with stem.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
                first = next(made)
                writer = csv.DictWriter(file, list(first))
                writer.writeheader()
                writer.writerow(first)
                writer.writerows(made)
        elif number % 4 == 1:
            with stem.with_suffix(".jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in made)
        else:
            pq.write_table(pa.Table.from_pylist(list(made)), stem.with_suffix(".parquet"))


def run(workspace: Workspace, rows: int, name: str) -> None:
    settings, warehouse = workspace.settings, workspace.warehouse
    started = time.perf_counter()
    reset_peak()
    reading = Meter(rows // 10)
    ingested = 0

    def say(line: str) -> None:
        nonlocal ingested
        ingested += int(line.split(": ")[1].split()[0])
        reading.reached(ingested)

    report = ingest(settings.inbox, warehouse, settings.feedback, name, say)
    ended = time.perf_counter()
    print(f"\n{name}: {len(report.new)} files, {report.rows_accepted:,} rows accepted in {ended - started:.1f} s")
    if reading.lines:
        reading.show("ingesting")
    started = time.perf_counter()
    reset_peak()
    scoring = Meter(rows // 10)
    scored = score_feedback(
        settings, workspace.store, warehouse, name, progress=lambda done, total: scoring.reached(done)
    )
    ended = time.perf_counter()
    print(f"\n{name}: {scored.rows:,} rows scored, {scored.computed:,} texts computed in {ended - started:.1f} s")
    if scoring.lines:
        scoring.show("scoring")
    started = time.perf_counter()
    reset_peak()
    export_tables(warehouse)
    print(f"\n{name}: exports in {time.perf_counter() - started:.1f} s, peak {peak_megabytes():.0f} MB")
    started = time.perf_counter()
    write_feedback_page(settings, workspace.store, warehouse)
    print(f"{name}: page in {time.perf_counter() - started:.1f} s, peak {peak_megabytes():.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--home", type=Path)
    arguments = parser.parse_args()
    home = arguments.home or Path(tempfile.mkdtemp(prefix="feedback_million_"))
    try:
        workspace = make_workspace(
            home / "home", train_rows=2000, target_accuracy=0.99, audit_share=0.01, sources=SOURCES
        )
        started = time.perf_counter()
        write_files(workspace.settings.inbox, arguments.rows, sample_texts())
        print(f"{arguments.rows:,} rows generated in {FILES} files in {time.perf_counter() - started:.0f} s")
        load_champion(workspace).score(["imports and lazy set-up are paid for here, not by the first rows"])
        started = time.perf_counter()
        run(workspace, arguments.rows, "first run")
        first = time.perf_counter() - started
        with workspace.warehouse.reading() as db:
            before = row_counts(db)
        started = time.perf_counter()
        run(workspace, arguments.rows, "second run")
        second = time.perf_counter() - started
        with workspace.warehouse.reading() as db:
            assert row_counts(db) == before, "the second run changed the tables"
        size = workspace.settings.database.stat().st_size / 2**20
        print(f"\nfirst run {first:.0f} s, second run {second:.0f} s and nothing added; database {size:.0f} MB")
        print({name: n for name, n in before.items() if n})
    finally:
        if arguments.home is None:
            shutil.rmtree(home)


if __name__ == "__main__":
    main()
