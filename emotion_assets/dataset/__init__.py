"""Labelled text: reading the splits, class balance, and what is wrong with a dataset."""
