"""The evaluation of models: figures into tables, the choice of a champion. It knows nothing of Dagster."""
