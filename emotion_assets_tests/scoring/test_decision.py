"""One rule decides what an answer counts as: for new scores, and for scores stored before."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_assets.ingest.ledger import ingest
from emotion_assets.scoring import decision
from emotion_assets.scoring.calibration import calibrate
from emotion_assets.scoring.score import score_feedback
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.worlds.feedback import drop_inbox, state


@pytest.mark.parametrize(
    ("highest", "truncated", "status"),
    [
        (0.8, False, "ok"),
        (0.8, True, "truncated"),
        (0.7, False, "ok"),
        (0.69, False, "abstain"),
        (0.69, True, "abstain"),
    ],
)
def test_the_status_of_an_answer(highest: float, truncated: bool, status: str) -> None:
    probabilities = np.array([[highest, 1 - highest]], dtype=np.float32)
    threshold = float(np.float32(0.7))
    assert decision.decide(probabilities, np.array([truncated]), threshold).tolist() == [status]


def margin(probabilities: np.ndarray) -> np.ndarray:
    """Another measure of certainty: how far the best label is before the second."""
    best = np.sort(probabilities, axis=1)
    return best[:, -1] - best[:, -2]


def test_another_rule_reaches_new_scores_and_the_stored_ones(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_inbox(workspace)
    ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, "run")

    def score() -> int:
        return score_feedback(workspace.settings, workspace.store, workspace.warehouse, "run").redecided

    def statuses() -> list[str]:
        return [row["status"] for row in state(workspace)["scored_feedback"]]

    score()
    before = statuses()
    monkeypatch.setattr(decision, "certainty", margin)
    monkeypatch.setattr(decision, "RULE", "margin")
    changed = score()
    after = statuses()
    assert changed == sum(a != b for a, b in zip(before, after, strict=True)) > 0
    threshold = calibrate(workspace.settings, workspace.store).threshold
    for row in state(workspace)["scored_feedback"]:
        sure = margin(np.array([row["probabilities"]], dtype=np.float32))[0] >= threshold
        assert (row["status"] == "abstain") != sure
    unsure = {row["feedback_id"] for row in state(workspace)["scored_feedback"] if row["status"] == "abstain"}
    assert unsure <= {row["feedback_id"] for row in state(workspace)["review_queue"]}
    assert score() == 0
