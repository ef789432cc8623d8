"""Accuracy on real text: every model of a profile, several seeds, mean and spread on validation and test.

    EMOTION_DATASET=path/to/folder python -m benchmarks.accuracy --seeds 3

Settings are to be chosen by the validation column alone. The seed sets everything that is random in a model: its base's
weights and pre-training, adapters, head, order of rows and dropout. Trainings run one after the other, in this process.
Below the table stands how much of each split no model can be sure of: rows with a word that train gives two labels.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from emotion_assets.dataset.splits import describe_dataset, load_dataset, read_splits, write_splits
from emotion_assets.evaluation.predictions import predict, read_predictions
from emotion_assets.jobs.process import TrainingJob, run_job, stored_input
from emotion_assets.models.bigru import words
from emotion_assets.models.registry import kind_of
from emotion_assets.models.transformer.tokens import make_tokenizer, write_tokens
from emotion_assets.profiles.reader import load_settings
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import PretrainedHere, Settings
from emotion_assets.storage.store import Store, StoredFolder

OFTEN, DECIDES, DIVIDED = 50, 0.8, 0.3  # rows of a word; share of its two commonest labels; share of the second


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="*", help="names of the profile's models; all unless given")
    arguments = parser.parse_args()
    settings = load_settings()
    if settings.dataset.source == "sample":
        print("accuracy: the sample says nothing about real text; set EMOTION_DATASET to a folder of real splits")
        return 0
    names = arguments.models or list(settings.models)
    table = Table("model", "validation", "± (sd)", "test", "± (sd)", "base s", "train s", title=settings.dataset.source)
    with tempfile.TemporaryDirectory(prefix="accuracy-") as home:
        bench = Bench(settings, Store(Path(home)))
        for name in names:
            runs = [bench.measure(name, settings.seed + i) for i in range(arguments.seeds)]
            table.add_row(name, *_summary(runs, "validation"), *_summary(runs, "test"), *_seconds(runs))
        splits = read_splits(bench.dataset)
    Console().print(table)
    print_divided_words(splits)
    return 0


def print_divided_words(splits: Mapping[str, pd.DataFrame]) -> None:
    """Words that decide a label in train, but not which: two labels share its rows, each with ``DIVIDED`` or more.

    In a row that holds such a word the better of two guesses is the label that is commoner in train. The last column is
    the accuracy of a model that guesses so there and is right everywhere else.
    """
    train = splits["train"]
    counts: dict[str, Counter[str]] = {}
    for text, label in zip(train["text"], train["label"], strict=True):
        for word in set(words(text)):
            counts.setdefault(word, Counter())[label] += 1
    commoner = {}
    for word, by_label in counts.items():
        (first, n), (_, second) = [*by_label.most_common(2), ("", 0)][:2]
        total = by_label.total()
        if total >= OFTEN and n + second >= DECIDES * total and second >= DIVIDED * total:
            commoner[word] = first
    print(f"{len(commoner)} words whose rows in train are divided between two labels: {', '.join(sorted(commoner))}")
    for split in ("validation", "test"):
        rows = splits[split]
        guesses = [
            (guess, label)
            for text, label in zip(rows["text"], rows["label"], strict=True)
            if (guess := next((commoner[word] for word in words(text) if word in commoner), None))
        ]
        wrong = sum(guess != label for guess, label in guesses)
        print(
            f"{split}: {len(guesses)} of {len(rows)} rows hold one, {wrong} of these another label than its commoner"
            f" one: {1 - wrong / len(rows):.3f} with all else right"
        )


class Bench:
    """The dataset and token folders that all runs share."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        dataset = load_dataset(settings.dataset, settings.labels, settings.seed)
        with store.writing("datasets") as draft:
            write_splits(dataset, draft.path)
            self.dataset = draft.finish(describe_dataset(dataset, settings.labels))
        self._tokens: dict[str, StoredFolder] = {}

    def tokens(self, family: str) -> StoredFolder:
        if family not in self._tokens:
            settings, splits = self.settings, read_splits(self.dataset)
            part = settings.tokenizers[family]
            tokenizer = make_tokenizer(part, splits["train"]["text"].tolist(), family)
            with self.store.writing("tokens") as draft:
                write_tokens(draft.path, tokenizer, splits, settings.labels, part.max_length, settings.instruction)
                self._tokens[family] = draft.finish({})
        return self._tokens[family]

    def measure(self, name: str, seed: int) -> dict[str, float]:
        """Accuracy on validation and test, and seconds for the base and for the training."""
        model = self.settings.models[name]
        base_seconds = 0.0
        inputs = {"dataset": self.dataset}
        if model.base_name:
            base = self._base(model.base_name, seed)
            base_seconds = base.info.get("train_seconds", 0.0)
            inputs = {"base": base, "tokens": self.tokens(self.settings.bases[model.base_name].tokenizer)}
        trained = self._train(kind_of(model).name, name, model, seed, inputs)
        predictions = predict(name, trained, self.dataset, self.store)
        scores = {split: float(read_predictions(predictions, split).right.mean()) for split in ("validation", "test")}
        print(name, seed, scores, f"{base_seconds:.0f} s + {trained.info['train_seconds']:.0f} s", flush=True)
        return {**scores, "base": base_seconds, "train": trained.info["train_seconds"]}

    def _base(self, name: str, seed: int) -> StoredFolder:
        from emotion_assets.models.bases import resolve_checkpoint

        base = self.settings.bases[name]
        if isinstance(base.source, PretrainedHere):
            return self._train(
                "pretrain", name, base.source, seed, {"tokens": self.tokens(base.tokenizer)}, "base_models"
            )
        with self.store.writing("base_models") as draft:
            return draft.finish(resolve_checkpoint(base, name, draft.path, {}))

    def _train(
        self, kind: str, name: str, part: Any, seed: int, inputs: dict[str, StoredFolder], store_kind: str = "models"
    ) -> StoredFolder:
        with self.store.writing(store_kind) as draft, tempfile.TemporaryDirectory() as checkpoints:
            job = TrainingJob(
                kind=kind,
                name=name,
                settings=part.model_dump(mode="json"),
                labels=list(self.settings.labels),
                seed=seed,
                inputs={role: stored_input(folder) for role, folder in inputs.items()},
                target=str(draft.path),
                checkpoints=checkpoints,
            )
            return draft.finish(run_job(job, lambda line: print(f"  {line}", file=sys.stderr, flush=True)))


def _summary(runs: list[dict[str, float]], split: str) -> tuple[str, str]:
    values = [run[split] for run in runs]
    return f"{statistics.mean(values):.4f}", f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""


def _seconds(runs: list[dict[str, float]]) -> tuple[str, str]:
    return f"{statistics.mean(run['base'] for run in runs):.0f}", f"{statistics.mean(run['train'] for run in runs):.0f}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
