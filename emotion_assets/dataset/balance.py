"""What is in a labelled set, and what is wrong with it.

Belongs here: counts, shares, shift between splits, duplicates, conflicting labels, texts that two splits share, text
lengths and likely label errors, as one frozen report. Does not belong here: reading files (``datasets``), storing or
showing the report.

Two texts are *equal* when they are the same after stripping; they are equal *normalised* when they are the same after
Unicode NFKC, case folding, and removal of everything but letters and digits.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import regex
from pydantic import BaseModel, ConfigDict

FOLDS = 5
EXAMPLES = 20
LENGTH_BINS = 20
_NOT_WORD = regex.compile(r"[^\p{L}\p{N}]+")


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")


class Share(_Report):
    """A row of the table ``class_balance``: ``n`` rows of the split have the label, ``share`` of the split's rows."""

    split: str
    emotion: str
    n: int
    share: float


class Lengths(_Report):
    """Text lengths of a split in words (blank-separated) and characters; ``histogram`` counts texts by words."""

    words_median: float
    words_p95: float
    words_max: int
    characters_median: float
    characters_p95: float
    characters_max: int
    bin_edges: tuple[float, ...]
    histogram: tuple[int, ...]


class SplitDefects(_Report):
    """Distinct texts that occur more than once in a split, and those of them that carry different labels."""

    split: str
    rows: int
    duplicated: int
    duplicated_normalised: int
    conflicting: int
    conflicting_normalised: int
    lengths: Lengths


class Overlap(_Report):
    """Distinct texts that two splits share, and those of them whose labels are not the same."""

    split_a: str
    split_b: str
    shared: int
    shared_normalised: int
    disagreeing: int
    disagreeing_normalised: int


class Shift(_Report):
    """How far the label shares of a split are from those of train.

    ``p_value`` is of Pearson's chi-squared test of homogeneity; ``jensen_shannon`` is the distance (square root of the
    divergence, base 2), 0 for equal shares and 1 for none in common.
    """

    split: str
    chi_squared: float
    p_value: float
    jensen_shannon: float


class Example(_Report):
    """A text to look at: where it stands (row numbers count from 1) and which labels it carries there."""

    text: str
    places: tuple[str, ...]
    labels: tuple[str, ...]


class LabelError(_Report):
    """A row whose label a model that has not seen the row does not believe; ``belief`` is its probability."""

    split: str
    row: int
    text: str
    label: str
    belief: float
    suggested: str
    suggested_belief: float


