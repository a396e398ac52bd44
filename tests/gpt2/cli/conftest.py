"""Small models for the command."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config as PeerConfig
from transformers import GPT2LMHeadModel, GPT2Tokenizer

from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from gpt2.model import weights
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from tests.gpt2.cli.command import ANSWER, ASKED


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """No character of `ANSWER` beyond ASCII is one token."""
    return train_bpe([ASKED] * 2, 330)


@pytest.fixture(scope="session")
def smiling(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows one text by heart: `ASKED`, `ANSWER`, the end."""
    torch.manual_seed(1)
    ids = torch.tensor([*tokenizer.encode(ASKED), *tokenizer.encode(ANSWER), tokenizer.end_of_text])
    model = GPT2(GPT2Config(vocab_size=330, context_length=160, n_layer=1, n_head=2, n_embd=48))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(80):
        loss = F.cross_entropy(model(ids[None, :-1])[0], ids[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return saved(model, tokenizer, tmp_path_factory.mktemp("smiling"))


@pytest.fixture(scope="session")
def endless(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that talks for thousands of tokens and never begins a new line."""
    torch.manual_seed(2)
    model = GPT2(GPT2Config(vocab_size=330, context_length=8192, n_layer=2, n_head=2, n_embd=32))
    ends = [i for i in range(330) if "\n" in tokenizer.decode([i])] + [tokenizer.end_of_text]
    with torch.no_grad():
        model.wte.weight.normal_(std=0.5)
        model.wte.weight[ends] = 0
    return saved(model, tokenizer, tmp_path_factory.mktemp("endless"))


@pytest.fixture(scope="session")
def foreign(smiling: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as transformers writes it, with its own tokenizer file."""
    directory = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(3)
    ends = {"bos_token_id": 329, "eos_token_id": 329}
    shape = {"vocab_size": 330, "n_positions": 64, "n_layer": 2, "n_head": 2, "n_embd": 32}
    peer = GPT2LMHeadModel(PeerConfig(**shape, **ends))
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    peer.save_pretrained(directory)
    GPT2Tokenizer.from_pretrained(smiling).save_pretrained(directory)
    return directory


def saved(model: GPT2, tokenizer: Tokenizer, directory: Path) -> Path:
    (directory / "tokenizer").mkdir(parents=True)
    tokenizer.save(directory / "tokenizer")
    weights.save(model, directory / "model", directory / "tokenizer", tokenizer.end_of_text, {})
    return directory / "model"
