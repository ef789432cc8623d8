"""Scoring against its peers, the chip, and itself at other sizes: ratio first, in one run on the same rows and cores.

    python -m benchmarks.scoring --checkpoint FOLDER --texts FILE.jsonl     # all-MiniLM-L6-v2, tuned; real texts
    python -m benchmarks.scoring --only embedded growth workers             # needs neither

``peers``     a head tuned on the checkpoint for one pass over a few rows, then the same weights in
              ``transformers.pipeline("text-classification")`` at its default and at its best ``batch_size``, in
              sentence-transformers' ``encode`` with a linear head, in ONNX Runtime's own loop, and in this project.
``chip``      the rate of the scorer in floating-point operations of its linear layers, over that of plain matrix
              products of the same sizes and number format.
``embedded``  a champion of the profile ``embedded``: a Parquet file in, rows committed.
``growth``    cost per row and peak memory at each of ``--sizes``, each in a process of its own.
``workers``   two processes, and two actors of Ray, against one, at 1,000 rows and at the largest size.

Peers that are not installed are said to be so. Bars: 6 times the pipeline's default, 4 times its best, ahead of the
others; 70% of the matrix products' rate; 8,000 texts/s; cost per row within 20%.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks._scoring_peers import Tuned, onnx_rate, pipeline_rates, sentence_transformers_rate, tune
from emotion_assets.ingest.ledger import ingest
from emotion_assets.models.networks import TOKENS, batch_by_tokens
from emotion_assets.models.transformer.scorer import TransformerScorer, faster_formats
from emotion_assets.scoring.calibration import calibrate
from emotion_assets.scoring.score import score_feedback
from emotion_assets.settings.scoring import ScoringSettings
from emotion_assets.storage.store import Store
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds.feedback import make_workspace, sample_texts, settings

FEEDBACK = {"target_accuracy": 0.99, "audit_share": 0.01}
PARTS = ("peers", "chip", "embedded", "growth", "workers")


@dataclass(frozen=True)
class Line:
    """A line of a table: ``rate`` is in texts per second of wall time."""

    what: str
    rate: float
    cpu_rate: float
    note: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a BERT checkpoint folder, for peers and chip")
    parser.add_argument("--texts", type=Path, help="JSON Lines with text and label, for peers and chip")
    parser.add_argument("--rows", type=int, default=20_000, help="texts for peers and chip (default 20,000)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 5_000_000])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--workers-rows", type=int, default=1_000_000, help="rows for two processes against one")
    options = parser.parse_args()
    if options.checkpoint is None or options.texts is None:
        options.only = [part for part in options.only if part not in ("peers", "chip")]
        print("peers and chip: not run, give --checkpoint and --texts")
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    print(f"{threads} threads of torch on {cores} cores; OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY')}")
    with tempfile.TemporaryDirectory(prefix="scoring_") as folder:
        if {"peers", "chip"} & set(options.only):
            texts, labels = read_texts(options.texts, options.rows)
            tuned = tune(options.checkpoint, texts[:2000], labels[:2000], Path(folder))
            if "peers" in options.only:
                compare_with_peers(tuned, texts, Path(folder))
            if "chip" in options.only:
                compare_with_chip(tuned, texts)
        if "embedded" in options.only:
            score_embedded(Path(folder), options.sizes[min(1, len(options.sizes) - 1)])
        if "growth" in options.only:
            grow(Path(folder), options.sizes)
        if "workers" in options.only:
            compare_workers(Path(folder), [1000, options.workers_rows])
    return 0


def read_texts(path: Path, rows: int) -> tuple[list[str], list[str]]:
    """Texts and labels; where the file has fewer rows, its texts come again with a number, so that none is the same."""
    with path.open(encoding="utf-8") as file:
        found = [(row["text"], row["label"]) for row in map(json.loads, file)]
    rounds = [(f"{text} {n}" if n else text, label) for n in range(rows // len(found) + 1) for text, label in found]
    return [text for text, _ in rounds[:rows]], [str(label) for _, label in rounds[:rows]]


def measure(what: str, rows: int, work: Callable[[], Any], note: str = "") -> Line:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Line(what, rows / (time.perf_counter() - wall), rows / (time.process_time() - cpu), note)


def compare_with_peers(tuned: Tuned, texts: Sequence[str], folder: Path) -> None:
    pipelines = pipeline_rates(tuned, texts)
    rates: dict[str, float | str] = {f"pipeline, batch_size {size}": rate for size, rate in pipelines.items()}
    default, best = pipelines[1], max(pipelines.values())
    rates["sentence-transformers, encode and a linear head"] = sentence_transformers_rate(tuned, texts, folder)
    rates["ONNX Runtime, sorted batches of 64"] = onnx_rate(tuned, texts, folder)
    reference: np.ndarray | None = None
    for form in ("fp32", *faster_formats(tuned.model)):
        scorer = TransformerScorer(tuned.model, Store(tuned.model.path.parent), form)
        scorer.score(texts[:64])
        started = time.perf_counter()
        labels = scorer.score(texts).argmax(1)
        rates[f"this project, {form}"] = len(texts) / (time.perf_counter() - started)
        reference = labels if reference is None else reference
        print(f"labels of {form} agree with fp32 on {(labels == reference).mean():.2%} of {len(texts):,} texts")
    print("\nof default  of best  texts/s  what")
    for what, rate in rates.items():
        if isinstance(rate, str):
            print(f"{'-':>10}  {'-':>7}  {'-':>7}  {what}: {rate}")
        else:
            print(f"{rate / default:>10.2f}  {rate / best:>7.2f}  {rate:>7.0f}  {what}")


def compare_with_chip(tuned: Tuned, texts: Sequence[str]) -> None:
    """Both sides in the same number format, on batches of the same tokens."""
    config = json.loads((tuned.checkpoint / "config.json").read_text(encoding="utf-8"))
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    shapes = [(hidden, hidden)] * 4 + [(hidden, inner), (inner, hidden)]
    each = 2 * layers * sum(a * b for a, b in shapes)  # operations a token
    print("\nof the chip  GFLOP/s  products' GFLOP/s  form")
    for form in ("fp32", *faster_formats(tuned.model)):
        scorer = TransformerScorer(tuned.model, Store(tuned.model.path.parent), form)
        rows, _ = scorer.encode(texts)
        scorer.predict(rows[:64])
        tokens = sum(map(len, rows))
        line = measure(form, tokens, lambda scorer=scorer, rows=rows: scorer.predict(rows))  # type: ignore[misc]
        sizes = [
            sum(len(rows[i]) for i in batch) for batch in batch_by_tokens([len(row) for row in rows], TOKENS["cpu"])
        ]
        dtype = torch.bfloat16 if form == "bf16" else torch.float32
        weights = [torch.randn(b, a).to(dtype) for a, b in shapes]

        def products(sizes: list[int] = sizes, weights: list[torch.Tensor] = weights, dtype: Any = dtype) -> None:
            with torch.inference_mode():
                for n in sizes:
                    inputs = {a: torch.randn(n, a, dtype=dtype) for a in (hidden, inner)}
                    for _ in range(layers):
                        for weight in weights:
                            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

        products(sizes[:1])
        bound = measure("products", tokens, products)
        ours, theirs = line.rate * each / 1e9, bound.rate * each / 1e9
        print(f"{ours / theirs:>11.0%}  {ours:>7.0f}  {theirs:>17.0f}  {form}")


def write_feedback(path: Path, rows: int) -> None:
    """A Parquet file of made-up texts, none the same, in row groups of 65,536."""
    rng = random.Random(7)
    pieces = [piece.strip() for text in sample_texts() for piece in text.split(".") if piece.strip()]
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 65_536):
            numbers = range(start, min(start + 65_536, rows))
            texts = [". ".join(rng.choice(pieces) for _ in range(rng.randint(1, 3))) + f" ({i})" for i in numbers]
            writer.write_table(pa.table({"id": [f"r{i}" for i in numbers], "text": texts}, schema))


def peak_megabytes() -> float:
    """Of this process, on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_home(folder: Path, rows: int) -> Workspace:
    """A home with a champion, and one file of feedback read in."""
    shutil.rmtree(folder / "home", ignore_errors=True)
    workspace = make_workspace(folder / "home", train_rows=2000, **FEEDBACK)
    workspace.settings.inbox.mkdir(parents=True, exist_ok=True)
    write_feedback(workspace.settings.inbox / "feedback.parquet", rows)
    return workspace


