"""Labelled rows as somebody else wrote them: finding text and label, and checking every row.

Belongs here: columns, the errors that name file, row and fix. Does not belong here: which file is which split
(``files``) and what a label means (``labels``).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import pandas as pd
import pyarrow as pa

from emotion_assets.dataset.files import is_saved, stem_and_suffix
from emotion_assets.dataset.labels import LabelNames, declared_names
from emotion_assets.forms.form import Columns, Form, Record
from emotion_assets.forms.parquet import HUGGING_FACE, Parquet, read_schema
from emotion_assets.forms.problems import Quarantine, Reason, Rejected
from emotion_assets.forms.registry import form_of_suffix
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.feedback import ReadingSettings
from emotion_assets.settings.schema import ColumnNames, DatasetSettings

FIXES = {
    Reason.BAD_ENCODING: "save the file as UTF-8",
    Reason.INVALID_JSON: "put one object on each line",
    Reason.NOT_AN_OBJECT: "write {'text': ..., 'label': ...}",
    Reason.WRONG_COLUMN_COUNT: "write one text and one label in each row, and quote texts that hold the separator",
    Reason.BAD_QUOTE: "fix the quotes",
    Reason.UNCLOSED_QUOTE: "fix the quotes",
}
READING = ReadingSettings(max_field_bytes=1 << 24, max_row_bytes=1 << 25)
_BATCH_ROWS = 1000


class LabelledColumns(Columns):
    """Columns that are found by their names but for case and surrounding blanks: text, label and, where it is there,
    the name of a label that is a number."""

    def present_in(self, names: Iterable[str]) -> tuple[str, ...] | None:
        there = tuple(names)
        for wanted in self.required:
            found = [_find(name, there) for name in wanted]
            if None not in found:
                return tuple(name for name in found if name is not None)
        return None

    def missing_from(self, names: Sequence[str]) -> str:
        closest = max(self.required, key=lambda wanted: sum(_find(name, names) is not None for name in wanted))
        return next(name for name in closest if _find(name, names) is None)


def _find(wanted: str, names: Sequence[str]) -> str | None:
    """The column that is named so, or else the only one that is but for case and blanks."""
    if wanted in names:
        return wanted
    alike = [name for name in names if name.strip().casefold() == wanted.strip().casefold()]
    return alike[0] if len(alike) == 1 else None


def labelled_columns(named: ColumnNames) -> LabelledColumns:
    """Text and label as the settings name them; unless they do, also instruction form (``input``/``output``)."""
    text, label, spelt_out = named.text, named.label, f"{named.label}_text"
    required: list[tuple[str, ...]] = [(text, label, spelt_out), (text, label), (text, spelt_out)]
    if named == ColumnNames():
        required.append(("input", "output"))
    return LabelledColumns(required=tuple(required), others=False)


@dataclass(frozen=True)
class RowReader:
    """Reads labelled rows into frames with the columns ``text`` and ``label``."""

    columns: LabelledColumns
    names: LabelNames

    @classmethod
    def of(cls, settings: DatasetSettings, labels: tuple[str, ...]) -> RowReader:
        return cls(labelled_columns(settings.columns), LabelNames(labels, settings.label_names))

    def read_paths(self, paths: Sequence[Path]) -> pd.DataFrame:
        """The rows of one split: of a file, of its shards one after the other, or of a folder.

        Raises:
            DataError: one cannot be read, or a row of it is not right; or there is no row.
        """
        frames = [self._read_saved(path) if is_saved(path) else self._read_file(path) for path in paths]
        return _filled(pd.concat(frames, ignore_index=True), str(paths[0]))

    def read_part(self, part: Any, where: str) -> pd.DataFrame:
        """The rows of a split that the library ``datasets`` has loaded."""
        return _filled(self._from_part(part, where), where)

    def _from_part(self, part: Any, where: str) -> pd.DataFrame:
        found = self.columns.present_in(part.column_names)
        if found is None:
            raise self._missing(where, part.column_names)
        names = replace(self.names, declared=declared_names(part.features[found[1]]))
        batches = part.with_format(None).select_columns(list(found)).iter(_BATCH_ROWS)
        rows = (row for batch in batches for row in zip(*(batch[name] for name in found), strict=True))
        return _checked(((number, *row) for number, row in enumerate(rows, 1)), where, names)

    def _read_saved(self, folder: Path) -> pd.DataFrame:
        from datasets import load_from_disk

        try:
            return self._from_part(load_from_disk(str(folder)), str(folder))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"{folder}: cannot be read as save_to_disk writes it ({said[:200]}); save it again"
            ) from None

    def _read_file(self, path: Path) -> pd.DataFrame:
        form = form_of_suffix(stem_and_suffix(path)[1])
        assert form is not None
        try:
            with path.open("rb") as stream:
                columns, names = self._declared(form, stream, path)
                records = cast("Generator[Record | Rejected]", form.records(stream, READING, columns))
                with closing(records):  # a row that is wrong ends the reading, and its process with it
                    return _checked(self._rows(records, path), str(path), names)
        except Quarantine as quarantine:
            if quarantine.reason_code is Reason.EMPTY_FILE:
                return _checked((), str(path), self.names)
            more = _OR_COLUMNS if quarantine.reason_code is Reason.MISSING_TEXT_COLUMN else ""
            raise DataError(f"{path}: {quarantine.detail}{more}") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); give this user access to it") from None

    def _declared(self, form: Form, stream: BinaryIO, path: Path) -> tuple[Columns, LabelNames]:
        """The columns to read, and what the file itself says its numbers mean: Parquet alone says that."""
        if not isinstance(form, Parquet):
            return self.columns, self.names
        schema = read_schema(stream, READING)
        found = self.columns.present_in(schema.columns)
        if found is None:
            raise self._missing(str(path), schema.columns)
        declared = _names_in(schema.metadata.get(HUGGING_FACE), found[1])
        columns = Columns(required=(found,), types={found[1]: "label"}, others=False)
        return columns, replace(self.names, declared=declared)

    def _rows(self, records: Iterator[Record | Rejected], path: Path) -> Iterator[tuple[Any, ...]]:
        """Number, text, label and, where it is there, the label's name of each record.

        Raises:
            DataError: a row cannot be read, or lacks one of its columns.
        """
        names: tuple[str, ...] | None = None
        found: tuple[str, ...] | None = None
        for record in records:
            if isinstance(record, Rejected):
                reason = record.reason_code
                fix = FIXES.get(reason, "mend the row or remove it")
                raise DataError(f"{path}, row {record.row_number}: {reason.explain} ({record.detail}); {fix}")
            if names != tuple(record.values):
                names = tuple(record.values)
                found = self.columns.present_in(names)
            if found is None:
                raise self._missing(f"{path}, row {record.number}", names)
            yield record.number, *(record.values[name] for name in found)

    def _missing(self, where: str, names: Sequence[str]) -> DataError:
        shown = ", ".join(repr(name) for name in names[:8]) or "none"
        missing = self.columns.missing_from(tuple(names))
        return DataError(f"{where}: no column is named {missing!r} among {shown[:300]}; name it so{_OR_COLUMNS}")


_OR_COLUMNS = ", or say under dataset.columns which ones hold text and label"


def _checked(rows: Iterable[tuple[Any, ...]], where: str, names: LabelNames) -> pd.DataFrame:
    """A frame of rows (number, text, label and perhaps the label's name)."""
    texts: list[str] = []
    labels: list[str] = []
    for number, text, *label in rows:
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}, row {number}: the text is empty or not text; fill it in or remove the row")
        try:
            labels.append(names.label_of(*label))
        except ValueError as error:
            raise DataError(f"{where}, row {number}: {error}") from None
        texts.append(text.strip())
    return pd.DataFrame({"text": pd.Series(texts, dtype="str"), "label": pd.Series(labels, dtype="str")})


def _filled(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    if frame.empty:
        raise DataError(f"{where}: holds no rows; give it at least one row for each label")
    return frame


def _names_in(metadata: str | None, column: str) -> tuple[str, ...]:
    """The names of a column's numbers in what ``datasets`` writes into a Parquet schema; none if it cannot be read."""
    if metadata is None:
        return ()
    from datasets import Features

    try:
        features = json.loads(metadata)["info"]["features"]
        return declared_names(Features.from_dict({column: features[column]})[column])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
