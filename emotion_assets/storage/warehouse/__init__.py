"""The DuckDB file: its tables, who may write to it, and the queries of each subject."""
