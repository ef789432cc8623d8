"""Small plots of the evaluation group for the UI; the page has the full ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from emotion_assets.defs.metadata import ACCENT, INK, image
from emotion_assets.settings.schema import Settings


def accuracy_intervals(settings: Settings, name: str, rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """Test accuracy of each model with its 95% interval, best on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 0.36 * len(rows) + 0.9))
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        axes.plot([row["accuracy_low"], row["accuracy_high"]], [place, place], color=ACCENT, alpha=0.4, linewidth=4)
        axes.plot([row["accuracy"]], [place], "o", color=ACCENT, markersize=6)
    axes.set_yticks(range(len(rows)), [row["model"] + " (published)" * row["published"] for row in rows])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_xlabel("test accuracy, 95% interval", fontsize=8)
    axes.tick_params(colors=INK, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return image(settings, name, figure, "accuracy with 95% intervals")


def confusion_plot(
    settings: Settings, name: str, confusion: Sequence[Mapping[str, Any]], title: str
) -> dg.MarkdownMetadataValue:
    """Counts of actual by predicted label; shading is the share of the actual label's rows."""
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(row["actual"] for row in confusion))
    n = {(row["actual"], row["predicted"]): row["n"] for row in confusion}
    counts = [[n[a, p] for p in labels] for a in labels]
    shares = [[value / max(1, sum(line)) for value in line] for line in counts]
    figure = Figure(figsize=(0.55 * len(labels) + 1.4, 0.5 * len(labels) + 1.2))
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.3)
    for i, line in enumerate(counts):
        for j, value in enumerate(line):
            if value:
                axes.text(j, i, str(value), ha="center", va="center", fontsize=8, color=INK)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted", fontsize=8)
    axes.set_ylabel("actual", fontsize=8)
    axes.set_title(title, loc="left", fontsize=10)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.spines[:].set_visible(False)
    return image(settings, name, figure, title)
