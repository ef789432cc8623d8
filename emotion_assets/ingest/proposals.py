"""Settings that would make a file give more, from the names and values of its columns, and the YAML that sets them.

Belongs here: which column is likely the text, the id or the time, which form of dates fits every value. Does not belong
here: reading the file (``inspect``).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from emotion_assets.forms.form import likeliest_texts
from emotion_assets.ingest.moments import UnreadableMoment, read_moment, suggest_formats
from emotion_assets.settings.feedback import SourceSettings

EXAMPLES, _SAMPLE, _MOST_SHAPES, _BATCH = 3, 200, 20, 1_000
_EXAMPLE_CHARACTERS = 60
_ID = ("id", "uuid", "guid", "key", "number", "link", "url")
_NOT_ID = {
    "user", "customer", "author", "account", "member", "contact", "device", "product", "order", "app", "package",
    "store", "requester", "assignee", "submitter", "organization", "organisation", "group", "collector", "brand",
    "session", "parent", "version", "thread",
}  # fmt: skip
"""Of ids that many texts may share: a second text with one would pass for a new version of the first."""
_TIME = ("created", "submit", "submitted", "posted", "published", "start", "date", "time", "timestamp", "when", "at")
_NOT_TIME = {
    "update", "updated", "modified", "edited", "reply", "response", "replied", "solved", "resolved", "due", "end",
    "birth", "version", "zone", "timezone", "assigned", "wait", "resolution", "minutes", "hours",
}  # fmt: skip
_FAR_ZONE = ZoneInfo("Etc/GMT+12")


@dataclass
class SeenColumn:
    """A column as the first rows have it. ``taken_as``: text, id or created_at, if it is one of these now."""

    name: str
    taken_as: str | None = None
    examples: list[str] = field(default_factory=list)
    filled: int = 0
    words: int = 0
    """Characters of its strings that have several words."""
    unique: bool = False
    """Whether no value came twice so far; True at first where that is to be found out."""
    sample: list[Any] = field(default_factory=list)
    _hashes: set[int] = field(default_factory=set, repr=False)

    def add(self, value: Any) -> None:
        """Take in the value of one more row."""
        if value is None or (isinstance(value, str) and not value.strip()):
            return
        self.filled += 1
        if isinstance(value, str) and re.search(r"[^\W\d_]\s+\S*[^\W\d_]", value[:1000]):
            self.words += len(value)
        if len(self.sample) < _SAMPLE and isinstance(value, (str, int, float)):
            self.sample.append(value[:_EXAMPLE_CHARACTERS] if isinstance(value, str) else value)
        if len(self.examples) < EXAMPLES:
            shown = _shown(value)
            if shown not in self.examples:
                self.examples.append(shown)
        if self.unique:
            self.unique = (mark := hash(str(value))) not in self._hashes
            self._hashes.add(mark)


class Undated:
    """Times that could not be read: how many of each form, and the patterns that fit every one of each shape.

    A shape is a form in which runs of digits count alike, so that of 1/5/2026 and 1/25/2026 the second decides.
    """

    def __init__(self) -> None:
        self.forms: Counter[str] = Counter()
        self._fitting: dict[str, list[str]] = {}
        self._batches: dict[str, list[str]] = {}

    def add(self, form: str, value: str) -> None:
        """Take in one more value."""
        known = form in self.forms or len(self.forms) < 10 * _MOST_SHAPES
        self.forms[form if known else "of other forms"] += 1
        shape = re.sub("9+", "9", form)
        if shape not in self._batches and len(self._batches) >= _MOST_SHAPES:
            return
        batch = self._batches.setdefault(shape, [])
        batch.append(value)
        if len(batch) >= _BATCH:
            self._narrow(shape)

    def fitting(self) -> dict[str, list[str]]:
        """The patterns of each shape: one where the values decide, several where they do not, none where no usual
        pattern fits."""
        for shape in self._batches:
            self._narrow(shape)
        return dict(self._fitting)

    def _narrow(self, shape: str) -> None:
        batch, self._batches[shape] = self._batches[shape], []
        if batch:
            fits = suggest_formats(batch)
            before = self._fitting.get(shape, fits)
            self._fitting[shape] = [pattern for pattern in before if pattern in fits]


@dataclass(frozen=True)
class Proposal:
    """Settings of a source.

    Attributes:
        either: further patterns of ``created_at_format``, day first and month first, where no value tells which.
        zone_matters: some of the times have no offset.
    """

    source: str
    settings: SourceSettings
    either: tuple[tuple[str, ...], ...] = ()
    zone_matters: bool = False

    def yaml(self) -> str:
        """The lines for a profile."""
        stated = self.settings.model_dump(mode="json", exclude_defaults=True)
        lines = ["feedback:", "  sources:", f"    {_inline(self.source)}:"]
        lines += [f"      {key}: {_inline(value)}" for key, value in stated.items()]
        for patterns in self.either:
            whole = [*self.settings.moment_formats, *patterns]
            which = "day first" if patterns[0].startswith("%d") else "month first"
            lines.append(f"      # created_at_format: {_inline(whole if len(whole) > 1 else whole[0])}  # {which}")
        if self.zone_matters and "timezone" not in stated:
            lines.append("      # timezone: Europe/Paris  # of its times without an offset; UTC unless given")
        return "\n".join(lines)


def may_be_id(name: str) -> bool:
    """Whether a column of this name may tell each text from the others."""
    return _rank(name, _ID, _NOT_ID) is not None


def propose(
    columns: Sequence[SeenColumn], own: SourceSettings, source: str, *, encoding: str | None, delimiter: str | None
) -> Iterator[Proposal]:
    """What may be set for a file, the likeliest first; nothing where its columns are known."""
    taken = {column.taken_as for column in columns}
    free = [column for column in columns if column.taken_as is None]
    texts = [None] if "text" in taken or not columns else _likely_texts(free)
    for text in texts or [None]:
        named: dict[str, str] = {} if text is None else {"text": text.name}
        others = [column for column in free if column is not text]
        if "id" not in taken and (id_ := _likely_id(others)) is not None:
            named["id"] = id_.name
            others.remove(id_)
        moment = next((column for column in columns if column.taken_as == "created_at"), None)
        if moment is None and (moment := _likely_time(others)) is not None:
            named["created_at"] = moment.name
        update: dict[str, Any] = {"columns": {**own.columns, **named}} if named else {}
        update |= {"encoding": encoding} if encoding else {}
        update |= {"delimiter": delimiter} if delimiter else {}
        if update:
            settings = SourceSettings.model_validate(own.model_dump(exclude_unset=True) | update)
            zone_matters = moment is not None and _has_local_times(moment, settings)
            yield Proposal(source, settings, zone_matters=zone_matters)


def with_formats(proposal: Proposal | None, own: SourceSettings, source: str, undated: Undated) -> Proposal | None:
    """The proposal with the forms of dates that the undated values decide, and those that they leave open."""
    fitting = undated.fitting()
    decided = list(dict.fromkeys(patterns[0] for patterns in fitting.values() if len(patterns) == 1))
    open_ = [patterns for patterns in fitting.values() if len(patterns) > 1]
    either = tuple(dict.fromkeys(tuple(dict.fromkeys(p[place] for p in open_)) for place in (0, -1))) if open_ else ()
    if not decided and not either:
        return proposal
    base = own if proposal is None else proposal.settings
    whole = [*base.moment_formats, *decided]
    update: dict[str, Any] = {"created_at_format": whole if len(whole) > 1 else whole[0]} if decided else {}
    if not decided and not base.model_dump(exclude_defaults=True):
        update["columns"] = {"created_at": "created_at"}  # so that the source has a key, whatever is left open
    settings = SourceSettings.model_validate(base.model_dump(exclude_unset=True) | update)
    has_hours = any("%H" in pattern or "%I" in pattern for pattern in (*decided, *(p[0] for p in open_)))
    return Proposal(source, settings, either, has_hours or (proposal is not None and proposal.zone_matters))


def _likely_texts(columns: Sequence[SeenColumn]) -> list[SeenColumn | None]:
    """The columns that may be the text: the likeliest by name unless another has far more words, then the others."""
    worded = sorted((c for c in columns if c.words), key=lambda c: -c.words) or [c for c in columns if c.filled]
    by_name = {column.name: column for column in columns if column.filled}
    named = [by_name[name] for name in likeliest_texts(list(by_name))]
    if worded:
        named = [column for column in named if column.words * 3 >= worded[0].words]
    return list({column.name: column for column in [*named, *worded]}.values())[:3]  # type: ignore[return-value]


def _likely_id(columns: Sequence[SeenColumn]) -> SeenColumn | None:
    ranked = [(rank, column) for column in columns if (rank := _rank(column.name, _ID, _NOT_ID)) is not None]
    usable = [(rank, column) for rank, column in ranked if column.filled and column.unique and not column.words]
    return min(usable, key=lambda pair: pair[0])[1] if usable else None


def _likely_time(columns: Sequence[SeenColumn]) -> SeenColumn | None:
    ranked = [(rank, column) for column in columns if (rank := _rank(column.name, _TIME, _NOT_TIME)) is not None]
    usable = [(rank, column) for rank, column in ranked if column.filled and _holds_times(column)]
    return min(usable, key=lambda pair: pair[0])[1] if usable else None


def _holds_times(column: SeenColumn) -> bool:
    readable = sum(_moment(value) is not None for value in column.sample)
    return readable * 2 > len(column.sample) or bool(suggest_formats([str(value) for value in column.sample]))


def _has_local_times(column: SeenColumn, settings: SourceSettings) -> bool:
    """Whether some of its times have hours and no offset."""
    formats = settings.moment_formats
    return any(
        isinstance(value, str) and ":" in value and _moment(value, formats) != _moment(value, formats, _FAR_ZONE)
        for value in column.sample
    )


def _moment(value: Any, formats: Sequence[str] = (), zone: Any = UTC) -> datetime | None:
    try:
        return read_moment(value, formats, zone)
    except UnreadableMoment:
        return None


def _rank(name: str, wanted: Sequence[str], unwanted: set[str]) -> int | None:
    """The place among the words wanted of the first that a name has; none if it has one that is unwanted."""
    words = set(re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower()))
    places = [place for place, word in enumerate(wanted) if word in words]
    return min(places) if places and not words & unwanted else None


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text[: 4 * _EXAMPLE_CHARACTERS].split())
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= _EXAMPLE_CHARACTERS else text[: _EXAMPLE_CHARACTERS - 1] + "…"


def _inline(value: str | Sequence[str] | Mapping[str, str]) -> str:
    """A value as YAML on one line."""
    parts = [value] if isinstance(value, str) else [*value, *(value.values() if isinstance(value, Mapping) else ())]
    style = '"' if any("\n" in part or "%" in part for part in parts) else None
    text: str = yaml.safe_dump(
        value, default_flow_style=True, default_style=style, allow_unicode=True, sort_keys=False, width=1 << 30
    )
    return text.removesuffix("\n").removesuffix("\n...")
