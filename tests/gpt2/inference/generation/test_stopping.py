"""Stop strings compared with `transformers` on the same tokens."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer
from transformers.generation.stopping_criteria import StopStringCriteria

from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.train_bpe import train_bpe
from gpt2.inference.generation.stopping import stop_strings

TEXT = "Stop at the top, or stop there.\n\nNaïve 中文, 👩‍👩‍👧!\n### Response:\nstop stop. "


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([TEXT, TEXT, "A stopper stops at the topmost stop."], 330)


@pytest.mark.parametrize(
    "stop",
    [
        ["stop"],
        ["\n\n"],
        ["."],
        ["### Response:"],
        ["中", "ï"],
        ["👩‍👩"],
        ["top", " stop. S", "e"],
        ["not in it", TEXT],
    ],
    ids=str,
)
def test_a_text_is_complete_where_transformers_stops(
    tokenizer: Tokenizer, tmp_path: Path, stop: list[str]
) -> None:
    tokenizer.save(tmp_path)
    peer = StopStringCriteria(AutoTokenizer.from_pretrained(tmp_path), stop)
    is_complete = stop_strings(stop, tokenizer)
    random = torch.randint(330, (150,), generator=torch.Generator().manual_seed(1)).tolist()
    found = []
    for tokens in (tokenizer.encode(TEXT * 2), random, list(TEXT.encode())):
        for length in range(1, len(tokens) + 1):
            text = tokens[:length]
            found.append(is_complete(text))
            assert found[-1] == bool(peer(torch.tensor([text]), None)[0]), text
    assert any(found)
    assert not all(found)


def test_an_id_beyond_the_vocabulary_ends_nothing(tokenizer: Tokenizer) -> None:
    is_complete = stop_strings(["a", "�"], tokenizer)
    assert [is_complete([5, 331]), is_complete([331, *tokenizer.encode("b")])] == [True, False]


def test_without_stop_strings_no_tokenizer_is_needed() -> None:
    assert not stop_strings([], None)([1, 2])
    with pytest.raises(ValueError, match="tokenizer"):
        stop_strings(["a"], None)
