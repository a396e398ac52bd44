"""A language model as judge of responses, with the controls that say whether to believe it."""
