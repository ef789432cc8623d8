"""Feedback scored: calibration, the decision on each answer, and writing the scores."""
