"""Labelled text to a trusted emotion classifier to scored customer feedback, as Dagster assets."""
