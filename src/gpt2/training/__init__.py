"""Training: trainer, optimizers, checkpoints."""
