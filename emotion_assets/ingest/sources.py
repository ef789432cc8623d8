"""Sources of feedback: which one a file belongs to, and how its files are read.

A folder of the inbox is a source; files that stand in the inbox itself are of the source ``default``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path, PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

from emotion_assets.forms.form import Columns
from emotion_assets.settings import versions
from emotion_assets.settings.feedback import FeedbackSettings, ReadingSettings, SourceSettings
from emotion_assets.storage.store import fingerprint

DEFAULT = "default"
TYPES: Mapping[str, Any] = {"text": "string", "id": "id", "created_at": "moment"}


@dataclass(frozen=True)
class Source:
    """How the files of a source are read.

    Attributes:
        reading: encoding, delimiter and limits.
        formats: forms of ``created_at`` beside those that are unambiguous.
        zone: of times without an offset.
        fingerprint: equal as long as a file would be read the same way.
    """

    name: str
    reading: ReadingSettings
    columns: Columns
    formats: tuple[str, ...]
    zone: tzinfo
    fingerprint: str


def source_name(file_name: str) -> str:
    """The source of a file, from its name relative to the inbox."""
    parts = PurePosixPath(file_name).parts
    return parts[0] if len(parts) > 1 else DEFAULT


def source_name_of(path: Path, inbox: Path) -> str:
    """The source of any file: that of its folder if it lies in the inbox, else ``default``."""
    path, inbox = path.resolve(), inbox.resolve()
    return source_name(str(path.relative_to(inbox))) if path.is_relative_to(inbox) else DEFAULT


def make_source(settings: FeedbackSettings, name: str) -> Source:
    """How a source is read: what the profile says of it, and of feedback as a whole where it says nothing."""
    own = settings.sources.get(name, SourceSettings())
    shared = {field: getattr(settings, field) for field in ReadingSettings.model_fields}
    stated = {"encoding": own.encoding, "delimiter": own.delimiter}
    reading = ReadingSettings(**shared | {key: value for key, value in stated.items() if value is not None})
    columns = Columns(
        required=(("text",),),
        types=TYPES,
        given=dict(own.columns.items()),
        loosely=True,
        settings=f"feedback.sources.{name}",
    )
    decides = (reading.model_dump(mode="json"), own.columns, own.moment_formats, own.timezone)
    print_ = fingerprint(versions.READER, *decides)[:12]
    zone = UTC if own.timezone == "UTC" else ZoneInfo(own.timezone)
    return Source(name, reading, columns, own.moment_formats, zone, print_)
