"""The cascade: its threshold against its definition, who answers which row, and that it is said and stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from emotion_assets.evaluation.metrics import scale
from emotion_assets.evaluation.predictions import predict, read_predictions
from emotion_assets.ingest.ledger import ingest
from emotion_assets.models.kind import Scores
from emotion_assets.profiles.reader import load_settings
from emotion_assets.reports.feedback_page import write_feedback_page
from emotion_assets.scoring.calibration import calibrate
from emotion_assets.scoring.cascade import Cascade, calibrate_scoring, validation_probabilities
from emotion_assets.scoring.decision import ABSTAIN
from emotion_assets.scoring.engines.engine import decode_scores, encode_scores
from emotion_assets.scoring.score import ScoringReport, load_champion, score_feedback
from emotion_assets.settings.errors import SettingsError
from emotion_assets.storage.keys import CHAMPION, CHAMPION_PREDICTIONS, RAW_DATASET
from emotion_assets.storage.store import StoredFolder
from emotion_assets.storage.warehouse.database import fetch
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world

AGREEMENT = 0.9


def with_cascade(workspace: Workspace, model: str = "bigru", agreement: float = AGREEMENT) -> Workspace:
    asked = {"cascade": {"model": model, "agreement": agreement}}
    overrides = {"home": str(workspace.settings.home), "labels": world.LABELS, "scoring": asked}
    feedback = {"settle_seconds": 0, "target_accuracy": 0.9, "audit_share": 0.2}
    return Workspace(load_settings(str(world.TINY), environ={}, overrides=overrides | {"feedback": feedback}))


@pytest.fixture
def both(workspace: Workspace) -> Workspace:
    """A small bigru that reads 30 words, before a tfidf_svm as champion."""
    champion = workspace.store.current(CHAMPION)
    world.train_bigru_champion(workspace, max_length=30)
    workspace.store.point(CHAMPION, "models", champion)
    return with_cascade(workspace)


def cascade_of(workspace: Workspace) -> Cascade:
    cascade, remark = calibrate_scoring(workspace.settings, workspace.store)
    assert remark == ""
    assert isinstance(cascade, Cascade)
    return cascade


def folders(workspace: Workspace) -> tuple[StoredFolder, StoredFolder]:
    return tuple(workspace.store.current(["predictions", name]) for name in ("bigru", "tfidf_svm"))  # type: ignore[return-value]


def score(workspace: Workspace, rescore: str = "") -> ScoringReport:
    ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, "run")
    return score_feedback(workspace.settings, workspace.store, workspace.warehouse, "run", rescore)


def rows_of(workspace: Workspace, query: str) -> list[dict[str, Any]]:
    with workspace.warehouse.reading() as db:
        return fetch(db, query).to_pylist()


def test_the_gate_is_the_lowest_confidence_from_which_on_the_agreement_is_reached(both: Workspace) -> None:
    cascade = cascade_of(both)
    first, last = (read_predictions(folder, "validation") for folder in folders(both))
    confidences = scale(first.probabilities, cascade.first.temperature).astype(np.float32).max(1)
    same = first.probabilities.argmax(1) == last.probabilities.argmax(1)
    agreements = {float(c): same[confidences >= c].mean() for c in confidences}
    assert cascade.gate == min(c for c, agreement in agreements.items() if agreement >= AGREEMENT)
    figures = cascade.figures[0]
    assert figures.agreement == pytest.approx(agreements[cascade.gate])
    assert figures.share == pytest.approx((confidences >= cascade.gate).mean())
    assert 0 < figures.share < 1
    assert figures.agreement_low < figures.agreement <= figures.agreement_high
    assert figures.overall_agreement >= figures.agreement
    assert cascade.figures[1].split == "test"
    assert cascade.figures[1].rows == 250


def test_a_higher_agreement_leaves_more_to_the_champion(both: Workspace) -> None:
    shares = [cascade_of(with_cascade(both, agreement=a)).figures[0].share for a in (0.5, 0.8, 0.9)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def test_each_text_is_answered_by_the_model_that_the_gate_says(both: Workspace) -> None:
    cascade = cascade_of(both)
    texts = [*world.sample_texts(), world.sample_texts()[0], "so happy " * 40]
    scores = cascade.load().answers(texts)
    first, last = cascade.first.load().answers(texts), cascade.last.load().answers(texts)
    by_first = (first.probabilities.max(1) >= cascade.gate) & ~first.truncated
    assert scores.by_first is not None
    np.testing.assert_array_equal(scores.by_first, by_first)
    assert 0 < by_first.sum() < len(texts)
    assert not by_first[-1]  # the first model would read it in part
    expected = np.where(by_first[:, None], first.probabilities, last.probabilities)
    np.testing.assert_allclose(scores.probabilities, expected, atol=1e-6)
    assert not scores.truncated.any()


def test_each_row_says_which_model_has_answered_it_and_the_model_says_what_was_chosen(both: Workspace) -> None:
    texts = world.sample_texts()[:80]
    world.drop_csv(both, "a.csv", [{"text": text} for text in texts])
    report, cascade = score(both), cascade_of(both)
    rows = rows_of(both, "SELECT s.*, f.text FROM scored_feedback s JOIN feedback f USING (feedback_id)")
    assert {row["model_version"] for row in rows} == {cascade.version}
    assert cascade.version not in (cascade.first.version, cascade.last.version)
    alone = {c.version: dict(zip(texts, c.load().answers(texts).probabilities, strict=True)) for c in
             (cascade.first, cascade.last)}  # fmt: skip
    for row in rows:
        np.testing.assert_allclose(row["probabilities"], alone[row["answered_by"]][row["text"]], atol=1e-6)
        assert row["confidence"] == pytest.approx(max(row["probabilities"]))
        assert (row["status"] == ABSTAIN) == (row["confidence"] < cascade.threshold)
    answered = [row["answered_by"] for row in rows]
    assert report.by_first == answered.count(cascade.first.version) > 0
    assert answered.count(cascade.last.version) == len(rows) - report.by_first > 0
    (model,) = rows_of(both, "SELECT * FROM scoring_models")
    assert model["model"] == "bigru+tfidf_svm"
    assert (model["first_model"], model["first_version"]) == ("bigru", cascade.first.version)
    assert (model["last_version"], model["first_threshold"]) == (cascade.last.version, cascade.gate)
    figures = cascade.figures[0]
    assert (model["first_share"], model["first_agreement"]) == (figures.share, figures.agreement)
    assert len(rows_of(both, "SELECT * FROM current_scores")) == len(rows)


def test_a_text_scored_before_keeps_who_answered_it(both: Workspace) -> None:
    texts = world.sample_texts()[:30]
    world.drop_csv(both, "a.csv", [{"text": text} for text in texts])
    score(both)
    world.drop_csv(both, "b.csv", [{"text": text, "shop": "b"} for text in texts])
    again = score(both)
    assert (again.rows, again.computed) == (30, 0)
    who = "SELECT text, list(DISTINCT answered_by) AS by FROM scored_feedback"
    query = f"{who} JOIN feedback USING (feedback_id) GROUP BY 1"
    assert all(len(row["by"]) == 1 and row["by"][0] for row in rows_of(both, query))


def test_the_cascade_on_and_off_are_two_models_and_neither_rescores_by_itself(both: Workspace) -> None:
    world.drop_csv(both, "a.csv", [{"text": text} for text in world.sample_texts()[:20]])
    score(both)
    alone = Workspace(both.settings.model_copy(update={"scoring": type(both.settings.scoring)()}))
    assert score(alone).rows == 0
    assert score(alone, "all").rows == 20
    by_model = rows_of(
        alone, "SELECT model_version, count(answered_by) AS n FROM scored_feedback GROUP BY 1 ORDER BY n"
    )
    assert [(row["model_version"], row["n"]) for row in by_model] == [
        (calibrate(alone.settings, alone.store).version, 0),
        (cascade_of(both).version, 20),
    ]


def test_another_version_of_either_model_is_another_cascade(both: Workspace) -> None:
    before = cascade_of(both).version
    assert cascade_of(both).version == before
    assert cascade_of(with_cascade(both, agreement=0.8)).version != before
    world.train_champion(both, c=0.3)
    assert cascade_of(both).version != before


def test_answered_rows_reach_the_target_accuracy_as_they_do_for_one_model(both: Workspace) -> None:
    cascade = cascade_of(both)
    probabilities = validation_probabilities(both.settings, both.store, cascade)
    actual = read_predictions(folders(both)[0], "validation").actual
    answered = probabilities.max(1) >= cascade.threshold
    assert (probabilities.argmax(1) == actual)[answered].mean() >= cascade.target_accuracy
    assert answered.mean() == pytest.approx(cascade.coverage)
    alone = calibrate(both.settings, both.store)
    expected = read_predictions(folders(both)[1], "validation").probabilities
    np.testing.assert_allclose(
        validation_probabilities(both.settings, both.store, alone), scale(expected, alone.temperature), atol=1e-6
    )


def test_the_page_and_the_service_answer_as_the_cascade_does(both: Workspace) -> None:
    world.drop_inbox(both)
    world.run_feedback(both)
    assert write_feedback_page(both.settings, both.store, both.warehouse).is_file()
    champion = load_champion(both)
    assert champion.model == f"bigru+tfidf_svm {cascade_of(both).version}"
    answers = champion.score(["so happy", "so happy"])
    assert [answer.model_version for answer in answers] == [cascade_of(both).version] * 2
    assert answers[0].answered_by in (cascade_of(both).first.version, cascade_of(both).last.version)


def test_answers_of_no_texts_and_of_a_block_keep_their_shape(both: Workspace) -> None:
    champion = cascade_of(both).load()
    none = champion.answers([])
    assert none.probabilities.shape == (0, 6)
    scores = champion.answers(["so happy", "what"])
    back = decode_scores(encode_scores(scores))
    assert scores.by_first is not None
    assert back.by_first is not None
    np.testing.assert_array_equal(back.by_first, scores.by_first)
    np.testing.assert_array_equal(back.probabilities, scores.probabilities)
    assert decode_scores(encode_scores(Scores(scores.probabilities, scores.truncated))).by_first is None


def remark_of(workspace: Workspace) -> str:
    calibration, remark = calibrate_scoring(workspace.settings, workspace.store)
    assert not isinstance(calibration, Cascade)
    return remark


def test_a_cascade_that_cannot_be_had_leaves_the_champion_alone_and_says_why(
    workspace: Workspace, both: Workspace, make_home: Callable[..., Workspace]
) -> None:
    assert calibrate_scoring(workspace.settings, workspace.store)[1] == ""
    assert "predictions/bigru was not materialised yet" in remark_of(with_cascade(make_home("without")))
    assert "tfidf_svm is the champion itself" in remark_of(with_cascade(both, "tfidf_svm"))
    report = score(with_cascade(both, "tfidf_svm"))
    assert (report.cascade, report.by_first) == (None, 0)
    assert report.remark.startswith("scoring.cascade: tfidf_svm answers alone")


def test_predictions_of_another_dataset_are_not_compared(both: Workspace) -> None:
    champion, first = both.store.current(CHAMPION), both.store.current(["baseline_models", "bigru"])
    world.predict_on_part(both, 100)
    both.store.point(CHAMPION_PREDICTIONS, "predictions", both.store.current(["predictions", "tfidf_svm"]))
    assert "predictions of bigru are of another dataset" in remark_of(both)
    dataset = both.store.current(RAW_DATASET)
    both.store.point(["predictions", "bigru"], "predictions", predict("bigru", first, dataset, both.store))
    assert cascade_of(both).validation_rows == 100
    assert both.store.current(CHAMPION).digest == champion.digest


def test_a_model_that_the_profile_does_not_have_is_one_line() -> None:
    overrides = {"scoring": {"cascade": {"model": "nobody"}}}
    with pytest.raises(SettingsError, match=r"scoring\.cascade\.model: 'nobody' is not under models; known: "):
        load_settings("embedded", environ={}, overrides=overrides)
