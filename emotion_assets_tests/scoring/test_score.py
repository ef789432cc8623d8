"""One score per row and model version: once, calibrated, abstaining where unsure, rescored only when asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from emotion_assets.evaluation.metrics import scale
from emotion_assets.evaluation.predictions import read_predictions
from emotion_assets.ingest.ledger import ingest
from emotion_assets.scoring import score as scoring
from emotion_assets.scoring import spool
from emotion_assets.scoring.calibration import calibrate
from emotion_assets.scoring.decision import choose_threshold
from emotion_assets.scoring.score import (
    ScoringReport,
    in_audit,
    load_champion,
    parse_rescore,
    score_feedback,
)
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.keys import CHAMPION, CHAMPION_PREDICTIONS
from emotion_assets.storage.warehouse import database, memory
from emotion_assets.storage.warehouse.database import fetch
from emotion_assets.storage.warehouse.scores import list_waiting, store_scores
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.feedback import drop_csv, state


def take_in(workspace: Workspace) -> None:
    ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, "run")


def score(workspace: Workspace, rescore: str = "") -> ScoringReport:
    return score_feedback(workspace.settings, workspace.store, workspace.warehouse, "run", rescore)


def view(workspace: Workspace, name: str) -> list[dict]:
    with workspace.warehouse.reading() as db:
        return fetch(db, f"SELECT * FROM {name}").to_pylist()


def test_identical_texts_are_computed_once_within_a_run_and_across_runs(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", [{"text": "what a day"}, {"text": "what a day"}, {"text": "oh no"}])
    take_in(workspace)
    first = score(workspace)
    assert (first.rows, first.computed) == (3, 2)
    drop_csv(workspace, "b.csv", [{"text": "what a day", "shop": "b"}, {"text": "something else"}])
    take_in(workspace)
    second = score(workspace)
    assert (second.rows, second.computed) == (2, 1)
    texts = {row["feedback_id"]: row["text"] for row in state(workspace)["feedback"]}
    answers = {}
    for row in state(workspace)["scored_feedback"]:
        answers.setdefault(texts[row["feedback_id"]], []).append(row["probabilities"])
    assert len(answers["what a day"]) == 3
    assert all(answer == answers["what a day"][0] for answer in answers["what a day"])


def test_scores_do_not_depend_on_the_batches_nor_on_the_order_of_reading(
    make_home, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    for name, size, window, part in (("one", 4096, 250_000, 8_000_000), ("two", 7, 3, 200)):
        monkeypatch.setattr(memory, "WINDOW_ROWS", window)
        monkeypatch.setattr(spool, "PART_BYTES", part)
        workspace = make_home(name, batch_size=size)
        world.drop_inbox(workspace)
        take_in(workspace)
        first = score(workspace)
        drop_csv(workspace, "again.csv", [{"text": text, "shop": "b"} for text in world.sample_texts()])
        take_in(workspace)
        again = score(workspace)
        assert again.rows > 7
        states.append((state(workspace), first.computed, again.computed))
    assert states[0] == states[1]


def test_scores_do_not_depend_on_how_many_batches_are_stored_together(
    make_home, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {}
    for name, limit, value in (("seconds", "STORE_SECONDS", 0), ("bytes", "STORE_BYTES", 1), ("once", "", 0)):
        workspace = make_home(name, batch_size=7)
        world.drop_inbox(workspace)
        take_in(workspace)
        with monkeypatch.context() as patch:
            if limit:
                patch.setattr(scoring, limit, value)
            commits = []
            patch.setattr(scoring, "store_scores", lambda *given, seen=commits: seen.append(1) or store_scores(*given))
            report = score(workspace)
        states[name] = state(workspace)
        assert (len(commits) == 1) == (name == "once")
        assert report.rows == sum(report.statuses.values()) == len(states[name]["scored_feedback"]) > 7
    assert states["seconds"] == states["bytes"] == states["once"]


def test_storing_takes_a_tenth_of_the_time_however_long_a_commit_takes(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, commits = [0.0], []

    def store(db: object, rows: pa.Table, queue: pa.Table) -> int:
        clock[0] += 2
        commits.append(len(rows))
        return len(rows)

    monkeypatch.setattr(scoring, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(scoring, "store_scores", store)
    monkeypatch.setattr(scoring, "_queue", lambda rows, share: rows)
    writer = scoring._Writer(workspace.warehouse, 0.01)
    for _ in range(50):
        clock[0] += 1
        writer.add(pa.table({"text": ["a"]}))
    writer.store()
    assert commits == [1, 20, 20, 9]  # the first after a second, then ten times what it took, and what is left
    assert writer.stored == 50


def waiting(workspace: Workspace, path: Path) -> tuple[int, list[dict]]:
    with path.open("w+b") as file:
        rows, spooled = scoring._spool(workspace.warehouse, "a version", None, file)
        return rows, [row for part in spooled.read() for row in part.to_pylist()]


def test_long_texts_wait_in_parts_that_fit_in_memory(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, words = 8000, 250  # of 32 letters: 66 MB of text, each text twice
    with workspace.warehouse.writing() as db:
        db.execute(
            """
            INSERT INTO feedback BY NAME
            SELECT 'r' || i AS feedback_id, i AS row_number, now() AS received_at, 'x' AS source_sha256,
                '{}' AS attributes, (
                    SELECT string_agg(md5((i // 2 * $words + j)::VARCHAR), ' ') FROM range($words) words(j)
                ) AS text
            FROM range($rows) made(i)
            """,
            {"rows": rows, "words": words},
        )
    monkeypatch.setitem(database.CONFIG, "memory_limit", "64MB")
    monkeypatch.setattr(spool, "PART_BYTES", 4_000_000)
    with workspace.warehouse.reading() as db:
        size = rows * (33 * words - 1)
        assert memory.in_little_memory(db, lambda: list_waiting(db, "a version", None)) == (rows, size)
    n, found = waiting(workspace, tmp_path / "spool")
    texts = [row["text"] for row in found]
    assert n == len(texts) == rows
    assert len(set(texts)) == rows // 2
    assert texts[::2] == texts[1::2]


def test_texts_too_long_for_little_memory_are_read_with_all_of_it(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 2200
    with workspace.warehouse.writing() as db:
        db.execute(
            """
            INSERT INTO feedback BY NAME
            SELECT 'r' || i AS feedback_id, i AS row_number, now() AS received_at, 'x' AS source_sha256,
                '{}' AS attributes, repeat(md5(i::VARCHAR), 600) AS text
            FROM range($rows) made(i)
            """,
            {"rows": rows},
        )
    tries = []
    monkeypatch.setattr(memory, "LITTLE_MEMORY", 16_000_000)
    monkeypatch.setattr(scoring, "list_waiting", lambda *given: tries.append(1) or list_waiting(*given))
    n, found = waiting(workspace, tmp_path / "spool")
    assert len(tries) == 2
    assert n == len({row["feedback_id"] for row in found}) == len(found) == rows


def test_confidence_is_calibrated_and_the_unsure_abstain_into_the_queue(workspace: Workspace) -> None:
    world.drop_inbox(workspace)
    take_in(workspace)
    report = score(workspace)
    calibration = calibrate(workspace.settings, workspace.store)
    assert report.threshold == calibration.threshold
    rows, queue = state(workspace)["scored_feedback"], state(workspace)["review_queue"]
    for row in rows:
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert row["confidence"] == max(row["probabilities"])
        assert (row["status"] == "abstain") == (row["confidence"] < calibration.threshold)
    share = workspace.settings.feedback.audit_share
    unsure = {row["feedback_id"] for row in rows if row["status"] == "abstain"}
    audit = {row["feedback_id"] for row in rows if in_audit(row["feedback_id"], share)}
    assert 0 < len(unsure) < len(rows)
    assert 0 < len(audit) < len(rows)
    assert {row["feedback_id"] for row in queue} == unsure | audit
    assert {row["feedback_id"] for row in queue if row["audit"]} == audit
    assert {row["feedback_id"] for row in queue if row["reason"] == "abstain"} == unsure


def test_the_threshold_reaches_the_stated_accuracy_on_validation_with_the_most_answers(workspace: Workspace) -> None:
    calibration = calibrate(workspace.settings, workspace.store)
    part = read_predictions(workspace.store.current(["predictions", "tfidf_svm"]), "validation")
    probabilities = scale(part.probabilities, calibration.temperature).astype(np.float32)
    answered = probabilities.max(1) >= calibration.threshold
    assert part.right[answered].mean() >= calibration.target_accuracy
    assert answered.mean() == pytest.approx(calibration.coverage)
    for lower in np.unique(probabilities.max(1)[~answered]):
        assert part.right[probabilities.max(1) >= lower].mean() < calibration.target_accuracy


def statuses(workspace: Workspace) -> dict[str, str]:
    return {row["feedback_id"]: row["status"] for row in state(workspace)["scored_feedback"]}


def test_another_stated_accuracy_reaches_the_rows_already_scored(make_home, tmp_path: Path) -> None:
    strict, loose = make_home("strict", target_accuracy=0.97), make_home("loose", target_accuracy=0.5)
    for workspace in (strict, loose):
        world.drop_inbox(workspace)
        take_in(workspace)
        score(workspace)
    fresh_strict, fresh_loose = statuses(strict), statuses(loose)
    assert fresh_strict != fresh_loose
    changed = Workspace(world.settings(tmp_path / "strict", target_accuracy=0.5))
    report = score(changed)
    differ = sum(fresh_strict[identity] != status for identity, status in fresh_loose.items())
    assert (report.rows, report.computed, report.redecided) == (0, 0, differ)
    assert state(changed)["scored_feedback"] == state(loose)["scored_feedback"]
    assert score(changed).redecided == 0
    assert score(strict).redecided == differ  # and back: the newly unsure wait for a person
    assert statuses(strict) == fresh_strict
    unsure = {identity for identity, status in fresh_strict.items() if status == "abstain"}
    assert unsure <= {row["feedback_id"] for row in state(strict)["review_queue"]}


def test_rows_that_begin_to_abstain_join_the_queue_once(make_home, tmp_path: Path) -> None:
    loose, strict = make_home("loose", target_accuracy=0.5), make_home("strict", target_accuracy=0.97)
    for workspace in (loose, strict):
        world.drop_inbox(workspace)
        take_in(workspace)
        score(workspace)
    changed = Workspace(world.settings(tmp_path / "loose", target_accuracy=0.97))
    score(changed)

    def queued(workspace: Workspace) -> list[tuple[str, bool]]:
        return sorted((row["feedback_id"], row["audit"]) for row in state(workspace)["review_queue"])

    assert queued(changed) == queued(strict)


def test_a_text_that_was_cut_keeps_its_mark_through_another_stated_accuracy(make_home, tmp_path: Path) -> None:
    workspace = make_home(target_accuracy=0.01)
    world.train_bigru_champion(workspace, max_length=8)
    drop_csv(workspace, "a.csv", [{"text": text} for text in world.sample_texts()[:40]])
    take_in(workspace)
    score(workspace)
    before = statuses(workspace)
    assert "truncated" in before.values()
    score(Workspace(world.settings(tmp_path / "home", target_accuracy=1.0)))
    assert statuses(workspace) != before
    score(workspace)
    assert statuses(workspace) == before


def test_another_temperature_of_the_same_model_reaches_its_scores(workspace: Workspace) -> None:
    world.drop_inbox(workspace)
    take_in(workspace)
    score(workspace)
    before = calibrate(workspace.settings, workspace.store)
    champion = load_champion(workspace)
    world.predict_on_part(workspace, 60)  # the champion measured on other validation rows
    after = calibrate(workspace.settings, workspace.store)
    assert after.folder.version == before.folder.version
    assert abs(after.temperature - before.temperature) > 0.01
    report = score(workspace)
    assert (report.rows, report.computed) == (0, 0)
    texts = {row["feedback_id"]: row["text"] for row in state(workspace)["feedback"]}
    rows = state(workspace)["scored_feedback"]
    champion = replace(champion, calibration=after)
    for row, answer in zip(rows, champion.score([texts[row["feedback_id"]] for row in rows]), strict=True):
        assert row["probabilities"] == pytest.approx(answer.probabilities, abs=1e-5)
        assert row["confidence"] == max(row["probabilities"])
        assert row["emotion"] == answer.emotion
        assert (row["status"] == "abstain") == (row["confidence"] < after.threshold)


def test_a_stated_accuracy_that_no_confidence_reaches_answers_nothing() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2]])
    assert choose_threshold(np.array([1, 1, 1]), probabilities, 0.5) > 1
    assert choose_threshold(np.array([0, 0, 1]), probabilities, 0.99) == 0.9
    assert choose_threshold(np.array([1, 0, 0]), probabilities, 0.6) == 0.8


def test_a_new_champion_scores_new_rows_and_history_only_when_asked(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", [{"text": text} for text in world.sample_texts()[:60]])
    take_in(workspace)
    old = score(workspace)
    world.train_champion(workspace, c=0.02)
    drop_csv(workspace, "b.csv", [{"text": "brand new words about a lovely day"}])
    take_in(workspace)
    new = score(workspace)
    assert new.model_version != old.model_version
    assert (new.rows, new.churn) == (1, ())
    assert len(view(workspace, "current_scores")) == 1
    assert len(view(workspace, "latest_scores")) == 61
    again = score(workspace, "all")
    assert again.rows == 60
    assert sum(change["n"] for change in again.churn) == 60
    assert any(change["before"] != change["after"] for change in again.churn)
    assert len(view(workspace, "current_scores")) == 61
    assert len(view(workspace, "scored_feedback")) == 121  # the old scores are kept
    assert score(workspace, "all").rows == 0


def test_rescoring_since_a_day_leaves_older_rows_alone(workspace: Workspace) -> None:
    days = ["2026-01-01", "2026-02-01", "2026-03-01"]
    drop_csv(workspace, "a.csv", [{"text": f"text of {day}", "created_at": day} for day in days])
    take_in(workspace)
    score(workspace)
    world.train_champion(workspace, c=0.02)
    assert score(workspace, "since 2026-02-01").rows == 2


def test_rescore_understands_three_forms_and_refuses_others_in_one_line() -> None:
    assert parse_rescore("") is None
    assert parse_rescore("all") == date.min
    assert parse_rescore("since 2026-01-31") == date(2026, 1, 31)
    for wrong in ("everything", "since", "since yesterday", "2026-01-31"):
        with pytest.raises(UserError, match="use all, or since and a day"):
            parse_rescore(wrong)


def test_a_champion_that_comes_back_is_the_current_one_again(workspace: Workspace) -> None:
    drop_csv(workspace, "a.csv", [{"text": "one fine day"}])
    take_in(workspace)
    first = workspace.store.current(["champion_model"])
    score(workspace)
    world.train_champion(workspace, c=0.02)
    score(workspace, "all")
    workspace.store.point(["champion_model"], "models", first)
    world.train_champion(workspace, c=1.0)
    score(workspace)
    (row,) = view(workspace, "current_scores")
    assert row["model_version"] == first.version


def test_a_champion_scores_on_after_its_model_was_trained_again_and_refused(workspace: Workspace) -> None:
    store = workspace.store
    champion = store.current(CHAMPION)
    store.point(CHAMPION_PREDICTIONS, "predictions", store.current(["predictions", "tfidf_svm"]))
    world.train_champion(workspace, c=0.02)
    store.point(CHAMPION, "models", champion)
    drop_csv(workspace, "a.csv", [{"text": "one fine day"}])
    take_in(workspace)
    assert score(workspace).model_version == champion.version


def test_without_a_champion_or_its_predictions_the_line_says_what_to_materialise(workspace: Workspace) -> None:
    pointers = workspace.settings.store_dir / "pointers"
    (pointers / "predictions__tfidf_svm.json").unlink()
    with pytest.raises(UserError, match="materialise predictions"):
        score(workspace)
    (pointers / "champion_model.json").unlink()
    with pytest.raises(UserError, match="champion_model was not materialised yet"):
        score(workspace)


def test_a_long_text_is_scored_on_its_beginning_and_marked(make_home) -> None:
    workspace = make_home(target_accuracy=0.01)
    world.train_bigru_champion(workspace, max_length=8)
    fits = "what a wonderful day full of joy today"
    rows = [{"id": "fits", "text": fits}, {"id": "long", "text": f"{fits} but oh how angry that made me"}]
    drop_csv(workspace, "a.csv", rows)
    take_in(workspace)
    score(workspace)
    found = {row["feedback_id"]: row for row in state(workspace)["scored_feedback"]}
    told = {identity: (row["status"], row["truncated"]) for identity, row in found.items()}
    assert told == {"fits": ("ok", False), "long": ("truncated", True)}
    assert found["long"]["probabilities"] == pytest.approx(found["fits"]["probabilities"], abs=1e-6)


def test_a_long_text_that_the_model_is_unsure_of_abstains_and_stays_marked(make_home) -> None:
    workspace = make_home(target_accuracy=1.0)
    world.train_bigru_champion(workspace, max_length=8)
    drop_csv(workspace, "a.csv", [{"text": "zxq wvu " * 8}])
    take_in(workspace)
    score(workspace)
    (row,) = state(workspace)["scored_feedback"]
    assert (row["status"], row["truncated"]) == ("abstain", True)
