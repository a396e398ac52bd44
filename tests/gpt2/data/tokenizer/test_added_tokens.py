"""Tokenizers with added tokens or another training, compared with `transformers`."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken, AutoTokenizer, GPT2Tokenizer

from gpt2.core.errors import UserError
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.files import END_OF_TEXT
from gpt2.data.train_bpe import train_bpe
from tests.hugging_face import TEXT, VOCABULARY

Change = Callable[[GPT2Tokenizer], object]
CHAT = {"pad_token": "[PAD]", "extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
PIECES = [
    *(
        "[PAD]",
        "<|im_start|>",
        "<|im_end|>",
        "user",
        " ",
        "  ",
        "\n",
        "a",
        "the model",
        "<|im_",
        "|>",
    ),
    *("<mask>", "new", "newer", "é", "中", "_", "9", "[PAD", "\u3000", "\t", "def "),
]
CHANGES: dict[str, Change] = {
    "chat": lambda t: t.add_special_tokens(CHAT),
    "words": lambda t: t.add_tokens(["new", "newer", "the model", "é", " "]),
    "both": lambda t: (t.add_tokens(["user<|im", "|>new"]), t.add_special_tokens(CHAT)),
    "flags": lambda t: t.add_tokens(
        [
            AddedToken("<mask>", lstrip=True, special=True, normalized=False),
            AddedToken("new", single_word=True),
            AddedToken("def ", rstrip=True),
            AddedToken("a", lstrip=True, rstrip=True, single_word=True),
        ]
    ),
    "in the vocabulary": lambda t: t.add_tokens(["def", "a"]),
}


def texts(seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["", TEXT, *("".join(rng.choices(PIECES, k=rng.randrange(12))) for _ in range(500))]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    train_bpe([TEXT], VOCABULARY).save(directory)
    return directory


def in_one_file(tokenizer: GPT2Tokenizer, directory: Path) -> None:
    tokenizer.save_pretrained(directory)


def as_version_4(tokenizer: GPT2Tokenizer, directory: Path) -> None:
    """``added_tokens_decoder`` in the configuration, beside the two files."""
    _two_files(tokenizer, directory)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    config["added_tokens_decoder"] = {
        str(token_id): {key: getattr(token, key) for key in keys}
        for token_id, token in tokenizer.added_tokens_decoder.items()
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def as_before(tokenizer: GPT2Tokenizer, directory: Path) -> None:
    """``added_tokens.json`` and ``special_tokens_map.json``, which have no flags."""
    _two_files(tokenizer, directory)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    names = {key: config.pop(key) for key in [*config] if key in CHAT}
    added = {t.content: i for i, t in tokenizer.added_tokens_decoder.items()}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "special_tokens_map.json").write_text(json.dumps(names))
    (directory / "added_tokens.json").write_text(json.dumps(added))


def _two_files(tokenizer: GPT2Tokenizer, directory: Path) -> None:
    tokenizer.save_pretrained(directory)
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}")


def check(directory: Path, again: Path, samples: Sequence[str]) -> Tokenizer:
    """Both tokenizers give the same ids and texts, also after `Tokenizer` has saved it."""
    theirs, ours = AutoTokenizer.from_pretrained(directory), Tokenizer.load(directory)
    again.mkdir()
    ours.save(again)
    saved, theirs_saved = Tokenizer.load(again), AutoTokenizer.from_pretrained(again)
    assert ours.n_vocab == saved.n_vocab == len(theirs) == len(theirs_saved)
    assert ours.fingerprint == saved.fingerprint
    assert ours.end_of_text == saved.end_of_text == theirs.eos_token_id == theirs_saved.eos_token_id
    for text in samples:
        ids = theirs(text).input_ids
        assert ours.encode(text) == ids, text
        assert saved.encode(text) == ids, text
        assert theirs_saved(text).input_ids == ids, text
        row = [ours.end_of_text, *ids]
        assert ours.encode_documents([text]).tolist() == row
        assert "".join(ours.decode_stream(ids)) == ours.decode(ids)
    return ours


@pytest.mark.parametrize("save", [in_one_file, as_version_4, as_before])
@pytest.mark.parametrize("change", CHANGES)
def test_ids_are_those_of_transformers(
    base: Path, tmp_path: Path, change: str, save: Callable[[GPT2Tokenizer, Path], None]
) -> None:
    if save is as_before and change == "flags":
        pytest.skip("there are none in those files")
    tokenizer = AutoTokenizer.from_pretrained(base)
    CHANGES[change](tokenizer)
    save(tokenizer, tmp_path / "theirs")
    ours = check(tmp_path / "theirs", tmp_path / "again", texts(seed=1))
    assert ours.fingerprint != Tokenizer.load(base).fingerprint


def test_the_text_of_added_tokens_comes_back(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens(CHAT)
    tokenizer.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    text = "<|im_start|>user\nnaïve 中<|im_end|>"
    ids = ours.encode(text)
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert ours.decode(ids) == text == tokenizer.decode(ids)
    assert ours.token_bytes[ids].sum() == len(text.encode())
    assert ours.decode([ours.n_vocab, *ids[:1]]) == "\ufffd<|im_start|>"


def test_the_end_of_a_text_is_never_found_in_one(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens(CHAT)
    tokenizer.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    ids = ours.encode(f"a{END_OF_TEXT}[PAD]")
    assert ours.end_of_text not in ids
    assert ids[:-1] == Tokenizer.load(base).encode(f"a{END_OF_TEXT}")
    assert ours.decode(ids) == f"a{END_OF_TEXT}[PAD]"
    rows = ours.encode_documents([f"a{END_OF_TEXT}", "[PAD]"]).tolist()
    assert rows == [ours.end_of_text, *ids[:-1], ours.end_of_text, ids[-1]]


@pytest.mark.parametrize("chat", [False, True])
def test_a_tokenizer_trained_anew(base: Path, tmp_path: Path, chat: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    if chat:
        tokenizer.add_special_tokens(CHAT)
    new = tokenizer.train_new_from_iterator([TEXT] * 3, 290)
    new.save_pretrained(tmp_path / "new")
    ours = check(tmp_path / "new", tmp_path / "again", texts(seed=2))
    assert ours.end_of_text == 0
    assert ours.decode([0]) == END_OF_TEXT


def test_another_token_may_end_and_begin_a_text(base: Path, tmp_path: Path) -> None:
    """The files of a tokenizer that was trained with ``<s>``, ``<pad>`` and ``</s>``."""
    from tokenizers import Tokenizer as Trainee
    from tokenizers import decoders, models, pre_tokenizers, trainers

    trainee = Trainee(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainee.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    trainee.train_from_iterator([TEXT] * 3, trainer)
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    merges = [tuple(pair) for pair in json.loads(trainee.to_str())["model"]["merges"]]
    GPT2Tokenizer(vocab=trainee.get_vocab(), merges=merges, **roles).save_pretrained(
        tmp_path / "theirs"
    )
    ours = check(tmp_path / "theirs", tmp_path / "again", ["<s>a</s>", "<mask>", *texts(seed=3)])
    assert (ours.start_of_text, ours.end_of_text) == (0, 2)


def test_the_one_file_counts_where_older_ones_lie_beside_it(base: Path, tmp_path: Path) -> None:
    directory = tmp_path / "theirs"
    Tokenizer.load(base).save(_new(directory))
    new = AutoTokenizer.from_pretrained(base).train_new_from_iterator([TEXT] * 3, 280)
    new.save_pretrained(directory)  # which leaves the old vocab.json and merges.txt there
    assert check(directory, tmp_path / "again", texts(seed=5)).n_vocab == 280


def _new(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_an_end_that_is_in_no_file_comes_last(base: Path, tmp_path: Path) -> None:
    directory = _new(tmp_path / "theirs")
    vocab = json.loads((base / "vocab.json").read_text())
    del vocab[END_OF_TEXT]
    (directory / "vocab.json").write_text(json.dumps(vocab))
    (directory / "merges.txt").write_bytes((base / "merges.txt").read_bytes())
    (directory / "config.json").write_text('{"model_type": "gpt2"}')
    ours = check(directory, tmp_path / "again", texts(seed=4))
    assert ours.end_of_text == len(vocab) == ours.n_vocab - 1


def test_who_states_the_end_must_name_a_special_token(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens(CHAT)
    tokenizer.save_pretrained(tmp_path)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ours = Tokenizer.load(tmp_path, end)
    assert ours.end_of_text == end
    (tmp_path / "again").mkdir()
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").end_of_text == end
    for wrong in (5, 50256, None):  # the second is what `GPT2Config` says of itself
        assert Tokenizer.load(tmp_path, wrong).end_of_text == tokenizer.eos_token_id


def edited(name: str, **values: Any) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / name
        whole = json.loads(path.read_text()) if path.is_file() else {}
        for key, value in values.items():
            section, _, inner = key.partition("__")
            if inner:
                whole[section][inner] = value
            else:
                whole[key] = value
        path.write_text(json.dumps(whole))

    return edit


LONG = {"content": "x" * 9, "special": True}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited("tokenizer_config.json", add_prefix_space=True), "add_prefix_space is True"),
        (edited("tokenizer_config.json", add_bos_token=True), "add_bos_token is True"),
        (edited("tokenizer.json", normalizer={"type": "NFC"}), "it has a normalizer"),
        (edited("tokenizer.json", pre_tokenizer={"type": "Metaspace"}), "pre_tokenizer is not"),
        (edited("tokenizer.json", pre_tokenizer=None), "pre_tokenizer is not"),
        (edited("tokenizer.json", pre_tokenizer__add_prefix_space=True), "pre_tokenizer is not"),
        (
            edited("tokenizer.json", post_processor={"type": "BertProcessing"}),
            "post_processor adds",
        ),
        (edited("tokenizer.json", model__dropout=0.1), "dropout is 0.1"),
        (edited("tokenizer.json", model__ignore_merges=True), "ignore_merges is True"),
        (edited("tokenizer.json", model__type="Unigram"), "type is 'Unigram'"),
        (edited("tokenizer.json", added_tokens=[{"id": 7, **LONG}]), "not 0 to n - 1"),
        (edited("tokenizer.json", added_tokens=[{"id": 900, **LONG}]), "not 0 to n - 1"),
        (edited("tokenizer.json", added_tokens=[{"id": "7", **LONG}]), "has no id, but '7'"),
        (edited("tokenizer.json", added_tokens=[LONG]), "has no id, but None"),
        (edited("added_tokens.json", **{"[PAD]": 5}), "PAD.* has two ids"),
        (edited("tokenizer_config.json", added_tokens_decoder={"1": {"content": 5}}), "content"),
        (edited("tokenizer_config.json", pad_token=["x"]), "pad_token"),
    ],
)
def test_what_would_give_other_ids_is_refused_by_name(
    base: Path, tmp_path: Path, edit: Callable[[Path], None], message: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens(CHAT)
    tokenizer.save_pretrained(tmp_path)
    edit(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_long_white_space_is_no_work_for_hours(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, rstrip=True)])
    tokenizer.save_pretrained(tmp_path)
    text = "<mask>" + " " * 20_000 + "x" + " " * 20_000 + "<mask>"
    assert Tokenizer.load(tmp_path).encode(text) == tokenizer(text).input_ids