def take_in(workspace: Workspace) -> None:
    ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, "benchmark")


def score(workspace: Workspace, scoring: ScoringSettings | None = None) -> int:
    settings = workspace.settings.model_copy(update={"scoring": scoring or ScoringSettings(workers=1)})
    return score_feedback(settings, workspace.store, workspace.warehouse, "benchmark").rows


def take_in_and_score(workspace: Workspace) -> None:
    take_in(workspace)
    score(workspace)


def score_embedded(folder: Path, rows: int) -> None:
    workspace = make_home(folder, rows)
    champion = calibrate(workspace.settings, workspace.store).model
    whole = measure("file in, rows committed", rows, lambda: take_in_and_score(workspace))
    print(f"\nof 8,000  texts/s  {champion}, {rows:,} rows, {whole.what}")
    print(f"{whole.rate / 8000:>8.2f}  {whole.rate:>7.0f}  ({whole.cpu_rate:.0f} a second of CPU time)")


def grow(folder: Path, sizes: Sequence[int]) -> None:
    """Each size is scored in a process of its own, whose memory holds nothing of other sizes or of the taking in, and
    whose Arrow asks the system for memory, as in a step of the graph."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    print("\nof the first  CPU us/row  us/row  peak MB  rows scored")
    first = 0.0
    for rows in sizes:
        in_own_process(take_in_new, folder, rows)
        line, peak = in_own_process(score_alone, folder, rows)
        cost = 1e6 / line.cpu_rate
        first = first or cost
        print(f"{cost / first:>12.2f}  {cost:>10.1f}  {1e6 / line.rate:>6.1f}  {peak:>7.0f}  {rows:,}", flush=True)


def in_own_process(work: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def take_in_new(folder: Path, rows: int) -> None:
    take_in(make_home(folder, rows))


def score_alone(folder: Path, rows: int) -> tuple[Line, float]:
    """The rate and this process's peak of memory in MiB; what is loaded once, a few rows have loaded before."""
    with tempfile.TemporaryDirectory() as name:
        take_in_and_score(make_home(Path(name), 1000))
    workspace = Workspace(settings(folder / "home", **FEEDBACK))
    return measure("scored", rows, lambda: score(workspace)), peak_megabytes()


def compare_workers(folder: Path, sizes: Sequence[int]) -> None:
    """Each from rows that wait to rows committed, so the start of processes or of a Ray cluster is part of it."""
    engines = {"one process": ScoringSettings(workers=1), "two processes": ScoringSettings(workers=2)}
    if importlib.util.find_spec("ray"):
        engines["two actors of Ray"] = ScoringSettings(engine="ray", workers=2)
    else:
        print("two actors of Ray: not run, Ray is not installed")
    print("\nof one process  rows/s   seconds     rows  engine")
    for rows in sizes:
        first = 0.0
        for name, scoring in engines.items():
            workspace = make_home(folder, rows)
            take_in(workspace)
            rate = measure(name, rows, lambda w=workspace, s=scoring: score(w, s)).rate  # type: ignore[misc]
            first = first or rate
            print(f"{rate / first:>14.2f}  {rate:>6.0f}  {rows / rate:>8.1f}  {rows:>7,}  {name}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
