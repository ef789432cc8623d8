"""The parts of a transformer: tokens, batches, attention, the classifier, LoRA, checkpoints, memory."""
