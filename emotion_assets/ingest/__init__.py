"""Feedback files in: the inbox, readers, rows, and the ledger of what was read."""
