"""A language model as judge of responses, with controls that show whether to trust it."""
