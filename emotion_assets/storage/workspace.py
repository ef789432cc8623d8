"""What asset bodies take from outside: the settings, the store of folders and the DuckDB warehouse, as one resource.

Does not belong here: anything that knows what an asset means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_assets.settings.schema import Settings
from emotion_assets.storage.store import Store, StoredFolder

if TYPE_CHECKING:
    from emotion_assets.storage.warehouse.database import Warehouse


@dataclass(frozen=True)
class Workspace:
    """Everything under ``EMOTION_HOME``, reached through the settings of the profile."""

    settings: Settings

    @cached_property
    def store(self) -> Store:
        return Store(self.settings.store_dir)

    @cached_property
    def warehouse(self) -> Warehouse:
        from emotion_assets.storage.warehouse.database import Warehouse

        return Warehouse(self.settings.database)

    @property
    def checkpoints(self) -> Path:
        """Where a running training keeps the state that it can be resumed from."""
        return self.settings.home / "checkpoints"

    def publish(self, key: Sequence[str], kind: str, folder: StoredFolder, recipe: str | None = None) -> None:
        """Make ``folder`` the current one of an asset; with ``recipe``, the same work will be recalled, not redone."""
        if recipe is not None:
            self.store.remember(recipe, kind, folder)
        self.store.point(key, kind, folder)
