"""GPT-2's byte-level BPE: its files, its added tokens, encoding and decoding."""
