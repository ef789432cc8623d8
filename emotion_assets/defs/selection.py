"""Refuse a selection of nothing that can be materialised, or of a key that does not exist: Dagster's command line would
run every asset of the graph, or end with a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import dagster as dg

from emotion_assets.settings.errors import SettingsError

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

SELECTING = {"--select", "--assets"}


def refuse_empty_selection(definitions: dg.Definitions, arguments: Sequence[str]) -> None:
    """Check what ``dagster asset materialize`` or ``dg launch`` was asked for.

    Args:
        arguments: of the command that loads the definitions, its name first.

    Raises:
        SettingsError: no asset is selected, and the line says which kinds and groups there are; a key does not exist,
            and the line says which are like it; it cannot be read; or none of the selected is made by a run of assets.
    """
    if (selection := _selection(arguments)) is None:
        return
    graph = definitions.resolve_asset_graph()
    selected = {key for part in selection.split(",") for key in _resolve(part, graph)}
    if selected & graph.executable_asset_keys:
        return
    if selected:
        (name, *_) = sorted(key.to_user_string() for key in selected)
        raise SettingsError(f"{name} is reported by its job, not materialised; use `dg launch --job {name}`")
    specs = definitions.resolve_all_asset_specs()
    kinds = sorted({kind for spec in specs for kind in spec.kinds})
    groups = sorted({str(spec.group_name) for spec in specs})
    raise SettingsError(
        f"{selection!r} selects no asset; kinds are {', '.join(kinds)}, groups {', '.join(groups)}, and `dg list defs` "
        "shows the keys"
    )


def _resolve(part: str, graph: BaseAssetGraph[Any]) -> AbstractSet[dg.AssetKey]:
    """The keys that one part of a selection, the text between two commas, stands for."""
    try:
        return dg.AssetSelection.from_string(part).resolve(graph)
    except dg.DagsterInvalidSubsetError:
        name = part.strip("*+ ").removeprefix("key:").strip('"')
        keys = [key.to_user_string() for key in graph.get_all_asset_keys()]
        same_end = sorted(key for key in keys if key.rpartition("/")[2] == name.rpartition("/")[2])
        close = same_end or difflib.get_close_matches(name, keys)
        hint = f"did you mean {' or '.join(close)}?" if close else "`dg list defs` shows the keys"
        raise SettingsError(f"no asset has the key {name!r}; {hint}") from None
    except dg.DagsterError:
        raise SettingsError(
            f"{part!r} is no selection; use a key, `*key` for it and all that it needs, `kind:...` or `group:...`, "
            "with commas between several"
        ) from None


def materialises(arguments: Sequence[str]) -> bool:
    """Whether these are the arguments of ``dagster asset materialize`` or ``dg launch``."""
    return bool({"materialize", "launch"} & set(arguments[1:3]))


def _selection(arguments: Sequence[str]) -> str | None:
    """The value of the selecting option of a command that materialises."""
    if not materialises(arguments):
        return None
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if option in SELECTING:
            return value if equals else following
    return None
