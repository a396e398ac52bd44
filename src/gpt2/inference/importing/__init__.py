"""Checkpoints from elsewhere as model directories: nanoGPT, llm.c and Hugging Face."""
