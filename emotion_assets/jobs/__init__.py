"""One training as a job: its description and the process that does it."""
