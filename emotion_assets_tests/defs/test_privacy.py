"""What customers wrote stands in no event, no log, no run configuration and no traceback: canaries, looked for in every
byte that Dagster keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from emotion_assets.defs.automation import inbox_sensor
from emotion_assets.defs.console import console_logger
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.defs.test_ticks import job_of
from emotion_assets_tests.worlds.feedback import drop_csv, drop_jsonl

CANARIES = [
    "zyzzyva",
    "quokkavalue",
    "numbatname",
    "wombatid",
    "axolotlday",
    "narwhalreject",
    "okapiheader",
    "tapirkey",
]


@pytest.fixture
def dagster_home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "dagster"
    folder.mkdir()
    yield folder


def drop_canaries(workspace: Workspace) -> None:
    rows = [
        {"id": "wombatid-1", "text": "the zyzzyva is broken again", "created_at": "axolotlday", "name": "numbatname"},
        {"id": "wombatid-2", "text": "", "created_at": "2026-11-01", "name": "narwhalreject"},
        {"id": "wombatid-3", "text": "zyzzyva " * 40, "created_at": "2026-11-02", "name": "quokkavalue"},
    ]
    drop_csv(workspace, "a.csv", rows)
    drop_jsonl(
        workspace, "b.jsonl", [{"text": "zyzzyva", "tapirkey": {"quokkavalue": 1}}, {"text": 7, "x": "quokkavalue"}]
    )
    inbox = workspace.settings.inbox
    (inbox / "no_header.csv").write_text("okapiheader zyzzyva,numbatname\nanother zyzzyva,numbatname\n")
    (inbox / "broken.csv").write_bytes(b'text\n"zyzzyva never closed\n')
    (inbox / "latin.csv").write_bytes("text,quokkavalue\ncaf\u00e9 zyzzyva,1\n".encode("latin-1"))
    (inbox / "cut.json").write_text('[{"text": "zyzzyva"}, {"text": "okapiheader')


def kept(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def assert_no_canary(content: bytes | str) -> None:
    raw = content.encode() if isinstance(content, str) else content
    assert [canary for canary in CANARIES if canary.encode() in raw] == []


def test_runs_that_take_in_reject_quarantine_score_and_report_tell_dagster_nothing(
    make_home, dagster_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    workspace = make_home(audit_share=1)
    drop_canaries(workspace)
    ticked = inbox_sensor(dg.build_sensor_context(resources={"workspace": workspace}))
    with dg.DagsterInstance.local_temp(str(dagster_home)) as instance:
        result = job_of(workspace).execute_in_process(instance=instance)
        assert result.success
        (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey("feedback")]
        shown = event.materialization.metadata
        assert shown["new rows"].value == 3 and "empty_text" in str(shown["rejects by reason"].value)
        assert "no_header.csv" in str(shown["new files"].value) and "missing_text_column" in str(
            shown["new files"].value
        )
    again = inbox_sensor(dg.build_sensor_context(resources={"workspace": workspace}))
    content = kept(dagster_home)
    assert b"a.csv" in content and b"feedback_report" in content  # it was looked for where everything is
    assert_no_canary(content)
    assert_no_canary(str((ticked, again)))
    assert_no_canary(str(capfd.readouterr()))
    assert b"zyzzyva" in kept(workspace.settings.home)  # and they are where they belong


@pytest.mark.parametrize("where", ["emotion_assets.scoring.score._with_stored", "emotion_assets.ingest.ledger._batch"])
def test_a_defect_that_quotes_a_text_tells_dagster_nothing(
    make_home, dagster_home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], where: str
) -> None:
    workspace = make_home()
    drop_canaries(workspace)

    def stumble(*arguments: object) -> None:
        try:
            raise KeyError("zyzzyva")
        except KeyError as error:
            raise ValueError(f"cannot take {arguments}, okapiheader") from error

    monkeypatch.setattr(where, stumble)
    job = job_of(workspace)
    job = dg.Definitions.merge(  # as `make demo` prints it
        dg.Definitions(jobs=[job], loggers={"console": console_logger})
    ).resolve_job_def("feedback_job")
    with dg.DagsterInstance.local_temp(str(dagster_home)) as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        assert not result.success
        (failure,) = [e.step_failure_data for e in result.all_events if e.is_step_failure]
        assert failure.user_failure_data and "ValueError in test_privacy.py" in str(
            failure.user_failure_data.description
        )
    content = kept(dagster_home)
    assert b"a defect; its traceback" in content
    assert_no_canary(content)
    assert_no_canary(str(capfd.readouterr()))
    (told,) = (workspace.settings.home / "errors").iterdir()
    assert "zyzzyva" in told.read_text()
