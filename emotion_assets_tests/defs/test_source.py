"""The source of the dataset, observed: what was made of an earlier state of it is stale, by Dagster's own reckoning."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from emotion_assets.dataset.source import look_at_source
from emotion_assets.defs.dataset import dataset_assets
from emotion_assets.defs.source import dataset_source, source_sensor
from emotion_assets.profiles.reader import load_settings
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import DatasetSettings
from emotion_assets.storage.warehouse.database import Warehouse
from emotion_assets.storage.workspace import Workspace

LABELS = ["joy", "sadness", "anger", "fear", "love", "surprise"]
MADE = {"raw_emotion_dataset", "made_of_it"}


class Location:
    """A home whose dataset is a folder of its own, with an instance."""

    def __init__(self, folder: Path, home: Path, instance: dg.DagsterInstance) -> None:
        self.folder, self.instance = folder, instance
        self.cursor: str | None = None
        self.overrides: dict[str, Any] = {"home": home, "dataset": {"source": str(folder)}}

    def materialise(self, *keys: str) -> None:
        settings = load_settings(overrides=self.overrides)
        raw = dataset_assets(settings)[0]

        @dg.asset(deps=[raw], code_version="1")
        def made_of_it() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion("1"))

        self.assets = [dataset_source(settings), raw, made_of_it]
        resources = {"workspace": Workspace(settings)}
        selection = [dg.AssetKey(key) for key in keys or MADE]
        assert dg.materialize(self.assets, selection=selection, instance=self.instance, resources=resources).success

    def tick(self) -> str:
        """What one look of the sensor says."""
        settings = load_settings(overrides=self.overrides)
        context = dg.build_sensor_context(self.instance, self.cursor, resources={"workspace": Workspace(settings)})
        result = source_sensor(settings)(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        for event in result.asset_events or []:
            self.instance.report_runless_asset_event(event)
        return str(result.skip_reason.skip_message if result.skip_reason else "observed")

    def stale(self, **changes: Any) -> set[str]:
        """The assets that the UI shows as stale."""
        settings = load_settings(overrides={**self.overrides, **changes})
        assets = [dataset_source(settings), dataset_assets(settings)[0], self.assets[-1]]
        graph = dg.Definitions(assets=assets, resources={"workspace": Workspace(settings)}).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return {key for key in MADE if resolver.get_status(dg.AssetKey(key)).value != "FRESH"}


@pytest.fixture
def location(tmp_path: Path) -> Iterator[Location]:
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = [f'{{"text": "text {n} of {label}", "label": "{label}"}}\n' for n in range(3) for label in LABELS]
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    with dg.DagsterInstance.ephemeral() as instance:
        location = Location(folder, tmp_path / "home", instance)
        location.materialise()
        yield location


def add_row(folder: Path) -> None:
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "one more morning, and what a lovely one", "label": "joy"}\n')


def test_rows_that_change_make_the_graph_stale_until_they_are_read(location: Location) -> None:
    assert location.stale() == set()
    assert "is what it was" in location.tick()  # the reading itself observed this state
    assert location.stale() == set()
    add_row(location.folder)
    assert location.stale() == set()  # nobody looked yet
    assert location.tick() == "observed"
    assert location.stale() == {"raw_emotion_dataset"}
    assert "is what it was" in location.tick()
    location.materialise("raw_emotion_dataset")
    assert location.stale() == {"made_of_it"}
    location.materialise()
    assert location.stale() == set()


def test_rows_that_change_between_two_looks_are_not_taken_for_those_that_were_read(location: Location) -> None:
    location.tick()
    add_row(location.folder)
    location.materialise()  # no sensor has seen these rows
    assert location.stale() == set()
    assert "is what it was" in location.tick()
    assert location.stale() == set()


def test_another_dataset_other_labels_and_another_order_are_stale(location: Location) -> None:
    assert location.stale(dataset={"source": "sample"}) == {"raw_emotion_dataset"}
    assert location.stale(labels=["sadness", "joy", "anger", "fear", "love", "surprise"]) == {"raw_emotion_dataset"}
    assert location.stale(labels=[*LABELS[:5], "awe"]) == {"raw_emotion_dataset"}
    assert location.stale(seed=3) == {"raw_emotion_dataset"}
    assert location.stale() == set()


def test_the_button_of_the_ui_observes_too(location: Location) -> None:
    add_row(location.folder)
    settings = load_settings(overrides=location.overrides)
    source = dataset_source(settings)
    assert (
        dg.Definitions(assets=[source], resources={"workspace": Workspace(settings)})
        .resolve_job_def("__ASSET_JOB")
        .execute_in_process(instance=location.instance, asset_selection=[source.key])
        .success
    )
    assert location.stale() == {"raw_emotion_dataset"}


def test_a_source_that_is_gone_skips_with_the_line_and_keeps_what_it_knew(location: Location) -> None:
    location.tick()
    known = location.cursor
    (location.folder / "test.jsonl").unlink()
    assert "the test split is missing" in location.tick()
    assert location.cursor == known


def test_the_version_is_of_the_content_alone(location: Location, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "none.duckdb")

    def version(folder: Path) -> str:
        return look_at_source(DatasetSettings(source=str(folder)), warehouse, {}).version

    copy = tmp_path / "copy"
    shutil.copytree(location.folder, copy)
    assert version(copy) == version(location.folder)
    (copy / "notes.md").write_text("no rows")
    assert version(copy) == version(location.folder)
    add_row(copy)
    assert version(copy) != version(location.folder)
    assert not (tmp_path / "none.duckdb").exists()


def test_an_unchanged_file_is_not_read_again(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    location.tick()
    monkeypatch.setattr("emotion_assets.dataset.source.file_sha256", lambda path: pytest.fail(f"reads {path}"))
    assert "is what it was" in location.tick()


def test_a_dataset_of_the_hub_is_its_revision(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "none.duckdb")
    pinned = DatasetSettings(source="dair-ai/emotion", revision="c" * 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emotion_assets.dataset.source.find_source", lambda settings: "on the Hub")
        assert look_at_source(pinned, warehouse, {}).version == "c" * 40
        with pytest.raises(DataError, match=r"the Hub does not say its revision .*give dataset.revision"):
            look_at_source(DatasetSettings(source="dair-ai/emotion"), warehouse, {})
