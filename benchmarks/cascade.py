"""The cascade against its champion alone: the same texts, the same cores, in turn in one process; medians.

    EMOTION_PROFILE=mine.yaml EMOTION_HOME=home python -m benchmarks.cascade --texts FILE.jsonl --rows 1000

The home holds a champion and predictions of the profile's ``scoring.cascade.model`` (``--model`` names another one).
Texts are those of the test split unless ``--texts`` names JSON Lines with a column ``text``; no text that chose the
threshold is among them. Bar, with the real Llama as champion: 20 times its rate, at 99% agreement.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from emotion_assets.dataset.splits import read_split
from emotion_assets.evaluation.metrics import accuracy_interval
from emotion_assets.models.kind import Scores
from emotion_assets.profiles.reader import load_settings
from emotion_assets.scoring.calibration import Champion
from emotion_assets.scoring.cascade import Cascade, calibrate_scoring
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import Settings
from emotion_assets.settings.scoring import CascadeSettings
from emotion_assets.storage.keys import RAW_DATASET
from emotion_assets.storage.store import Store

WARM_UP = 32
REPEATS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the cheap model; the profile's scoring.cascade.model unless given")
    parser.add_argument("--agreement", type=float, default=0.99)
    parser.add_argument("--texts", type=Path, help="JSON Lines with a column text")
    parser.add_argument("--rows", type=int, default=1000, help="of the texts, at most")
    options = parser.parse_args()
    settings = load_settings()
    if options.model:
        asked = CascadeSettings(model=options.model, agreement=options.agreement)
        scoring = settings.scoring.model_copy(update={"cascade": asked})
        settings = settings.model_copy(update={"scoring": scoring})
    if settings.scoring.cascade is None:
        print("cascade: not run, the profile has no scoring.cascade; name its cheap model with --model")
        return 0
    try:
        cascade, remark = calibrate_scoring(settings, Store(settings.store_dir))
        texts = read_texts(settings, options.texts)[: options.rows]
    except UserError as error:
        print(f"cascade: not run, {error}")
        return 0
    if not isinstance(cascade, Cascade):
        print(f"cascade: not run, {remark}")
        return 0
    print(f"{torch.get_num_threads()} threads of torch on {len(os.sched_getaffinity(0))} cores; {len(texts):,} texts")
    compare(cascade, texts)
    return 0


def read_texts(settings: Settings, path: Path | None) -> list[str]:
    """Distinct texts, in the order in which they stand there."""
    if path is None:
        texts = read_split(Store(settings.store_dir).current(RAW_DATASET), "test")["text"].tolist()
    else:
        with path.open(encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line in file]
    return list(dict.fromkeys(texts))


def compare(cascade: Cascade, texts: list[str]) -> None:
    champion, both = cascade.last.load(), cascade.load()
    alone_rates, joined_rates = [], []
    for _ in range(REPEATS):
        alone, rate = measure(champion, texts)
        alone_rates.append(rate)
        joined, rate = measure(both, texts)
        joined_rates.append(rate)
    alone_rate, joined_rate = statistics.median(alone_rates), statistics.median(joined_rates)
    same = alone.probabilities.argmax(1) == joined.probabilities.argmax(1)
    assert joined.by_first is not None
    interval = accuracy_interval(int(same.sum()), len(same))
    print(f"{cascade.first.name} before {cascade.last.name}, from a confidence of {cascade.gate:.4f} on")
    print("\nof the champion's rate  texts/s  champion's texts/s  answered first  agreement (95% interval)")
    print(
        f"{joined_rate / alone_rate:>22.2f}  {joined_rate:>7.1f}  {alone_rate:>18.1f}  "
        f"{joined.by_first.mean():>14.1%}  {interval.value:.2%} ({interval.low:.2%} to {interval.high:.2%})"
    )
    for split in cascade.figures:
        print(
            f"{split.split}: {split.share:.1%} of {split.rows} rows answered first, {split.agreement:.2%} of these as "
            f"the champion would; accuracy {split.accuracy:.4f}, the champion's {split.champion_accuracy:.4f}"
        )


def measure(model: Champion, texts: list[str]) -> tuple[Scores, float]:
    """The scores, and texts per second of wall time."""
    model.answers(texts[:WARM_UP])
    started = time.perf_counter()
    scores = model.answers(texts)
    seconds = time.perf_counter() - started
    assert np.isfinite(scores.probabilities).all()
    return scores, len(texts) / seconds


if __name__ == "__main__":
    sys.exit(main())
