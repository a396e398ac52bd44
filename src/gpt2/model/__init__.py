"""The GPT-2 itself: attention, loss, and its file format."""
