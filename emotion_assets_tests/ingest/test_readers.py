"""Whatever a feedback file looks like, each of its rows is accepted or rejected with a reason, or it is quarantined."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from emotion_assets.forms.problems import Quarantine, Reason, Rejected
from emotion_assets.ingest.readers import read_feedback
from emotion_assets.ingest.rows import Accepted
from emotion_assets.settings.feedback import FeedbackSettings
from emotion_assets_tests.worlds import bad_files

FILES = bad_files.all_files()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Accepted | Rejected]]:
    def reading(content: bytes | str, name: str = "feedback.csv", **settings: object) -> list[Accepted | Rejected]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(read_feedback(path, FeedbackSettings(**settings)))

    return reading


def test_the_corpus_has_sixty_kinds_and_no_kind_twice() -> None:
    assert len({file.kind for file in FILES}) == len(FILES) >= 60


@pytest.mark.parametrize("file", FILES, ids=[file.kind for file in FILES])
def test_a_bad_file_has_the_outcome_that_is_stated(
    file: bad_files.BadFile, read: Callable[..., list[Accepted | Rejected]]
) -> None:
    if file.quarantined:
        with pytest.raises(Quarantine) as caught:
            read(file.content, file.file_name, **file.settings)
        assert caught.value.reason_code == file.quarantined
        assert "\n" not in str(caught.value)
        return
    rows = read(file.content, file.file_name, **file.settings)
    outcome = {row.row_number: bad_files.OK if isinstance(row, Accepted) else str(row.reason_code) for row in rows}
    assert len(outcome) == len(rows), "a row number is there twice"
    assert outcome == file.rows
    texts = {row.row_number: row.text for row in rows if isinstance(row, Accepted)}
    assert {number: texts[number] for number in file.texts} == file.texts
    for row in rows:
        if isinstance(row, Accepted):
            json.dumps(row.attributes, allow_nan=False)
        else:
            assert len(row.raw_excerpt) <= 200
            assert "\0" not in (row.raw_excerpt + row.detail).encode().decode()
            assert "\n" not in row.detail


def test_every_reason_is_explained_in_one_line() -> None:
    assert all(reason.explain and "\n" not in reason.explain for reason in Reason)


def test_text_id_and_created_at_are_taken_out_and_the_rest_is_kept(read: Callable[..., list[Any]]) -> None:
    (row,) = read("region,id,text,created_at\neu, 7 ,  Hm. ,2026-01-31 09:00:00+02:00\n")
    assert row == Accepted(2, " 7 ", "  Hm. ", datetime(2026, 1, 31, 7, tzinfo=UTC), {"region": "eu"})


def test_jsonl_attributes_keep_their_types(read: Callable[..., list[Any]]) -> None:
    (row,) = read('{"id": 12, "text": "a", "x": {"y": [1, 2.5, null, true]}}', "feedback.jsonl")
    assert (row.id, row.attributes) == ("12", {"x": {"y": [1, 2.5, None, True]}})


def test_parquet_dates_and_decimals_become_text_and_created_at_utc(read: Callable[..., list[Any]]) -> None:
    moment = datetime(2026, 1, 31, 9, 0, 0, 250, tzinfo=UTC)
    columns = {"text": ["a"], "created_at": [moment], "seen": [moment], "day": [moment.date()], "n": [3]}
    content = bad_files.parquet(columns)
    (row,) = read(content, "feedback.parquet")
    assert row.created_at == moment
    assert row.attributes == {"seen": "2026-01-31T09:00:00.000250+00:00", "day": "2026-01-31", "n": 3}


def test_the_outcome_of_a_file_does_not_depend_on_its_name(read: Callable[..., list[Any]]) -> None:
    for file in FILES[::7]:
        if file.rows is None:
            continue
        assert read(file.content, "a.csv", **file.settings) == read(file.content, "b.parquet", **file.settings)
