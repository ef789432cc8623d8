"""The library that does the work: datasets, tokens, training, scoring, metrics. It knows nothing of Dagster."""
