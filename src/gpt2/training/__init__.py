"""Batches make a better model: trainer, optimizers, checkpoints."""
