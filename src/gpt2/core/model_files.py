"""Names of the files in a Hugging Face model directory, beside those of its tokenizer."""

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Which file holds which tensor, where the weights are in several files."""