class BalanceReport(_Report):
    labels: tuple[str, ...]
    shares: tuple[Share, ...]
    imbalance_ratio: float
    splits: tuple[SplitDefects, ...]
    overlaps: tuple[Overlap, ...]
    shifts: tuple[Shift, ...]
    conflicts: tuple[Example, ...]
    leaks: tuple[Example, ...]
    likely_label_errors: dict[str, int]
    label_errors: tuple[LabelError, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> list[dict[str, Any]]:
        """The rows of the table ``class_balance``."""
        return [share.model_dump() for share in self.shares]

    def remarks(self) -> list[str]:
        """The defects in sentences, each with its count; nothing is said of what was not shifts."""
        said = [
            f"imbalance: the most frequent label has {self.imbalance_ratio:.1f} times the rows of the rarest (train)"
        ]
        for part in self.splits:
            if part.duplicated_normalised:
                said.append(
                    f"texts more than once in {part.split}: {part.duplicated} ({part.duplicated_normalised} with case "
                    f"and punctuation ignored), with conflicting labels: {part.conflicting_normalised}"
                )
        for overlap in self.overlaps:
            if overlap.shared_normalised:
                said.append(
                    f"texts in both {overlap.split_a} and {overlap.split_b}: {overlap.shared_normalised}, with other "
                    f"labels: {overlap.disagreeing_normalised}"
                )
        if doubtful := sum(self.likely_label_errors.values()):
            rows = sum(part.rows for part in self.splits)
            said.append(f"likely label errors: {doubtful} of {rows} rows ({doubtful / rows:.1%})")
        return [*said, *self.notes]


def balance_report(splits: Mapping[str, pd.DataFrame], labels: Sequence[str], seed: int) -> BalanceReport:
    """The whole report for frames with the columns ``text`` and ``label``, keyed by split, ``train`` first.

    ``imbalance_ratio`` is the most frequent label's rows over the rarest label's, in train. The lists of examples are
    cut; the counts are whole.
    """
    rows = labelled_rows(splits)
    shares = class_shares(splits, labels)
    train = [share.n for share in shares if share.split == "train"]
    errors, notes = find_label_errors(rows, seed)
    return BalanceReport(
        labels=tuple(labels),
        shares=tuple(shares),
        imbalance_ratio=max(train) / min(train) if min(train) else float("inf"),
        splits=tuple(find_duplicates(rows)),
        overlaps=tuple(find_overlaps(rows)),
        shifts=tuple(find_shifts(shares)),
        conflicts=_examples(rows, "label"),
        leaks=_examples(rows, "split"),
        likely_label_errors={split: sum(error.split == split for error in errors) for split in splits},
        label_errors=tuple(errors[:EXAMPLES]),
        notes=tuple(notes),
    )


def labelled_rows(splits: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """All splits as one frame: text (stripped), label, split, row (from 1) and key (the normalised text)."""
    rows = pd.concat([frame.assign(split=split, row=range(1, len(frame) + 1)) for split, frame in splits.items()])
    rows = rows.reset_index(drop=True)
    rows["text"] = rows["text"].str.strip()
    rows["key"] = rows["text"].map(normalised)
    return rows


def class_shares(splits: Mapping[str, pd.DataFrame], labels: Sequence[str]) -> list[Share]:
    """Rows and share of every label in every split; a label without rows is there with 0."""
    return [
        Share(split=split, emotion=label, n=int(n), share=n / len(frame))
        for split, frame in splits.items()
        for label, n in frame["label"].value_counts().reindex(list(labels), fill_value=0).items()
    ]


def find_shifts(shares: Sequence[Share]) -> list[Shift]:
    """How the label counts of each other split differ from train's; labels that neither has are left out."""
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import chi2_contingency

    shifts = []
    for split in dict.fromkeys(share.split for share in shares if share.split != "train"):
        table = np.array([[share.n for share in shares if share.split == name] for name in ("train", split)])
        table = table[:, table.sum(0) > 0]
        test = chi2_contingency(table)
        distance = float(np.nan_to_num(jensenshannon(table[0], table[1], base=2)))
        shifts.append(Shift(split=split, chi_squared=test.statistic, p_value=test.pvalue, jensen_shannon=distance))
    return shifts


def find_duplicates(rows: pd.DataFrame) -> list[SplitDefects]:
    """Duplicates and conflicts inside each split of ``labelled_rows``."""
    edges = _length_bins(rows["text"])
    return [_defects(split, rows[rows["split"] == split], edges) for split in rows["split"].unique()]


def find_overlaps(rows: pd.DataFrame) -> list[Overlap]:
    """What each pair of splits of ``labelled_rows`` shares."""
    return [_overlap(rows, a, b) for a, b in combinations(rows["split"].unique(), 2)]


def normalised(text: str) -> str:
    """The text without case, punctuation, symbols and width variants; a text of nothing else is kept as it is."""
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip() or text


def confident_learning(probabilities: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Which rows are confidently another class than the one given: the off-diagonal of the confident joint.

    A row belongs confidently to class j when its probability of j reaches the mean probability of j over the rows
    given as j; of several such classes the most probable counts (Northcutt, Jiang and Chuang 2021, eq. 1-2). Rows
    whose given label is the most probable one all the same are left out, as in cleanlab's ``find_label_issues`` with
    ``filter_by="confident_learning"``.

    Args:
        probabilities: ``[rows, classes]``, out of fold: from a model that has not seen the row.
        given: ``[rows]`` int.

    Returns:
        ``[rows]`` bool.
    """
    classes = probabilities.shape[1]
    thresholds = np.array([probabilities[given == j, j].mean() if (given == j).any() else 2.0 for j in range(classes)])
    reached = np.where(probabilities >= thresholds - 1e-6, probabilities, -1.0)
    return (reached.max(1) >= 0) & (reached.argmax(1) != given) & (probabilities.argmax(1) != given)


def find_label_errors(rows: pd.DataFrame, seed: int) -> tuple[list[LabelError], list[str]]:
    """Likely label errors of all splits in ``labelled_rows``, the least believed label first, and notes.

    The model is TF-IDF with logistic regression, fitted on the rows of all splits except the fold that it judges;
    equal normalised texts stay in one fold. It serves to find rows worth a look and is used for nothing else.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, StratifiedKFold, cross_val_predict

    texts = rows.drop_duplicates("key")
    rarest = int(texts["label"].value_counts().min())
    if rarest < FOLDS or texts["label"].nunique() < 2:
        return [], [f"Likely label errors were not sought: each label needs at least {FOLDS} distinct texts."]
    names = sorted(rows["label"].unique())
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(texts, texts["label"])
    fold_of = {key: number for number, (_, held) in enumerate(folds) for key in texts["key"].iloc[held]}
    features = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", sublinear_tf=True).fit_transform(
        rows["text"]
    )
    model = LogisticRegression(C=20, solver="saga", max_iter=50, tol=1e-2, random_state=seed)
    given = rows["label"].map(names.index).to_numpy()
    believed = cross_val_predict(
        model, features, given, cv=PredefinedSplit(rows["key"].map(fold_of)), method="predict_proba"
    )
    wrong = np.flatnonzero(confident_learning(believed, given))
    records = rows[["split", "row", "text", "label"]].to_dict("records")
    errors = [
        LabelError(
            **{str(column): value for column, value in records[i].items()},
            belief=float(believed[i, given[i]]),
            suggested=names[int(believed[i].argmax())],
            suggested_belief=float(believed[i].max()),
        )
        for i in wrong
    ]
    return sorted(errors, key=lambda error: error.belief), []


def _defects(split: str, rows: pd.DataFrame, edges: np.ndarray) -> SplitDefects:
    exact, loose = (_groups(rows, column) for column in ("text", "key"))
    return SplitDefects(
        split=split,
        rows=len(rows),
        duplicated=int((exact["n"] > 1).sum()),
        duplicated_normalised=int((loose["n"] > 1).sum()),
        conflicting=int((exact["labels"] > 1).sum()),
        conflicting_normalised=int((loose["labels"] > 1).sum()),
        lengths=_lengths(rows["text"], edges),
    )


def _groups(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    groups = rows.groupby(column)["label"]
    return pd.DataFrame({"n": groups.size(), "labels": groups.nunique()})


def _lengths(texts: pd.Series, edges: np.ndarray) -> Lengths:
    words, characters = _words(texts), np.array([len(text) for text in texts])
    histogram, _ = np.histogram(np.minimum(words, edges[-1]), bins=edges)
    return Lengths(
        words_median=float(np.median(words)),
        words_p95=float(np.percentile(words, 95)),
        words_max=int(words.max()),
        characters_median=float(np.median(characters)),
        characters_p95=float(np.percentile(characters, 95)),
        characters_max=int(characters.max()),
        bin_edges=tuple(edges.tolist()),
        histogram=tuple(histogram.tolist()),
    )


def _words(texts: pd.Series) -> np.ndarray:
    return np.array([len(text.split()) for text in texts])


def _length_bins(texts: pd.Series) -> np.ndarray:
    """Edges of equal bins of whole words, the same for all splits; the last bin takes what is longer."""
    width = max(1, int(np.ceil(np.percentile(_words(texts), 99.5) / LENGTH_BINS)))
    return np.arange(0.5, width * LENGTH_BINS + 1, width)


def _overlap(rows: pd.DataFrame, split_a: str, split_b: str) -> Overlap:
    a, b = (rows[rows["split"] == split] for split in (split_a, split_b))
    exact, loose = (_compare_shared_values(a, b, column) for column in ("text", "key"))
    return Overlap(
        split_a=split_a,
        split_b=split_b,
        shared=len(exact),
        shared_normalised=len(loose),
        disagreeing=sum(exact),
        disagreeing_normalised=sum(loose),
    )


def _compare_shared_values(a: pd.DataFrame, b: pd.DataFrame, column: str) -> list[bool]:
    """For each value that both have: whether its labels differ between them."""
    labels_a, labels_b = (part.groupby(column)["label"].agg(set) for part in (a, b))
    return [labels_a[value] != labels_b[value] for value in labels_a.index.intersection(labels_b.index)]


def _examples(rows: pd.DataFrame, varies: str) -> tuple[Example, ...]:
    """The first texts whose copies differ in the column ``varies``."""
    repeated = rows[rows.duplicated("key", keep=False)]
    shifts = [group for _, group in repeated.groupby("key", sort=False) if group[varies].nunique() > 1]
    return tuple(
        Example(
            text=group["text"].iat[0],
            places=tuple(f"{split} {row}" for split, row in zip(group["split"], group["row"], strict=True)),
            labels=tuple(group["label"]),
        )
        for group in shifts[:EXAMPLES]
    )
