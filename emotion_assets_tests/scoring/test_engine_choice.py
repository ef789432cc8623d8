"""Which engine scores: the profile's, or the one that a run names; what is missing is one line."""

from __future__ import annotations

import sys

import pytest

from emotion_assets.profiles.reader import load_settings
from emotion_assets.scoring.calibration import calibrate
from emotion_assets.scoring.engines.engine import make_block
from emotion_assets.scoring.engines.local import LocalEngine
from emotion_assets.scoring.engines.ray import RayEngine
from emotion_assets.scoring.engines.registry import choose_engine, make_engine
from emotion_assets.settings.errors import SettingsError, UserError
from emotion_assets.storage.workspace import Workspace


def test_the_profile_chooses_and_a_run_overrules_it(workspace: Workspace) -> None:
    settings = workspace.settings
    assert isinstance(make_engine(choose_engine(settings, "").scoring), LocalEngine)
    by_run = choose_engine(settings, "ray")
    assert isinstance(make_engine(by_run.scoring), RayEngine)
    assert choose_engine(by_run, "local").scoring == settings.scoring
    with pytest.raises(UserError, match="engine: 'spark' is no engine; use local or ray"):
        choose_engine(settings, "spark")


def test_an_engine_that_there_is_not_is_one_line() -> None:
    with pytest.raises(SettingsError, match=r"scoring\.engine: .*'local' or 'ray'"):
        load_settings("embedded", environ={}, overrides={"scoring": {"engine": "spark"}})


def test_ray_that_is_not_installed_is_one_line(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    engine = make_engine(choose_engine(workspace.settings, "ray").scoring)
    answers = engine.answers(calibrate(workspace.settings, workspace.store), [make_block(["so happy"])])
    with pytest.raises(UserError, match=r"scoring\.engine: ray is not installed; install .* \[ray\], or set .* local"):
        next(answers)
