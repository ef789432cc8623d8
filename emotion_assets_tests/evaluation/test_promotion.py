"""The rule: who is promoted, who is refused and why, and the way back."""

from __future__ import annotations

from typing import Any

import pytest

from emotion_assets.evaluation.promotion import Candidate, champion_before, decide
from emotion_assets.settings.schema import EvaluationSettings

RULE = EvaluationSettings(promotion_margin=0.01, as_good_within=0.002, much_cheaper=5, collapse_recall=0.1)


def candidate(model: str, accuracy: float, parameters: int = 1_000_000, **changes: Any) -> Candidate:
    version = changes.pop("version", f"{model}-1")
    recalls = {"joy": 0.9, "surprise": 0.5} | changes.pop("recalls", {})
    fingerprint = changes.pop("fingerprint", "rows")
    return Candidate(model, version, version * 2, fingerprint, accuracy, accuracy, parameters, recalls)


def test_the_first_champion_is_the_most_accurate() -> None:
    found = decide([candidate("bert", 0.90), candidate("llama", 0.93), candidate("svm", 0.88)], None, RULE)
    assert (found.action, found.chosen.model) == ("first", "llama")
    assert "0.9300" in found.reason


def test_the_first_champion_is_a_much_cheaper_model_that_is_as_good() -> None:
    found = decide([candidate("llama", 0.930, 8_000_000_000), candidate("gru", 0.929)], None, RULE)
    assert found.chosen.model == "gru" and "much cheaper" in found.reason


def test_a_challenger_that_reaches_the_margin_is_promoted_also_when_it_meets_it_exactly() -> None:
    incumbent = candidate("bert", 0.90)
    found = decide([incumbent, candidate("llama", 0.91)], incumbent, RULE)
    assert (found.action, found.chosen.model) == ("promoted", "llama")
    assert "+1.00 points" in found.reason


def test_a_challenger_short_of_the_margin_is_refused_and_the_decision_says_so() -> None:
    incumbent = candidate("bert", 0.90)
    found = decide([incumbent, candidate("llama", 0.909)], incumbent, RULE)
    assert (found.action, found.chosen) == ("kept", incumbent)
    assert "short of the margin" in found.reason and "+0.90" in found.reason


def test_a_challenger_as_good_and_much_cheaper_is_promoted_and_one_merely_as_good_is_not() -> None:
    incumbent = candidate("llama", 0.930, 8_000_000_000)
    cheap = candidate("gru", 0.928, 1_000_000)
    assert decide([cheap], incumbent, RULE).chosen == cheap
    assert decide([candidate("gru", 0.927, 1_000_000)], incumbent, RULE).action == "kept"
    assert decide([candidate("other", 0.930, 7_000_000_000)], incumbent, RULE).action == "kept"


def test_a_challenger_that_loses_a_class_is_refused_however_accurate() -> None:
    incumbent = candidate("bert", 0.90)
    found = decide([candidate("llama", 0.99, recalls={"surprise": 0.05})], incumbent, RULE)
    assert found.action == "kept" and "recall below 0.1 on surprise (0.05)" in found.verdicts[0].why


def test_a_class_that_the_incumbent_does_not_serve_either_is_no_reason_to_refuse() -> None:
    incumbent = candidate("bert", 0.90, recalls={"surprise": 0.0})
    assert decide([candidate("llama", 0.95, recalls={"surprise": 0.05})], incumbent, RULE).chosen.model == "llama"


def test_the_first_champion_has_no_collapsed_class_if_any_model_has_none() -> None:
    broken = candidate("llama", 0.95, recalls={"surprise": 0.0})
    assert decide([broken, candidate("svm", 0.80)], None, RULE).chosen.model == "svm"
    only = decide([broken], None, RULE)
    assert only.chosen == broken and "every model has a class with recall below" in only.reason


def test_a_retrained_incumbent_has_to_earn_its_place_like_any_challenger() -> None:
    incumbent = candidate("bert", 0.90)
    retrained = candidate("bert", 0.905, version="bert-2")
    assert decide([retrained], incumbent, RULE).chosen == incumbent
    assert decide([candidate("bert", 0.92, version="bert-3")], incumbent, RULE).chosen.model_version == "bert-3"


def test_figures_of_other_rows_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same validation rows"):
        decide([candidate("llama", 0.99, fingerprint="other rows")], candidate("bert", 0.90), RULE)


def test_deciding_again_after_a_promotion_changes_nothing() -> None:
    models = [candidate("llama", 0.930, 8_000_000_000), candidate("gru", 0.929), candidate("svm", 0.88, 100_000)]
    champion = decide(models, None, RULE).chosen
    assert decide(models, champion, RULE).chosen == champion


def test_rolling_back_twice_goes_two_champions_back() -> None:
    history = [("first", "a"), ("kept", "a"), ("promoted", "b"), ("promoted", "c")]
    assert champion_before(history) == "b"
    assert champion_before([*history, ("rolled_back", "b")]) == "a"
    assert champion_before([*history, ("rolled_back", "b"), ("rolled_back", "a")]) is None
    assert champion_before([*history, ("rolled_back", "b"), ("pinned", "d")]) == "b"


def test_a_margin_that_would_let_two_models_replace_each_other_is_refused() -> None:
    with pytest.raises(ValueError, match="as_good_within must be below promotion_margin"):
        EvaluationSettings(promotion_margin=0.001, as_good_within=0.001)
