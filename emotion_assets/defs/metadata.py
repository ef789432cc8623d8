"""How results look in the UI: small plots, tables and column schemas as Dagster metadata."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg

from emotion_assets.settings.schema import Settings
from emotion_assets.storage.warehouse.declaration import Row, columns_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT = "#334155", "#2563eb"


def columns(types: Mapping[str, str]) -> dict[str, Any]:
    """``dagster/column_schema`` of files, from column names and types."""
    return {"dagster/column_schema": dg.TableSchema([dg.TableColumn(name, kind) for name, kind in types.items()])}


def table_columns(row: type[Row]) -> dict[str, Any]:
    """``dagster/column_schema`` of a declared table, each column with its description."""
    described = [
        dg.TableColumn(
            column.name,
            column.sql_type,
            description=column.description,
            constraints=dg.TableColumnConstraints(nullable=column.nullable),
        )
        for column in columns_of(row)
    ]
    return {"dagster/column_schema": dg.TableSchema(described)}


def page(settings: Settings, written: Path) -> dg.UrlMetadataValue:
    """The link to a file below ``reports/``, as ``reports.server`` or a proxy serves it."""
    path = quote(written.relative_to(settings.reports).as_posix())
    return dg.MetadataValue.url(f"{settings.reports_url}/{path}")


def rows(count: int) -> dict[str, int]:
    return {"dagster/row_count": count}


def table(records: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """Records of equal keys as a Markdown table; floats get four significant digits."""
    if not records:
        return dg.MetadataValue.md("(no rows)")
    names = list(records[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(record[name]) for name in names) + " |" for record in records]
    return dg.MetadataValue.md("\n".join(lines))


def image(figure: Figure, alternative: str = "plot") -> dg.MarkdownMetadataValue:
    """A figure as a PNG inside the Markdown itself, so that it needs no file to be served."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight", facecolor="white")
    return dg.MetadataValue.md(
        f"![{alternative}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"
    )


def bars(groups: Mapping[str, Mapping[str, float]], title: str, unit: str) -> dg.MarkdownMetadataValue:
    """One group of horizontal bars per outer key, one bar per inner key."""
    figure, axes = _figure(6.0, 0.34 * len(next(iter(groups.values()))) * max(1, len(groups) * 0.5) + 1.0)
    names = list(next(iter(groups.values())))
    height = 0.8 / len(groups)
    for i, (group, values) in enumerate(groups.items()):
        places = [j + i * height for j in range(len(names))]
        axes.barh(places, [values[name] for name in names], height=height * 0.92, label=group)
    axes.set_yticks([j + height * (len(groups) - 1) / 2 for j in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.set_title(title, loc="left", fontsize=10)
    if len(groups) > 1:
        axes.legend(frameon=False, fontsize=8)
    return image(figure, title)


def curve(
    steps: Sequence[int], losses: Sequence[float], scores: Sequence[float], title: str
) -> dg.MarkdownMetadataValue:
    """Training loss over the steps and, where it was measured, validation accuracy after each epoch."""
    figure, axes = _figure(6.0, 2.6)
    axes.plot(steps, losses, color=ACCENT, linewidth=1.5)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("training loss", color=ACCENT)
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left", fontsize=10)
    if scores and steps:
        second = axes.twinx()
        ends = [steps[-1] * (i + 1) / len(scores) for i in range(len(scores))]
        second.plot(ends, scores, color="#d97706", marker="o", markersize=3, linewidth=1.2)
        second.set_ylabel("validation accuracy", color="#d97706")
        second.spines["top"].set_visible(False)
    return image(figure, title)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    return figure, axes


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
