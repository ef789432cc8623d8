"""What the assets take from Dagster to run with: pools that limit steps side by side, and the order of ready steps.

Does not belong here: the workspace itself (``storage.workspace``), which needs no Dagster.
"""

from __future__ import annotations

WAREHOUSE_POOL = "warehouse"
TRAINING_POOL = "training"
STARTS_FIRST = {"dagster/priority": "1"}
"""Tag of the longest chain of a run (tokens, base, LoRA model): of the steps that are ready it starts first."""
