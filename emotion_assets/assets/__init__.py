"""The asset graph, one file per group. Thin: what an asset is, what it depends on, what it shows."""
