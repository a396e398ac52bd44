"""Text on its way to batches of tokens: sources, corpus, tokenizer, shards, instructions."""
