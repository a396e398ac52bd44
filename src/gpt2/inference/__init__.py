"""Generates text with a model, serves and exports it, and imports checkpoints."""
