"""How ``emotion-assets inspect`` shows what a file is and what it would give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from emotion_assets.forms.form import likeliest_texts
from emotion_assets.ingest.sources import DEFAULT

if TYPE_CHECKING:
    from emotion_assets.ingest.inspect import Bytes, Inspection, Outcome

NEXT_LINE = "\n  "
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def what_it_is(seen: Inspection) -> Iterator[str]:
    """The lines above the table of columns."""
    alone = "; a file in a folder of the inbox is of the source of that name" if seen.source == DEFAULT else ""
    yield f"source: {seen.source}{alone}"
    yield f"form: {seen.bytes.form.title}" + (", compressed with gzip" if seen.bytes.compressed else "")
    if seen.bytes.encoding is not None:
        yield from _encoding(seen.bytes)
    if seen.bytes.delimiter is not None:
        declared = ", as its first line declares" if seen.bytes.declared else ""
        yield f"delimiter: {_DELIMITERS[seen.bytes.delimiter]}{declared}"
    if seen.left_alone is not None:
        yield f"its name: left alone in the inbox, {seen.left_alone.explain}"


def _encoding(seen: Bytes) -> Iterator[str]:
    if seen.complaint is None:
        yield f"encoding: {seen.encoding}, " + ("by its byte order mark" if seen.marked else "no byte order mark")
        return
    yield f"encoding: {seen.complaint}"
    yield "  every byte of it is in these encodings; the one that reads right is its own:"
    for place, (encoding, sample) in enumerate(seen.samples.items()):
        yield f"  {encoding}{' (taken below)' if place == 0 else ''}: {_printable(sample)}"


def columns_table(seen: Inspection) -> Table:
    """The columns with examples; ``could be`` is what the proposed mapping takes them as."""
    proposed = {} if seen.proposal is None else {name: role for role, name in seen.proposal.settings.columns.items()}
    table = Table("column", "taken as", "examples", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[2].overflow = "fold"
    for column in seen.columns:
        role = column.taken_as or (f"could be {proposed[column.name]}" if column.name in proposed else "")
        examples = " · ".join(_printable(example) for example in column.examples)
        table.add_row(Text(_printable(column.name)), role, Text(examples))
    return table


def what_it_gives(outcome: Outcome) -> Iterator[str]:
    """What reading the file gives, with reasons and forms."""
    if outcome.refused is not None:
        yield f"set aside whole: {outcome.refused}"
        return
    yield f"{outcome.accepted:,} rows accepted"
    if outcome.rejected:
        yield f"{outcome.rejected.total():,} rejected: " + "; ".join(
            f"{n:,} {reason} ({reason.explain})" for reason, n in outcome.rejected.most_common()
        )
    forms = outcome.undated.forms
    if forms:
        shown = "; ".join(f"{n:,} {_printable(form)}" for form, n in forms.most_common(8))
        more = f"; and {len(forms) - 8} more forms" if len(forms) > 8 else ""
        yield f"{forms.total():,} of them undated, by form (9 a digit, A a letter): {shown}{more}"


def what_to_do(seen: Inspection) -> Iterator[str]:
    """The mapping to paste, or that none is needed, and what no mapping mends."""
    outcome = seen.proposed or seen.present
    if seen.proposal is not None:
        yield "With these lines in the profile (where it has a `feedback:` or `sources:`, put them under it):"
        yield ""
        yield seen.proposal.yaml()
        yield ""
        if seen.proposal.either:
            yield "No date of the file tells days and months apart: take the # off the right created_at_format."
        if _may_lack_a_header(seen):
            yield "Its first line is taken for the names of columns: if it is a row, put a line with names above it."
        yield f"It gives: {NEXT_LINE.join(what_it_gives(outcome))}"
    elif outcome.refused is None:
        yield "Nothing to set: it is read as it is."
    unknown = [shape for shape, patterns in outcome.undated.fitting().items() if not patterns]
    if unknown:
        forms = ", ".join(_printable(shape) for shape in unknown[:8])
        yield (
            f"No usual pattern reads the dates {forms}: created_at_format takes a strptime pattern, or a list of them."
        )


def _may_lack_a_header(seen: Inspection) -> bool:
    """Whether no column of a CSV file has a name that is known."""
    names = [column.name for column in seen.columns]
    known = any(column.taken_as for column in seen.columns) or likeliest_texts(names)
    return seen.bytes.delimiter is not None and not known


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
