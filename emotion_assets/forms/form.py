"""What a form of file is: how it is recognised, and how its records are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple

from emotion_assets.forms.problems import Rejected
from emotion_assets.settings.schema import ReadingSettings


class Record(NamedTuple):
    """A row as the file has it. ``number`` is the line it starts on (a CSV's header is line 1); in Parquet and in a
    JSON list the row, from 1. ``raw`` is its beginning, None where the form has no text of it."""

    number: int
    values: dict[str, Any]
    raw: bytes | None = None


@dataclass(frozen=True)
class Columns:
    """The columns that a reader of records needs.

    Attributes:
        required: sets of columns, of which one must be there whole.
        types: what a form with typed columns must have in some of them: strings, ids (strings or whole numbers),
            moments (strings, dates or times) or labels (anything, lists too).
        others: whether columns beside these are wanted too.
    """

    required: tuple[tuple[str, ...], ...]
    types: Mapping[str, Literal["string", "id", "moment", "label"]] = field(default_factory=dict)
    others: bool = True

    def present_in(self, names: Iterator[str] | list[str] | tuple[str, ...]) -> tuple[str, ...] | None:
        """The first set of required columns that is there whole."""
        there = set(names)
        return next((columns for columns in self.required if there.issuperset(columns)), None)

    def missing_from(self, names: list[str] | tuple[str, ...]) -> str:
        """The column to ask for: of the set that comes closest, the first that is missing."""
        closest = max(self.required, key=lambda columns: sum(name in names for name in columns))
        return next(name for name in closest if name not in names)


class Form(ABC):
    """A form of file."""

    suffixes: ClassVar[tuple[str, ...]]
    """Endings of file names, lower case."""

    magic: ClassVar[bytes] = b""
    """The bytes that every file of this form starts with, if there are any."""

    in_inbox: ClassVar[bool] = True
    """Whether feedback comes in this form; all forms may hold labelled rows."""

    def claims(self, first_line: bytes, suffix: str, reading: ReadingSettings, columns: Columns) -> bool:
        """Whether a text file is of this form, by its first line that is not blank, or else by its name."""
        return False

    @abstractmethod
    def records(self, stream: BinaryIO, reading: ReadingSettings, columns: Columns) -> Iterator[Record | Rejected]:
        """Every row in the file's order, in bounded memory.

        Raises:
            Quarantine: the file as a whole cannot be read; this may come after rows, which must then not be kept.
            OSError: it cannot be read now; nothing is said about its content.
        """
