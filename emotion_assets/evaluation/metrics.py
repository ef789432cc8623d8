"""How good a classifier is, with the uncertainty that the number of rows leaves.

Belongs here: figures of one model (accuracy, F1, log loss, calibration, confusion), of two models on the same rows
(paired difference, McNemar), and their 95% intervals, as pure functions of labels and probabilities. Does not belong
here: which model is chosen (``promotion``), where figures are kept (``warehouse.evaluation``) and how they look.

``actual`` is always ``[rows]`` int, an index into the labels; ``probabilities`` is ``[rows, labels]``, rows summing
to one. A prediction is the label with the highest probability, the first one on a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
CALIBRATION_BINS = 15
BOOTSTRAP_SAMPLES = 2000
BOOTSTRAP_SEED = 17


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassFigures:
    label: str
    support: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Figures:
    """All figures of one model on one split. Each is a column of the table ``evaluation`` by its name.

    ``confusion`` is ``[labels, labels]``, actual by predicted. The two ``scaled`` figures are those after dividing
    log-probabilities by a temperature, None where no temperature was given.
    """

    n_rows: int
    accuracy: Interval
    macro_f1: Interval
    weighted_f1: float
    log_loss: float
    ece: float
    log_loss_scaled: float | None
    ece_scaled: float | None
    by_class: tuple[ClassFigures, ...]
    confusion: np.ndarray

    def as_columns(self) -> dict[str, Any]:
        """The figures by column name; an interval gives three, ``name``, ``name_low`` and ``name_high``."""
        columns: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Interval):
                columns |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            elif name not in ("by_class", "confusion"):
                columns[name] = value
        return columns


@dataclass(frozen=True)
class Comparison:
    """Model a against model b on the same rows: ``difference`` is accuracy of a minus accuracy of b."""

    difference: Interval
    only_a_right: int
    only_b_right: int
    mcnemar_p: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose highest probability lies in (low, high]: how sure the model was and how often it was right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def evaluate(
    actual: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], temperature: float | None = None
) -> Figures:
    """Every figure of one model on one split.

    ``temperature`` is the one that ``fit_temperature`` found on other rows.
    """
    from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

    actual, probabilities = _checked(actual, probabilities)
    predicted = probabilities.argmax(1)
    everything = list(range(len(labels)))
    confusion = confusion_matrix(actual, predicted, labels=everything)
    precision, recall, f1, support = precision_recall_fscore_support(
        actual, predicted, labels=everything, zero_division=0
    )
    scaled = scale(probabilities, temperature) if temperature is not None else None
    return Figures(
        n_rows=len(actual),
        accuracy=accuracy_interval(int((actual == predicted).sum()), len(actual)),
        macro_f1=macro_f1_interval(confusion),
        weighted_f1=float(f1_score(actual, predicted, average="weighted", zero_division=0)),
        log_loss=mean_log_loss(actual, probabilities),
        ece=calibration_error(actual, probabilities),
        log_loss_scaled=None if scaled is None else mean_log_loss(actual, scaled),
        ece_scaled=None if scaled is None else calibration_error(actual, scaled),
        by_class=tuple(
            ClassFigures(label, int(support[i]), float(precision[i]), float(recall[i]), float(f1[i]))
            for i, label in enumerate(labels)
        ),
        confusion=confusion,
    )


def accuracy_interval(right: int, rows: int) -> Interval:
    """Share of right rows with Wilson's score interval (Wilson 1927), which stays inside 0 and 1."""
    from scipy.stats import binomtest

    bounds = binomtest(right, rows).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(right / rows, float(bounds.low), float(bounds.high))


def macro_f1_interval(confusion: np.ndarray) -> Interval:
    """Mean F1 of the labels that occur (as actual or predicted), with a percentile bootstrap interval.

    Drawing rows with replacement is drawing the cells of the confusion matrix from a multinomial distribution: the
    same distribution without touching a row.
    """
    rows = int(confusion.sum())
    drawn = _rng().multinomial(rows, confusion.ravel() / rows, size=BOOTSTRAP_SAMPLES)
    values = _macro_f1(drawn.reshape(-1, *confusion.shape))
    low, high = np.quantile(values, _tails())
    return Interval(float(_macro_f1(confusion[None])[0]), float(low), float(high))


