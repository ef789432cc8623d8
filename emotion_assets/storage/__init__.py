"""Where everything lives: content-addressed folders, locks, the DuckDB warehouse, exports."""
