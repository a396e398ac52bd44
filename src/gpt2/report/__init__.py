"""One page about a run, for people: what ran, what came of it, and what changed since the last."""
