"""The terminal commands: one line for what a user can fix, and figures from the same library as the graph."""

from __future__ import annotations

import pytest

from emotion_assets.profile_reader import load_settings
from emotion_assets_tests.conftest import Terminal


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["leaderboard"], "holds no evaluation yet; materialise evaluation_table first"),
        (["score", "hello"], "champion_model was not materialised yet"),
        (["export"], "nothing to export; give --scores FILE or --review FILE"),
    ],
)
def test_a_command_before_the_graph_has_run_says_what_to_do_in_one_line(
    terminal: Terminal, arguments: list[str], said: str
) -> None:
    done = terminal.emotion_assets(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_profile_that_does_not_exist_is_one_line(terminal: Terminal) -> None:
    done = terminal.emotion_assets("leaderboard", EMOTION_PROFILE="nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("EMOTION_PROFILE=nothing: no such profile; use embedded, laptop, paper")


def test_doctor_finds_nothing_missing_for_the_profiles_that_need_nothing(terminal: Terminal) -> None:
    done = terminal.emotion_assets("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing" not in done.stdout


def test_doctor_says_what_the_paper_profile_lacks_here_licence_and_token_included(terminal: Terminal) -> None:
    done = terminal.emotion_assets("doctor", EMOTION_PROFILE="paper", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    said = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "dataset dair-ai/emotion" in said
    for name in load_settings("paper", environ={}).bases:
        assert f"missing base {name}" in said
    assert "GPU" in said
    assert "accept its licence" in said
    assert "HF_TOKEN" in said
