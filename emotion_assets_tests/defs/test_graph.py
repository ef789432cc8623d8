"""The whole graph through Dagster's own command, from the first asset to the last, twice."""

from __future__ import annotations

import re
import subprocess

import dagster as dg
import duckdb
import pytest
from starlette.testclient import TestClient

from emotion_assets.profiles.reader import load_settings
from emotion_assets.reports.server import reports_app
from emotion_assets.storage.keys import DATASET_SOURCE, SWEEP
from emotion_assets_tests.conftest import TINY_PROFILE, Terminal

Demo = tuple[Terminal, subprocess.CompletedProcess[str]]
REPORTS_URL = "http://127.0.0.1:3001"
MODELS = list(load_settings(str(TINY_PROFILE), environ={}).models)


def table(terminal: Terminal, query: str) -> list[tuple[object, ...]]:
    with duckdb.connect(terminal.home / "emotion.duckdb", read_only=True) as db:
        return db.execute(query).fetchall()


@pytest.fixture(scope="module")
def metadata(demo: Demo) -> dict[str, dict[str, dg.MetadataValue]]:
    """What the UI shows of the newest materialisation of each asset."""
    terminal, _ = demo
    with dg.DagsterInstance.from_config(str(terminal.dagster_home)) as instance:
        shown = {}
        for key in set(instance.get_asset_keys()) - {dg.AssetKey(DATASET_SOURCE)}:
            event = instance.get_latest_materialization_event(key)
            assert event is not None
            assert event.asset_materialization is not None
            shown[key.to_user_string()] = dict(event.asset_materialization.metadata)
        return shown


def test_every_asset_is_materialised_on_a_cpu_without_network(
    demo: Demo, metadata: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, done = demo
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    from emotion_assets.defs.build import build_defs

    monkeypatch.setenv("EMOTION_PROFILE", str(TINY_PROFILE))
    wanted = {key.to_user_string() for key in build_defs().resolve_all_asset_keys()}
    assert set(metadata) == wanted - {*DATASET_SOURCE, *SWEEP}


def test_nothing_of_a_training_in_progress_is_left(demo: Demo) -> None:
    terminal, _ = demo
    assert [path for path in (terminal.home / "checkpoints").rglob("*") if path.suffix != ".lock"] == []
    assert not list((terminal.home / "store").rglob(".draft-*"))


def test_the_terminal_shows_each_step_and_the_progress_of_each_training(demo: Demo) -> None:
    _, done = demo
    for model in ("llama3_lora_model", "bert_base", "bigru"):
        assert f"{model}: step " in done.stdout
    assert "rows/s" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr


def test_every_asset_shows_rows_or_figures_and_something_to_look_at(metadata: dict[str, dict[str, object]]) -> None:
    for key, shown in metadata.items():
        if not key.startswith(("base_models/", "baseline_models/", "llama3_lora_model", "champion_model")):
            assert "dagster/row_count" in shown, key
        looks = [v for v in shown.values() if isinstance(v, dg.MarkdownMetadataValue | dg.FloatMetadataValue)]
        assert looks, key


@pytest.mark.parametrize(
    "key", ["class_balance_report", "evaluation_table", "llama3_lora_model", "base_models/llama_tiny"]
)
def test_plots_are_small_pictures_that_are_served_beside_the_ui(
    demo: Demo, metadata: dict[str, dict[str, dg.MetadataValue]], key: str
) -> None:
    terminal, _ = demo
    links = [link for v in metadata[key].values() for link in re.findall(r"\]\(([^\s)]+\.png)\)$", str(v.value))]
    assert links
    browser = TestClient(reports_app(terminal.home / "reports", REPORTS_URL), base_url=REPORTS_URL)
    for link in links:
        picture = browser.get(link)
        assert picture.content.startswith(b"\x89PNG"), link
        assert 2_000 < len(picture.content) < 150_000


def test_the_ui_shows_every_table_in_its_place(metadata: dict[str, dict[str, dg.MetadataValue]]) -> None:
    for key, shown in metadata.items():
        for name, value in shown.items():
            if isinstance(value, dg.MarkdownMetadataValue):
                assert len(str(value.value)) < 1000, (key, name)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("raw_emotion_dataset", ["train rows", "test rows"]),
        ("baseline_models/bigru", ["validation accuracy", "train seconds"]),
        ("predictions/bigru", ["test accuracy", "texts per second"]),
        ("evaluation_table", ["best test accuracy", "best macro F1", "test accuracy of bigru", "macro F1 of bigru"]),
        ("champion_model", ["validation accuracy"]),
        ("feedback", ["dagster/row_count", "new rows", "new rejects", "rejects"]),
        ("scored_feedback", ["coverage", "abstentions", "waiting for review", "texts per second"]),
    ],
)
def test_what_changes_over_time_is_a_number(
    metadata: dict[str, dict[str, dg.MetadataValue]], key: str, names: list[str]
) -> None:
    for name in names:
        assert isinstance(metadata[key][name], dg.IntMetadataValue | dg.FloatMetadataValue), name


