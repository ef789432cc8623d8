"""What a form of file is: how it is recognised, and how its records are read."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple

from emotion_assets.forms.problems import Rejected
from emotion_assets.settings.feedback import ReadingSettings


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
        types: what a form with typed columns should have in some of them: strings, ids (strings or whole numbers),
            moments (strings, dates, times or numbers) or labels (anything, lists too).
        others: whether columns beside these are wanted too.
        given: what the file calls a column, where it is not its name.
        loosely: whether a name counts that differs in case and surrounding blanks, and whether a name given twice is
            kept as ``name_2``; else both are errors.
        settings: where the settings that change how a file is read stand in a profile; problems name it.
    """

    required: tuple[tuple[str, ...], ...]
    types: Mapping[str, Literal["string", "id", "moment", "label"]] = field(default_factory=dict)
    others: bool = True
    given: Mapping[str, str] = field(default_factory=dict)
    loosely: bool = False
    settings: str = "feedback"

    def present_in(self, names: Iterable[str]) -> tuple[str, ...] | None:
        """The first set of required columns that is there whole."""
        there = set(names)
        return next((columns for columns in self.required if there.issuperset(columns)), None)

    def missing_from(self, names: Sequence[str]) -> str:
        """The column to ask for: of the set that comes closest, the first that is missing."""
        closest = max(self.required, key=lambda columns: sum(name in names for name in columns))
        return next(name for name in closest if name not in names)

    def rename(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names of a file's columns, each there once: those wanted under their own names, the others as they are.

        A column without a name is named after its place, as ``column_3``; the second of a name ``name_2``.
        """
        if not self.loosely:
            return tuple(name or f"column_{place}" for place, name in enumerate(names, start=1))
        wanted = list(dict.fromkeys([*(name for columns in self.required for name in columns), *self.types]))
        folded = [_fold(name) for name in names]
        places: dict[int, str] = {}
        for name in wanted:
            given = self.given.get(name, name)
            exact = (i for i, other in enumerate(names) if other == given and i not in places)
            alike = (i for i, other in enumerate(folded) if other == _fold(given) and i not in places)
            if (place := next(exact, next(alike, None))) is not None:
                places[place] = name
        taken = set(places.values())
        renamed = []
        for place, name in enumerate(names):
            if place in places:
                renamed.append(places[place])
                continue
            name = _trimmed(name) or f"column_{place + 1}"
            free = name if name not in wanted else f"{name}_2"
            free = next(c for c in (free, *(f"{name}_{n}" for n in range(2, len(names) + 3))) if c not in taken)
            taken.add(free)
            renamed.append(free)
        return tuple(renamed)

    def describe_missing(self, names: Sequence[str]) -> str:
        """What to say of a file whose columns have these names and not those required."""
        missing = self.missing_from(self.rename(names))
        given = self.given.get(missing, missing)
        shown = ", ".join(repr(name) for name in names[:8])[:300]
        if not self.loosely:
            return f"no column is named {given!r} among {shown}; name it so"
        likely = likeliest_texts(names)
        fix = f"name it in {self.settings}.columns.{missing}"
        return f"no column is named {given!r} among {shown}; {fix}" + (f" ({' or '.join(likely)}?)" if likely else "")


_TEXT_WORDS = ("text", "review", "comment", "feedback", "message", "body", "content", "response", "answer",
               "description", "opinion", "note", "tweet", "post", "verbatim", "remark", "title")  # fmt: skip
_NOT_TEXT = ("id", "date", "time", "url", "link", "lang", "author", "user", "name", "count", "rating", "score", "type")


def likeliest_texts(names: Sequence[str]) -> list[str]:
    """The columns that by their names may hold the text, at most three, likeliest first."""

    def rank(name: str) -> int:
        words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower())
        hits = [place for place, word in enumerate(_TEXT_WORDS) if any(part.startswith(word) for part in words)]
        return min(hits) + 20 * any(word in words for word in _NOT_TEXT) if hits else 99

    return sorted((name for name in names if rank(name) < 99), key=rank)[:3]


def _fold(name: str) -> str:
    return _trimmed(name).casefold()


def _trimmed(name: str) -> str:
    """A name without the blanks around it, and without a byte order mark that joined files have within."""
    return name.strip().strip("\ufeff").strip()


class Form(ABC):
    """A form of file."""

    title: ClassVar[str]
    """What a person calls it."""

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
