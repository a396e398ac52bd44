"""The HTML report of a run: its results, and what changed since the previous run."""
