"""Checkpoints of other programs that train a GPT-2, as model directories of ours."""
