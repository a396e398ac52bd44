"""Downloaded checkpoints: their size, their parameters, and a continuation on the CPU."""

from pathlib import Path

import pytest
import torch

from gpt2.core.errors import UserError
from gpt2.data.fetching.hub import RELEASES
from gpt2.inference.verification import PROMPT, check_size, verify
from gpt2.model import weights
from gpt2.model.config import GPT2Config
from gpt2.model.gpt2 import GPT2
from tests.hugging_face import write_checkpoint


def test_a_checkpoint_is_described_by_its_size_and_a_continuation(tmp_path: Path) -> None:
    peer = write_checkpoint(tmp_path)
    verified = verify(tmp_path, "any")
    assert verified["parameters"] == sum(p.numel() for p in peer.parameters())
    assert verified["bytes"] == (tmp_path / "model.safetensors").stat().st_size
    assert verified == verify(tmp_path, "any")
    assert PROMPT not in verified["continuation"]
    with pytest.raises(UserError, match="the checkpoint is not GPT-2 124M: n_layer is 2, not 12"):
        verify(tmp_path, "124M")


@pytest.mark.parametrize("size", RELEASES)
def test_each_release_has_its_own_shape(size: str) -> None:
    release = RELEASES[size]
    shape = {key: getattr(release, key) for key in ("n_layer", "n_head", "n_embd")}
    with torch.device("meta"):
        model = GPT2(GPT2Config(vocab_size=50257, context_length=1024, **shape))
    parameters = weights.count_parameters(model)
    check_size(model, parameters, size)
    for other in RELEASES.keys() - {size}:
        with pytest.raises(UserError, match=f"not GPT-2 {other}"):
            check_size(model, parameters, other)
