"""The GPT-2 model: attention, loss, and its file format."""
