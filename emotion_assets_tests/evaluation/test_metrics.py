"""Every statistic against scikit-learn, scipy, statsmodels or a case worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score
from sklearn.metrics import log_loss as sklearn_log_loss
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from emotion_assets.evaluation import metrics

LABELS = ("joy", "anger", "fear")


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    """400 rows of three classes, predicted well but not perfectly."""
    rng = np.random.default_rng(1)
    actual = rng.choice(3, 400, p=[0.6, 0.3, 0.1])
    logits = rng.normal(0, 1, (400, 3))
    logits[np.arange(400), actual] += 1.5
    probabilities = np.exp(logits)
    return actual, probabilities / probabilities.sum(1, keepdims=True)


@pytest.mark.parametrize(("right", "rows"), [(0, 10), (7, 10), (1840, 2000), (2000, 2000)])
def test_the_accuracy_interval_is_wilsons(right: int, rows: int) -> None:
    found = metrics.accuracy_interval(right, rows)
    low, high = proportion_confint(right, rows, alpha=0.05, method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((right / rows, low, high))


def test_at_92_percent_of_2000_rows_the_interval_is_about_1_2_points_either_way() -> None:
    found = metrics.accuracy_interval(1840, 2000)
    assert (found.high - found.low) / 2 == pytest.approx(0.012, abs=0.0005)


def test_figures_of_a_case_worked_by_hand() -> None:
    actual = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    probabilities = np.full((6, 3), 0.1)
    probabilities[np.arange(6), predicted] = 0.8
    found = metrics.evaluate(actual, probabilities, LABELS)
    assert found.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert found.accuracy.value == pytest.approx(4 / 6)
    by_class = {c.label: (c.support, c.precision, c.recall, c.f1) for c in found.by_class}
    assert by_class["joy"] == pytest.approx((3, 2 / 3, 2 / 3, 2 / 3))
    assert by_class["anger"] == pytest.approx((2, 2 / 3, 1.0, 0.8))
    assert by_class["fear"] == pytest.approx((1, 0.0, 0.0, 0.0))
    assert found.macro_f1.value == pytest.approx((2 / 3 + 0.8 + 0) / 3)
    assert found.weighted_f1 == pytest.approx((3 * 2 / 3 + 2 * 0.8) / 6)
    assert found.log_loss == pytest.approx(-(4 * np.log(0.8) + 2 * np.log(0.1)) / 6)
    assert found.ece == pytest.approx(0.8 - 4 / 6)


def test_macro_f1_and_log_loss_are_scikit_learns(scored: tuple[np.ndarray, np.ndarray]) -> None:
    actual, probabilities = scored
    found = metrics.evaluate(actual, probabilities, LABELS)
    assert found.macro_f1.value == pytest.approx(f1_score(actual, probabilities.argmax(1), average="macro"))
    assert found.log_loss == pytest.approx(sklearn_log_loss(actual, probabilities))


def test_a_label_that_never_occurs_does_not_lower_macro_f1() -> None:
    actual = np.array([0, 1, 0, 1])
    probabilities = np.eye(3)[actual] * 0.9 + 0.1 / 3
    assert metrics.evaluate(actual, probabilities, LABELS).macro_f1.value == 1.0


def test_the_bootstrap_over_confusion_cells_is_the_bootstrap_over_rows(scored: tuple[np.ndarray, np.ndarray]) -> None:
    actual, probabilities = scored
    predicted = probabilities.argmax(1)
    rng = np.random.default_rng(2)
    values = [
        f1_score(actual[rows], predicted[rows], average="macro")
        for rows in (rng.integers(0, 400, 400) for _ in range(1000))
    ]
    found = metrics.evaluate(actual, probabilities, LABELS).macro_f1
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.01)


def test_the_reliability_bins_are_scikit_learns(scored: tuple[np.ndarray, np.ndarray]) -> None:
    actual, probabilities = scored
    right, confidence = probabilities.argmax(1) == actual, probabilities.max(1)
    true, predicted = calibration_curve(right, confidence, n_bins=15)
    found = metrics.reliability(actual, probabilities)
    assert [b.accuracy for b in found] == pytest.approx(true.tolist())
    assert [b.confidence for b in found] == pytest.approx(predicted.tolist())
    assert sum(b.n for b in found) == 400


def test_calibration_error_worked_by_hand() -> None:
    """Two rows at 0.9, one right; two rows at 0.6, both right: (2 * 0.4 + 2 * 0.4) / 4."""
    actual = np.array([0, 1, 0, 0])
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert metrics.calibration_error(actual, probabilities) == pytest.approx(0.4)


def test_the_temperature_that_made_a_model_too_sure_is_found() -> None:
    rng = np.random.default_rng(3)
    honest = rng.dirichlet([1, 1, 1], 20000)
    actual = (honest.cumsum(1) > rng.random((20000, 1))).argmax(1)
    too_sure = metrics.scale(honest, 0.4)
    temperature = metrics.fit_temperature(actual, too_sure)
    assert temperature == pytest.approx(2.5, rel=0.05)
    assert metrics.calibration_error(actual, too_sure) > 0.1
    assert metrics.calibration_error(actual, metrics.scale(too_sure, temperature)) < 0.02


def test_scaling_keeps_the_predictions_and_the_sum_of_one(scored: tuple[np.ndarray, np.ndarray]) -> None:
    _, probabilities = scored
    scaled = metrics.scale(probabilities, 3.0)
    assert (scaled.argmax(1) == probabilities.argmax(1)).all()
    assert scaled.sum(1) == pytest.approx(1.0)
    assert metrics.scale(probabilities, 1.0) == pytest.approx(probabilities)


def test_mcnemar_is_statsmodels_exact_test() -> None:
    right_a = np.array([True] * 50 + [True] * 12 + [False] * 4 + [False] * 10)
    right_b = np.array([True] * 50 + [False] * 12 + [True] * 4 + [False] * 10)
    found = metrics.compare(right_a, right_b)
    assert (found.only_a_right, found.only_b_right) == (12, 4)
    assert found.mcnemar_p == pytest.approx(mcnemar([[50, 12], [4, 10]], exact=True).pvalue)
    assert found.difference.value == pytest.approx(8 / 76)


def test_the_paired_interval_is_the_bootstrap_over_rows_and_narrower_than_an_unpaired_one() -> None:
    rng = np.random.default_rng(4)
    right_a = rng.random(1000) < 0.9
    right_b = right_a ^ (rng.random(1000) < 0.03)
    found = metrics.compare(right_a, right_b)
    draws = [rng.integers(0, 1000, 1000) for _ in range(2000)]
    differences = [right_a[rows].mean() - right_b[rows].mean() for rows in draws]
    expected = tuple(np.quantile(differences, [0.025, 0.975]))
    assert (found.difference.low, found.difference.high) == pytest.approx(expected, abs=0.002)
    unpaired = metrics.accuracy_interval(int(right_a.sum()), 1000)
    assert found.difference.high - found.difference.low < unpaired.high - unpaired.low


def test_equal_models_differ_by_nothing() -> None:
    found = metrics.compare(np.array([True, False, True]), np.array([True, False, True]))
    assert (found.difference.value, found.difference.low, found.difference.high, found.mcnemar_p) == (0, 0, 0, 1)


def test_models_measured_on_different_numbers_of_rows_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same rows"):
        metrics.compare(np.array([True]), np.array([True, False]))


def test_the_correction_for_many_questions_is_statsmodels_holm() -> None:
    p = [0.04, 0.001, 0.2, 0.013, 0.9, 0.013]
    assert metrics.holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())


def test_evaluating_again_gives_the_same_figures(scored: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (metrics.evaluate(*scored, LABELS, temperature=1.3) for _ in range(2))
    assert (first.macro_f1, first.ece_scaled) == (second.macro_f1, second.ece_scaled)
