"""The training loop, its optimiser and progress, exact resume, several processes, device and number format."""
