"""Randomly initialised GPT-2 checkpoints as ``transformers`` itself writes them."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, GPT2LMHeadModel
from transformers import GPT2Config as PeerConfig

from gpt2.data.train_bpe import train_bpe

TEXT = 3 * (
    "def gpt2.weights.load(directory)\nThe model of a model directory, in float32.\n"
    "Raises:\n    UserError: the directory is damaged, or the checkpoint is not that of a GPT-2."
)
VOCABULARY = 300


def write_model(directory: Path, shard: str = "5GB", **config: object) -> GPT2LMHeadModel:
    """A small model by default; weights are larger than usual, so that its tokens are no ties."""
    torch.manual_seed(1)
    shape = {"vocab_size": 90, "n_positions": 20, "n_layer": 2, "n_head": 2, "n_embd": 16}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    peer = GPT2LMHeadModel(PeerConfig(**{**shape, **ends, **config})).eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    peer.save_pretrained(directory, max_shard_size=shard)
    return peer


def write_checkpoint(directory: Path, **config: object) -> GPT2LMHeadModel:
    """A model with its tokenizer in GPT-2's two files, as on the hub."""
    end = VOCABULARY - 1
    shape = {"vocab_size": VOCABULARY, "n_positions": 64, "bos_token_id": end, "eos_token_id": end}
    peer = write_model(directory, **{**shape, **config})
    train_bpe([TEXT], VOCABULARY).save(directory)
    return peer


def write_newer_checkpoint(directory: Path, **config: object) -> GPT2LMHeadModel:
    """The same with ``tokenizer.json`` alone, as ``transformers`` 5 saves it."""
    peer = write_checkpoint(directory, **config)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (directory / name).unlink()
    tokenizer.save_pretrained(directory)
    return peer
