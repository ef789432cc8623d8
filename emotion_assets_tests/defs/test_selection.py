"""A selection that matches nothing, or cannot be read, starts nothing."""

from __future__ import annotations

import dagster as dg
import pytest

from emotion_assets.defs.build import build_defs
from emotion_assets.defs.selection import refuse_empty_selection
from emotion_assets.settings.errors import SettingsError
from emotion_assets_tests.conftest import Terminal


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    return build_defs({"home": tmp_path_factory.mktemp("home")})


@pytest.mark.parametrize(
    "arguments",
    [
        ["dg", "launch", "--assets", "kind:torch"],
        ["dg", "launch", "--assets=kind:torch"],
        ["dagster", "asset", "materialize", "-m", "emotion_assets.definitions", "--select", "group:nothing"],
    ],
)
def test_nothing_selected_is_refused_with_the_kinds_there_are(
    definitions: dg.Definitions, arguments: list[str]
) -> None:
    with pytest.raises(SettingsError, match=r"selects no asset; kinds are .*pytorch.*groups dataset, evaluation"):
        refuse_empty_selection(definitions, arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["dg", "launch", "--assets", "kind:pytorch"],
        ["dg", "launch", "--assets", "feedback,champion_model"],
        ["dg", "launch", "--assets", "group:evaluation"],
        ["dagster", "asset", "materialize", "--select", "*", "-m", "emotion_assets.definitions"],
        ["dg", "launch", "--job", "feedback_job"],
        ["dg", "list", "defs", "--assets", "kind:torch"],
        ["dagster", "dev"],
        [],
    ],
)
def test_everything_else_goes_on(definitions: dg.Definitions, arguments: list[str]) -> None:
    refuse_empty_selection(definitions, arguments)


def test_what_a_job_reports_is_refused_with_that_job(definitions: dg.Definitions) -> None:
    with pytest.raises(SettingsError, match="sweep is reported by its job, not materialised; use `dg launch --job s"):
        refuse_empty_selection(definitions, ["dg", "launch", "--assets", "sweep"])


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("*bigru", "no asset has the key 'bigru'; did you mean baseline_models/bigru or predictions/bigru?"),
        (
            "champion_model,prediction/bigru",
            "'prediction/bigru'; did you mean baseline_models/bigru or predictions/bigru?",
        ),
        ("lama3_lora_model", "'lama3_lora_model'; did you mean llama3_lora_model"),
        ("nothing_like_it", "'nothing_like_it'; `dg list defs` shows the keys"),
        ("*predictions/bigru or champion_model", "'*predictions/bigru or champion_model' is no selection; use a key"),
        ("", "'' is no selection"),
    ],
)
def test_a_key_that_does_not_exist_or_no_selection_is_one_line(
    definitions: dg.Definitions, selection: str, message: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        refuse_empty_selection(definitions, ["dg", "launch", "--assets", selection])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_command_runs_nothing_and_says_so(terminal: Terminal) -> None:
    done = terminal.materialise("kind:torch")
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("'kind:torch' selects no asset")
    assert "Traceback" not in done.stdout + done.stderr
    with dg.DagsterInstance.from_config(str(terminal.dagster_home)) as instance:
        assert instance.get_runs_count() == 0
