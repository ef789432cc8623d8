"""Where texts are scored: one file per engine."""
