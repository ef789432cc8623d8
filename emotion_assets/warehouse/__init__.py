"""The one place that speaks SQL to DuckDB: the wrapper round the file, the schema, and the statements by topic."""
