"""The models: bases, one file per kind, fine-tuning, and the scorer that answers with one."""
