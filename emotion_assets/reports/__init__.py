"""What a person reads: pages, charts, figures and drift."""
