"""Distillation: a small network that learns from the probabilities of another model (Hinton, Vinyals and Dean 2015,
"Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531).

Its words begin where a teacher that has vectors of them puts them. It sees the training rows, with their labels and the
teacher's, and with the teacher's alone new texts that are made of these (``models.recombination``) and texts of the
feedback. What is kept of the feedback is what the weights have learned, and how many texts there were: no text, and no
word that is not in the training rows too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import kl_div, nll_loss

from emotion_assets.dataset.balance import normalised
from emotion_assets.dataset.files import SPLITS
from emotion_assets.dataset.splits import read_split
from emotion_assets.models.bigru import KnownWords, Vocabulary, fit_bigru
from emotion_assets.models.kind import Scorer, TrainingRun
from emotion_assets.models.kinds.distilled import Distilled, DistilledKind
from emotion_assets.models.recombination import recombine
from emotion_assets.settings.errors import DataError
from emotion_assets.storage.store import Store
from emotion_assets.training.runtime import choose_runtime

NO_LABEL = -100
"""The target of a row without a label; what torch ignores."""
ROWS_AT_ONCE = 512
REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class TeacherProgress:
    """How many texts the teacher has read."""

    name: str
    teacher: str
    done: int
    texts: int
    seconds: float

    def line(self) -> str:
        rate = self.done / self.seconds
        left = (self.texts - self.done) / rate
        return (
            f"{self.name}: {self.teacher} has labelled {self.done} of {self.texts} texts, {rate:,.0f} texts/s, "
            f"about {left:.0f} s left"
        )


def distil(settings: Distilled, run: TrainingRun) -> dict[str, Any]:
    """Train the student and save it into ``run.target``; returns what was measured.

    Raises:
        DataError: the teacher knows other labels than the dataset has.
        StoreError: something that the teacher needs is not in the store any more.
    """
    runtime = choose_runtime("fp32")
    train = read_split(run.inputs["dataset"], "train")
    recombined = recombine(train["text"].tolist(), settings.recombined_texts, run.seed)
    made, feedback = unknown_texts(run, recombined, run.feedback)
    texts = [*train["text"], *made, *feedback]
    targets = torch.full((len(texts),), NO_LABEL)
    targets[: len(train)] = torch.tensor([run.labels.index(label) for label in train["label"]])

    vocabulary = Vocabulary.learn(train["text"].tolist(), settings.vocab_size, 1 if settings.hidden_words else 2)
    compute_once = run.resume_state.compute_once if run.resume_state else _compute

    started = time.monotonic()
    answers = compute_once("teacher", lambda: torch.from_numpy(ask_teacher(settings.teacher, run, texts)))
    vectors = compute_once(
        "word_vectors", lambda: first_vectors(settings.teacher, run, vocabulary.words, settings.embedding_size)
    )
    teacher_seconds = time.monotonic() - started
    known = KnownWords(vocabulary, vectors if len(vectors) else None, settings.hidden_words)
    answers, targets = answers.to(runtime.device), targets.to(runtime.device)

    def loss_of(scores: torch.Tensor, chosen: list[int]) -> tuple[torch.Tensor, float]:
        teacher, labels = answers[chosen], targets[chosen]
        return distillation_loss(scores, teacher, labels, settings.temperature, settings.teacher_weight), len(chosen)

    return fit_bigru(DistilledKind.name, settings, run, texts, known, loss_of, runtime) | {
        "teacher": f"{settings.teacher} {run.inputs['teacher'].version}",
        "teacher_seconds": teacher_seconds,
        "recombined_texts": len(made),
        "feedback_texts": len(feedback),
    }


def _compute(name: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """In place of ``ResumeState.compute_once``, where nothing is resumed."""
    return compute()


def distillation_loss(
    scores: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor, temperature: float, teacher_weight: float
) -> torch.Tensor:
    """The loss summed over some rows: ``w T^2 KL(q || p) + (1 - w) H(label, p at T = 1)``, where q and p are the
    distributions of teacher and student at temperature T. ``T^2`` keeps the share of both parts in the gradient the
    same whatever T is (Hinton et al. 2015, section 2). A row without a label has ``w`` = 1.

    Args:
        scores: log-probabilities of the student, ``[rows, labels]``.
        teacher: probabilities, ``[rows, labels]``.
        targets: index of the true label, or ``NO_LABEL``, ``[rows]``.
    """
    softened = torch.softmax(teacher.log() / temperature, -1)  # ln p is a logit up to a constant of the row
    student = torch.log_softmax(scores / temperature, -1)
    soft = temperature**2 * kl_div(student, softened, reduction="none").sum(1)
    hard = nll_loss(scores, targets, ignore_index=NO_LABEL, reduction="none")
    weight = torch.full_like(soft, teacher_weight).masked_fill(targets == NO_LABEL, 1.0)
    return (weight * soft + (1 - weight) * hard).sum()


def unknown_texts(run: TrainingRun, *groups: Sequence[str]) -> list[list[str]]:
    """Of each group the texts that no split has. On those of train the label is known, and those of validation and test
    must stay unseen; spelling, case and punctuation make no other text."""
    known = {normalised(text) for split in SPLITS for text in read_split(run.inputs["dataset"], split)["text"]}
    return [[text for text in texts if normalised(text) not in known] for texts in groups]


def load_teacher(name: str, run: TrainingRun) -> Scorer:
    """The scorer of the teacher.

    Raises:
        DataError: it knows other labels than the dataset has.
    """
    from emotion_assets.models.registry import load_scorer

    folder = run.inputs["teacher"]
    scorer = load_scorer(folder, Store(folder.path.parents[1]))
    if sorted(scorer.labels) != sorted(run.labels):
        raise DataError(
            f"{run.name}: its teacher {name} {folder.version} knows the labels {', '.join(scorer.labels)}, the dataset "
            f"has {', '.join(run.labels)}; materialise {name} again"
        )
    return scorer


def ask_teacher(name: str, run: TrainingRun, texts: Sequence[str]) -> np.ndarray:
    """The teacher's probabilities ``[texts, labels]`` float32, in the order of ``run.labels``; says how far it is.

    Raises as ``load_teacher`` does.
    """
    scorer = load_teacher(name, run)
    order = [scorer.labels.index(label) for label in run.labels]
    answers = []
    said = started = time.monotonic()
    for start in range(0, len(texts), ROWS_AT_ONCE):
        some = texts[start : start + ROWS_AT_ONCE]
        answers.append(scorer.score(some)[:, order])
        if time.monotonic() - said >= REPORT_SECONDS:
            said = time.monotonic()
            run.report(TeacherProgress(run.name, name, start + len(some), len(texts), said - started))
    return np.concatenate(answers)


def first_vectors(name: str, run: TrainingRun, words: Sequence[str], size: int) -> torch.Tensor:
    """Where the student's words begin, ``[words, size]``: the principal components of the teacher's vectors of these
    words, scaled to the standard deviation 1 that random vectors have. Empty, ``[0, size]``, where the teacher has no
    vectors of words or narrower ones, or there are fewer words. XtremeDistil begins in this way too (Mukherjee and
    Awadallah 2020, https://arxiv.org/abs/2004.05686).

    Raises as ``load_teacher`` does.
    """
    vectors = load_teacher(name, run).word_vectors(words) if len(words) >= size else None
    if vectors is None or vectors.shape[1] < size:
        return torch.zeros(0, size)
    centred = torch.from_numpy(vectors - vectors.mean(0))
    _, directions = torch.linalg.eigh(centred.T @ centred)  # the smallest components come first
    components = centred @ directions[:, -size:].flip(1)
    return components / components.std()
