"""What a profile says of feedback: how files that somebody else wrote are read, per source, and how rows are scored."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from emotion_assets.settings.frozen import Frozen


def require_encoding(name: str) -> str:
    """The name of an encoding.  Raises ValueError for one that Python does not know."""
    try:
        usable = "text,\n{}".encode(name).decode(name) == "text,\n{}"
    except (LookupError, UnicodeError, TypeError):
        usable = False
    if not usable:
        raise ValueError("not an encoding that Python knows; use utf-8, latin-1, cp1252, utf-16 or another")
    return name


def require_timezone(name: str) -> str:
    """The name of a time zone.  Raises ValueError for one that is not known here."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError("not a time zone; use a name such as UTC or Europe/Paris") from None
    return name


class ReadingSettings(Frozen):
    """How files that somebody else wrote are read."""

    encoding: Annotated[str, Field(description="of CSV and JSONL files; never guessed")] = "utf-8"
    delimiter: Annotated[Literal["auto", ",", ";", "\t", "|"], Field(description="of CSV files")] = "auto"
    max_field_bytes: Annotated[int, Field(ge=1, description="a longer field rejects its row")] = 262_144
    max_row_bytes: Annotated[int, Field(ge=1, description="a longer row is rejected; bounds a reader's memory")] = (
        1_048_576
    )
    max_columns: Annotated[int, Field(ge=1)] = 1_000
    max_unpacked_bytes: Annotated[
        int, Field(ge=1, description="of a Parquet file once decompressed; a larger file is quarantined")
    ] = 2_147_483_648

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str) -> str:
        return require_encoding(value)


class SourceSettings(Frozen):
    """How the files of one source are read; a source is a folder of the inbox, its own files are ``default``."""

    columns: dict[Literal["text", "id", "created_at"], str] = Field(
        default_factory=dict, description="what the source calls these columns"
    )
    created_at_format: Annotated[
        str | tuple[str, ...], Field(description="epoch_s, epoch_ms, epoch_us or a strptime pattern, or a list of them")
    ] = ()
    timezone: Annotated[str, Field(description="of times without an offset")] = "UTC"
    encoding: Annotated[str | None, Field(description="of files without a byte order mark")] = None
    delimiter: Annotated[Literal["auto", ",", ";", "\t", "|"] | None, Field(description="of CSV files")] = None

    @property
    def moment_formats(self) -> tuple[str, ...]:
        given = self.created_at_format
        return (given,) if isinstance(given, str) else given

    @field_validator("created_at_format")
    @classmethod
    def _formats_are_patterns(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for pattern in (value,) if isinstance(value, str) else value:
            if pattern in ("epoch_s", "epoch_ms", "epoch_us"):
                continue
            shown = datetime(2026, 11, 25, 16, 30, 59).strftime(pattern)
            try:
                readable = "%" in pattern and datetime.strptime(shown, pattern).year > 1900
            except ValueError:
                readable = False
            if not readable:
                raise ValueError(
                    f"{pattern!r} reads no date; use epoch_s, epoch_ms, epoch_us or a pattern such as %d-%m-%Y %H.%M"
                )
        return value

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, value: str) -> str:
        return require_timezone(value)

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str | None) -> str | None:
        return value if value is None else require_encoding(value)


class FeedbackSettings(ReadingSettings):
    """How feedback is read, scored and reviewed."""

    sources: dict[str, SourceSettings] = Field(default_factory=dict, description="by the name of the inbox's folder")
    target_accuracy: Annotated[
        float, Field(gt=0, le=1, description="of answered rows; surer rows are answered first")
    ] = 0.99
    audit_share: Annotated[float, Field(ge=0, le=1, description="of rows, drawn at random for review")] = 0.01
    batch_size: Annotated[int, Field(ge=1, description="distinct texts scored together")] = 4096
    drift_min_rows: Annotated[int, Field(ge=10, description="fewer recent rows give no drift figure")] = 200
    cron: str = "0 * * * *"
    cron_timezone: Annotated[str, Field(description="that cron is read in")] = "UTC"
    settle_seconds: Annotated[
        float, Field(ge=0, description="a file changed more recently waits for the next tick")
    ] = 5.0

    @field_validator("cron_timezone")
    @classmethod
    def _cron_timezone_is_known(cls, value: str) -> str:
        return require_timezone(value)
