"""Labelled text to a trusted emotion classifier to scored customer feedback, as Dagster assets.

For a notebook or a service: ``from emotion_assets import load_champion; load_champion().score(texts)``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotion_assets.scoring.score import load_champion

__all__ = ["load_champion"]

# Threads that wait for each other must not spin: with more threads than free cores (two trainings side by side) a step
# takes many times as long. It is read when torch is loaded, so it is set here, before any module of the package.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    """``load_champion`` is imported when it is asked for: importing the package loads no library."""
    if name == "load_champion":
        from emotion_assets.scoring.score import load_champion

        return load_champion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