def mean_log_loss(actual: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of -ln(probability of the actual label), in nats."""
    from sklearn.metrics import log_loss

    actual, probabilities = _checked(actual, probabilities)
    return float(log_loss(actual, probabilities, labels=list(range(probabilities.shape[1]))))


def reliability(actual: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> list[ReliabilityBin]:
    """The bins of a reliability diagram, equally wide over (0, 1]; empty bins are left out."""
    actual, probabilities = _checked(actual, probabilities)
    confidence = probabilities.max(1)
    right = (probabilities.argmax(1) == actual).astype(float)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    confidences, rights = (np.bincount(place, weights=w, minlength=bins) for w in (confidence, right))
    return [
        ReliabilityBin(b / bins, (b + 1) / bins, int(n), confidences[b] / n, rights[b] / n)
        for b, n in enumerate(counts)
        if n
    ]


def calibration_error(actual: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error (Naeini et al. 2015): mean gap between confidence and accuracy over the rows."""
    gaps = (b.n * abs(b.confidence - b.accuracy) for b in reliability(actual, probabilities, bins))
    return float(sum(gaps) / len(actual))


def fit_temperature(actual: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature that minimises the log loss of these rows (Guo et al. 2017), between 0.05 and 20."""
    from scipy.optimize import minimize_scalar

    actual, probabilities = _checked(actual, probabilities)
    minimum = minimize_scalar(
        lambda x: mean_log_loss(actual, scale(probabilities, float(np.exp(x)))),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
    )
    return float(np.exp(minimum.x))


def scale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities ``softmax(ln p / temperature)``: above 1 less sure, below 1 surer, the order never changes."""
    from scipy.special import softmax

    logs = np.log(np.clip(np.asarray(probabilities, dtype=float), 1e-30, None))
    return softmax(logs / temperature, axis=1)


def compare(right_a: np.ndarray, right_b: np.ndarray) -> Comparison:
    """Two models on the same rows; both arguments are ``[rows]`` bool, whether the model was right.

    The interval is a percentile bootstrap over rows (as in ``macro_f1_interval``, on the four cells of right and
    wrong); the p value is McNemar's exact test, a binomial test on the rows where just one model is right.

    Raises:
        ValueError: the two do not have the same number of rows.
    """
    from scipy.stats import binomtest

    right_a, right_b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if right_a.shape != right_b.shape:
        raise ValueError(f"paired comparison needs the same rows: {right_a.shape} and {right_b.shape}")
    rows, only_a, only_b = len(right_a), int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    cells = np.array([only_a, only_b, rows - only_a - only_b])
    drawn = _rng().multinomial(rows, cells / rows, size=BOOTSTRAP_SAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / rows, _tails())
    p = float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
    return Comparison(Interval((only_a - only_b) / rows, float(low), float(high)), only_a, only_b, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for having asked several questions at once (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    raised = np.asarray(p_values, dtype=float)[order] * (len(p_values) - np.arange(len(p_values)))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return corrected.tolist()


def _checked(actual: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    actual, probabilities = np.asarray(actual), np.asarray(probabilities, dtype=float)
    if probabilities.ndim != 2 or len(actual) != len(probabilities) or not len(actual):
        raise ValueError(f"labels {actual.shape} and probabilities {probabilities.shape} do not fit together")
    return actual, probabilities / probabilities.sum(1, keepdims=True)


def _macro_f1(confusions: np.ndarray) -> np.ndarray:
    """Macro F1 of each of ``[samples, labels, labels]`` confusion matrices."""
    hits = np.diagonal(confusions, axis1=1, axis2=2)
    marked = confusions.sum(1) + confusions.sum(2)
    f1 = np.divide(2.0 * hits, marked, out=np.full(hits.shape, np.nan), where=marked > 0)
    return np.nanmean(f1, axis=1)


def _tails() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def _rng() -> np.random.Generator:
    """The same draws every time: evaluating the same rows again gives the same interval."""
    return np.random.default_rng(BOOTSTRAP_SEED)
