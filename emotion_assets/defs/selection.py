"""Refuse a selection of nothing that can be materialised: Dagster's command line would run every asset of the graph, or
end with a traceback."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from emotion_assets.settings.errors import SettingsError

SELECTING = {"--select", "--assets"}


def refuse_empty_selection(definitions: dg.Definitions, arguments: Sequence[str]) -> None:
    """Check what ``dagster asset materialize`` or ``dg launch`` was asked for.

    Args:
        arguments: of the command that loads the definitions, its name first.

    Raises:
        SettingsError: no asset is selected, and the line says which kinds and groups there are; or none of the selected
            is made by a run of assets.
    """
    if (selection := _selection(arguments)) is None:
        return
    graph = definitions.resolve_asset_graph()
    selected = dg.AssetSelection.from_coercible(selection.split(",")).resolve(graph)
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


def _selection(arguments: Sequence[str]) -> str | None:
    """The value of the selecting option of a command that materialises."""
    if not {"materialize", "launch"} & set(arguments[1:3]):
        return None
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if option in SELECTING:
            return value if equals else following
    return None
