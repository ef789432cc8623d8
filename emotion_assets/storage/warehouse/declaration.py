"""A table declared once: a dataclass of its row gives the DDL, the Arrow schema and the columns that the UI shows.

A field is ``name: Annotated[type, "description"]``; ``type | None`` may be NULL, a ``Literal`` allows its values alone,
and ``Default(value)`` fills the column where rows of an earlier version lack it. Does not belong here: which tables
there are (``tables``) and how an existing database is brought up to date (``migrate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    import pyarrow as pa

SQL_TYPES: dict[Any, str] = {
    str: "VARCHAR",
    int: "BIGINT",
    float: "DOUBLE",
    bool: "BOOLEAN",
    datetime: "TIMESTAMPTZ",
    list[str]: "VARCHAR[]",
    list[float]: "FLOAT[]",
}


class Row:
    """The base of every declared row."""

    table: ClassVar[str]
    check: ClassVar[str] = ""
    """A condition that holds for every row, in SQL."""


@dataclass(frozen=True)
class Default:
    """The value of the column in rows that were written before it existed."""

    value: str


@dataclass(frozen=True)
class Column:
    """A column of a table, as read from the declaration."""

    name: str
    sql_type: str
    description: str
    nullable: bool
    allowed: tuple[str, ...] = ()
    default: str | None = None

    @property
    def ddl(self) -> str:
        default = f" DEFAULT {_quoted(self.default)}" if self.default is not None else ""
        required = "" if self.nullable else " NOT NULL"
        allowed = f" CHECK ({self.name} IN ({', '.join(map(_quoted, self.allowed))}))" if self.allowed else ""
        return f"{self.name} {self.sql_type}{default}{required}{allowed}"


def columns_of(row: type[Row]) -> tuple[Column, ...]:
    """The columns of a declared row, in order."""
    hints = get_type_hints(row, include_extras=True)
    return tuple(_column(field.name, hints[field.name]) for field in fields(row))  # type: ignore[arg-type]


def create_statement(row: type[Row]) -> str:
    """The DDL of a declared table."""
    parts = [column.ddl for column in columns_of(row)] + ([f"CHECK ({row.check})"] if row.check else [])
    return f"CREATE TABLE {row.table} ({', '.join(parts)})"


def arrow_schema(row: type[Row]) -> pa.Schema:
    """The Arrow schema of rows to be inserted."""
    import pyarrow as pa

    arrow = {
        "VARCHAR": pa.string(),
        "BIGINT": pa.int64(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "TIMESTAMPTZ": pa.timestamp("us", "UTC"),
        "VARCHAR[]": pa.list_(pa.string()),
        "FLOAT[]": pa.list_(pa.float32()),
    }
    return pa.schema([pa.field(c.name, arrow[c.sql_type], c.nullable) for c in columns_of(row)])


def arrow_table(row: type[Row], rows: Sequence[Row]) -> pa.Table:
    """Rows of one declared table as Arrow."""
    import pyarrow as pa

    columns = [column.name for column in columns_of(row)]
    return pa.Table.from_pylist([{name: getattr(r, name) for name in columns} for r in rows], arrow_schema(row))


def _column(name: str, hint: Any) -> Column:
    kind, description, *rest = get_args(hint) if get_origin(hint) is Annotated else (hint, "")
    members = [member for member in get_args(kind) if member is not NoneType] if NoneType in get_args(kind) else [kind]
    allowed = get_args(members[0]) if get_origin(members[0]) is Literal else ()
    default = next((extra.value for extra in rest if isinstance(extra, Default)), None)
    sql_type = "VARCHAR" if allowed else SQL_TYPES[members[0]]
    return Column(name, sql_type, description, NoneType in get_args(kind), allowed, default)


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