def test_the_champion_says_in_which_number_format_it_scores(metadata: dict[str, dict[str, dg.MetadataValue]]) -> None:
    shown = metadata["champion_model"]
    assert shown["scores feedback in"].value in {"fp32", "bf16", "the format it was trained in"}
    assert shown["why in that format"].value


def test_every_column_is_described(metadata: dict[str, dict[str, dg.MetadataValue]]) -> None:
    for key, shown in metadata.items():
        for value in shown.values():
            if isinstance(value, dg.TableSchemaMetadataValue):
                assert [column.name for column in value.schema.columns if not column.description] == [], key


@pytest.mark.parametrize("key", ["evaluation_table", "feedback_report"])
def test_the_page_of_an_asset_opens_from_its_link(
    demo: Demo, metadata: dict[str, dict[str, dg.MetadataValue]], key: str
) -> None:
    terminal, _ = demo
    browser = TestClient(reports_app(terminal.home / "reports", REPORTS_URL), base_url=REPORTS_URL)
    assert browser.get(str(metadata[key]["page"].value)).status_code == 200


def test_every_model_is_evaluated_on_the_same_rows(demo: Demo) -> None:
    terminal, _ = demo
    rows = table(terminal, "SELECT model, n_rows, split_fingerprint, accuracy FROM leaderboard")
    assert sorted(str(row[0]) for row in rows) == sorted(MODELS)
    assert {row[1] for row in rows} == {250}
    assert len({row[2] for row in rows}) == 1
    accuracies = [float(str(row[3])) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert max(accuracies) > 0.4  # the largest class is a third of the rows


def test_the_champion_has_scored_every_accepted_row(demo: Demo) -> None:
    terminal, _ = demo
    (accepted,) = table(terminal, "SELECT count(*) FROM feedback")[0]
    assert accepted == 233
    assert table(terminal, "SELECT count(*), count(DISTINCT feedback_id) FROM scored_feedback") == [(233, 233)]
    (replaced,) = table(terminal, "SELECT count(*) FROM feedback WHERE version > 1")[0]
    assert table(terminal, "SELECT count(*) FROM current_scores") == [(233 - replaced,)]
    totals = table(
        terminal, "SELECT sum(rows_read), sum(rows_accepted + rows_duplicate + rows_rejected) FROM ingested_files"
    )
    assert totals == [(242, 242)]


def test_the_leaderboard_and_a_score_are_printed(demo: Demo) -> None:
    terminal, _ = demo
    printed = terminal.emotion_assets("leaderboard")
    assert printed.returncode == 0, printed.stderr
    assert all(model in printed.stdout for model in MODELS)
    scored = terminal.emotion_assets("score", "I am furious, this is the third broken kettle you sent")
    assert scored.returncode == 0, scored.stderr
    assert all(label in scored.stdout for label in ("joy", "sadness", "anger", "fear", "love", "surprise"))


def test_a_second_run_trains_nothing_and_changes_no_score(demo: Demo) -> None:
    terminal, _ = demo
    queries = (
        "SELECT * FROM scored_feedback ORDER BY ALL",
        "SELECT * FROM feedback ORDER BY ALL",
        "SELECT * FROM evaluation ORDER BY ALL",
    )
    before = [table(terminal, query) for query in queries]
    again = terminal.materialise()
    assert again.returncode == 0, again.stdout[-3000:]
    assert "step 1/" not in again.stdout
    assert "rows/s" not in again.stdout
    assert again.stdout.count("is in the store as") == len(MODELS) + 2
    assert [table(terminal, query) for query in queries] == before
