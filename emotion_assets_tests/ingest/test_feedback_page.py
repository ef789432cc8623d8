"""``docs/feedback.md``: every block of YAML loads in a profile, and every vendor's mapping reads its columns."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from emotion_assets.ingest.readers import read_feedback
from emotion_assets.ingest.rows import Accepted
from emotion_assets.profiles.reader import PROFILES_DIR, load_settings
from emotion_assets.settings.feedback import FeedbackSettings
from emotion_assets_tests.conftest import PROJECT

PAGE = (PROJECT / "docs" / "feedback.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
MOMENT = datetime(2026, 10, 1, 10, tzinfo=UTC)

EXPORTS = {
    "google_play": (
        "reviews.csv",
        "Package Name,Star Rating,Review Submit Millis Since Epoch,Review Text,Review Link\n"
        "org.example,5,1790848800000,So glad of it,https://example.org/r/1\n",
        "utf-16",
    ),
    "app_store": (
        "page.jsonl",
        '{"id": "1", "rating": 5, "title": "Yes", "body": "So glad of it", "reviewerNickname": "x", '
        '"createdDate": "2026-10-01T03:00:00-07:00", "territory": "USA"}\n',
        "utf-8",
    ),
    "app_store_csv": ("reviews.csv", "Date,Rating,Title,Review\n2026-10-01 10:00,5,Yes,So glad of it\n", "utf-8"),
    "zendesk": (
        "export.jsonl",
        '{"id": 1, "subject": "Yes", "description": "So glad of it", "created_at": "2026-10-01T10:00:00Z", '
        '"satisfaction_rating": {"score": "good"}, "tags": ["x"]}\n',
        "utf-8",
    ),
    "zendesk_csv": (
        "export.csv",
        "Id,Requester,Subject,Status,Created at,Updated at\n1,x,So glad of it,Open,2026-10-01 12:00,2026-10-02 09:00\n",
        "utf-8",
    ),
    "surveymonkey": (
        "survey.csv",
        "Respondent ID,Collector ID,Start Date,End Date,IP Address,What could we do better?\n"
        "1,2,10/01/2026 10:00:00 AM,10/01/2026 10:01:00 AM,,So glad of it\n",
        "utf-8-sig",
    ),
}


def settings_of(block: str, tmp_path: Path) -> FeedbackSettings:
    profile = tmp_path / "mine.yaml"
    profile.write_text((PROFILES_DIR / "pretrained.yaml").read_text() + "\n" + block)
    return load_settings(str(profile), environ={}).feedback


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_block_of_yaml_loads_in_a_profile(block: str, tmp_path: Path) -> None:
    assert settings_of(block, tmp_path).sources


@pytest.mark.parametrize("source", EXPORTS)
def test_a_vendor_s_mapping_reads_its_columns(source: str, tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if f"    {source}:\n" in block]
    name, content, encoding = EXPORTS[source]
    (tmp_path / name).write_bytes(content.encode(encoding))
    (row,) = read_feedback(tmp_path / name, settings_of(block, tmp_path), source)
    assert isinstance(row, Accepted)
    assert row.text == "So glad of it"
    assert (row.created_at, row.undated) == (MOMENT, None)
    assert (row.id is not None) == (source != "app_store_csv")


def test_the_page_is_linked() -> None:
    assert "docs/feedback.md" in (PROJECT / "README.md").read_text(encoding="utf-8")
    assert "(feedback.md)" in (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
