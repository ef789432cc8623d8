"""Labelled text to a trusted emotion classifier to scored customer feedback, as Dagster assets."""

import os

# Threads that wait for each other must not spin: with more threads than free cores (two trainings side by side) a step
# takes many times as long. It is read when torch is loaded, so it is set here, before any module of the package.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
