"""Customers' feedback files: strict readers, the ledger, scoring, review and exports. No Dagster in here."""
