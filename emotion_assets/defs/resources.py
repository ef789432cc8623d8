"""What the assets take from Dagster to run with: pools that limit steps side by side, and the order of ready steps.

Does not belong here: the workspace itself (``storage.workspace``), which needs no Dagster.
"""

from __future__ import annotations

import dagster as dg

TRIGGER_TAG = "emotion_assets/trigger"
"""What started a run: schedule, inbox, automation, retry or by hand."""

WAREHOUSE_POOL = "warehouse"
MODEL_POOL = "gpu"
"""Of whatever loads a model, in any run: training, predictions, scoring. ``parallel_steps`` of them go side by side."""

RETRY_ONCE = dg.RetryPolicy(max_retries=1, delay=30)
"""Of steps that another run may stand in the way of, or that are killed; an error that would come again forbids it."""

STARTS_FIRST = {"dagster/priority": "1"}
"""Tag of the longest chain of a run (tokens, base, LoRA model): of the steps that are ready it starts first."""
