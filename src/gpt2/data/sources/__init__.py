"""Documents and instruction records: one module for each ``source`` in params.yaml."""
