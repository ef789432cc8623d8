"""The training loop: fitting weights, exact resume, several processes, the device."""
