"""A small model directory as the pipeline writes it, with random weights."""

from pathlib import Path

import torch

from gpt2.data.train_bpe import train_bpe
from gpt2.model import weights
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2


def write_our_model(place: Path, text: str, context_length: int, seed: int) -> Path:
    """Write it in ``place``; its weights are large, so that no two tokens have equal logits."""
    torch.manual_seed(seed)
    tokenizer = train_bpe([text] * 2, 340)
    (place / "tokenizer").mkdir()
    tokenizer.save(place / "tokenizer")
    config = GPT2Config(
        vocab_size=340, context_length=context_length, n_layer=1, n_head=2, n_embd=32
    )
    model = GPT2(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    weights.save(model, place / "model", place / "tokenizer", tokenizer.end_of_text, {})
    return place / "model"
