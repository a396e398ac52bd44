"""The command ``gpt2``: look before a run, use a model after it."""
