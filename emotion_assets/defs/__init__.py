"""All that imports Dagster: the assets, checks, automation, and launching a training."""
