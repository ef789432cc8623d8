"""How results look in the UI: numbers that plot over time, small tables, pictures and column schemas as metadata.

The UI shows Markdown in its place when it is shorter than 1,000 characters, and a button otherwise. So tables end
before that, and a picture is a file below ``reports/``, which is served (``reports.server``) and linked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg

from emotion_assets.settings.schema import Settings
from emotion_assets.storage.atomic import replacing_file
from emotion_assets.storage.warehouse.declaration import Row, columns_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT = "#334155", "#2563eb"
INLINE_CHARACTERS = 1000
PLOTS = "plots"
CELL_CHARACTERS = 80
COLUMNS = {
    "text": "the text, as it was written",
    "label": "the text's label",
    "input_ids": "token ids of the text, special tokens included, cut at the profile's max_length",
    "length": "number of tokens before the cut",
    "probabilities": "the model's probability for each label, in the order of the profile's labels",
}
SHOWN_PROBLEMS = 20


def columns(types: Mapping[str, str]) -> dict[str, Any]:
    """``dagster/column_schema`` of files, from column names and types; what each means stands in ``COLUMNS``."""
    described = [dg.TableColumn(name, kind, description=COLUMNS[name]) for name, kind in types.items()]
    return {"dagster/column_schema": dg.TableSchema(described)}


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
    """Records of equal keys as a Markdown table that the UI shows in its place: as many rows as fit, and how many do
    not. Floats get four significant digits, long texts end with an ellipsis."""
    if not records:
        return dg.MetadataValue.md("(no rows)")
    names = list(records[0])
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + "---|" * len(names)]
    for shown, record in enumerate(records):
        line = "| " + " | ".join(_cell(record[name]) for name in names) + " |"
        more = f"\n\nand {len(records) - shown} more"
        if len("\n".join([*lines, line])) + len(more) >= INLINE_CHARACTERS:
            return dg.MetadataValue.md("\n".join(lines) + more)
        lines.append(line)
    return dg.MetadataValue.md("\n".join(lines))


def whole_table(records: Sequence[Mapping[str, Any]], descriptions: Mapping[str, str]) -> dg.TableMetadataValue:
    """Every one of the records, at least one, of equal keys; what each column means stands in ``descriptions``."""
    types = {bool: "bool", int: "int", float: "float", str: "string"}
    first = {name: next((r[name] for r in records if r[name] is not None), "") for name in descriptions}
    described = [dg.TableColumn(name, types[type(first[name])], description=descriptions[name]) for name in first]
    return dg.MetadataValue.table([dg.TableRecord(dict(record)) for record in records], dg.TableSchema(described))


def check_result(
    key: Sequence[str], name: str, problems: Sequence[Mapping[str, Any]], severity: dg.AssetCheckSeverity
) -> dg.AssetCheckResult:
    """Passed when there are no problems; the first ones are shown."""
    shown = {"problems": table(problems[:SHOWN_PROBLEMS])} if problems else {}
    return dg.AssetCheckResult(
        passed=not problems,
        check_name=name,
        asset_key=dg.AssetKey(key),
        severity=severity,
        metadata={"found": len(problems), **shown},
    )


def image(settings: Settings, name: str, figure: Figure, alternative: str = "plot") -> dg.MarkdownMetadataValue:
    """A figure as a PNG below ``reports/``, shown and linked.

    Args:
        name: of the file; with the version of what it shows in it, so that older results keep their picture.
    """
    file = settings.reports / PLOTS / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(file) as draft:
        figure.savefig(draft, format="png", dpi=90, bbox_inches="tight", facecolor="white")
    url = page(settings, file).value
    return dg.MetadataValue.md(f"[![{alternative}]({url})]({url})")


def bars(
    settings: Settings, name: str, groups: Mapping[str, Mapping[str, float]], title: str, unit: str
) -> dg.MarkdownMetadataValue:
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
    return image(settings, name, figure, title)


def curve(
    settings: Settings, name: str, steps: Sequence[int], losses: Sequence[float], scores: Sequence[float], title: str
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
    return image(settings, name, figure, title)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    return figure, axes


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    text = text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"
    return text.replace("|", "\\|").replace("\n", " ")
