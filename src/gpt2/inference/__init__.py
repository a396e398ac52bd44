"""A model writes text: sampling, serving, export, import."""
