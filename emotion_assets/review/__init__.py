"""The review queue: rows for a person to label, and the labels that come back."""
