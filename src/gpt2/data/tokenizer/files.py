"""The tokenizer files of all versions of `transformers`, parsed into one description.

A tokenizer that is not GPT-2's byte-level encoding is refused: it would give other ids.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.data.tokenizer.added_tokens import AddedToken

END_OF_TEXT = "<|endoftext|>"
VOCAB = "vocab.json"
MERGES = "merges.txt"
CONFIG = "tokenizer_config.json"
WHOLE = "tokenizer.json"
"""The whole tokenizer in one file of the `tokenizers` library. Newer versions of `transformers`
write only this one, and prefer it to the other two."""
ADDED = "added_tokens.json"
NAMES = "special_tokens_map.json"
"""Files of older versions."""

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("additional_special_tokens", "extra_special_tokens")
WITHOUT_DEFAULTS = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of `transformers` without default special tokens."""
ONLY: dict[str, tuple[Any, ...]] = {
    "add_prefix_space": (False, None),
    "add_bos_token": (False, None),
    "add_eos_token": (False, None),
    "split_special_tokens": (False, None),
}
"""Keys of `CONFIG` that give other ids unless they have one of these values."""
ONLY_IN_MODEL: dict[str, tuple[Any, ...]] = {
    "type": ("BPE", None),
    "dropout": (None,),
    "continuing_subword_prefix": ("", None),
    "end_of_word_suffix": ("", None),
    "byte_fallback": (False, None),
    "ignore_merges": (False, None),
}
"""The same for the section ``model`` of `WHOLE`."""


@dataclass(frozen=True)
class Special:
    """The special tokens of a tokenizer, beside its byte pair encoding."""

    added: Mapping[int, AddedToken]
    """Added tokens by id. Some ids are in the vocabulary, others come after it."""
    roles: Mapping[str, str | None]
    """Which token is ``bos_token``, ``eos_token`` and so on."""


NO_SPECIAL = Special({}, dict.fromkeys(ROLES[:3], END_OF_TEXT))
"""Those of GPT-2's tokenizer: only ``<|endoftext|>``."""


def read(directory: Path) -> tuple[str, str, Special]:
    """The texts of ``vocab.json`` and ``merges.txt``, and the special tokens.

    Raises:
        UserError: a file is missing or damaged, or describes another encoding than GPT-2's.
    """
    config = _object(directory / CONFIG)
    _refuse_others(CONFIG, config, ONLY)
    whole = _object(directory / WHOLE) if (directory / WHOLE).is_file() else None
    if whole is None:
        vocab, merges = _read(directory / VOCAB), _read(directory / MERGES)
    else:
        vocab, merges = _split(whole)
    ids = vocabulary(vocab)
    names = config if "added_tokens_decoder" in config else {**config, **_object(directory / NAMES)}
    roles, special = _named(names)
    added = _added(directory, config, whole or {}, {token.content for token in special})
    return vocab, merges, Special(_with_ids(ids, added, special), roles)


def vocabulary(text: str) -> dict[str, int]:
    """The ids in the text of a ``vocab.json``.

    Raises:
        UserError: it is not an object of tokens and ids.
    """
    ids = _value(VOCAB, text)
    if not isinstance(ids, dict) or not all(type(i) is int for i in ids.values()):
        raise UserError(f"{VOCAB}: expected an object of tokens and their ids")
    return ids


def as_files(vocab: Mapping[str, int], merges: Iterable[Sequence[str]]) -> tuple[str, str]:
    """The texts of ``vocab.json`` and ``merges.txt``."""
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    return json.dumps(vocab), f"#version: 0.2\n{lines}"


def _split(whole: Mapping[str, Any]) -> tuple[str, str]:
    """The texts of ``vocab.json`` and ``merges.txt`` from a ``tokenizer.json``."""
    try:
        model = whole["model"]
        # Older versions write a pair as one string.
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        files = as_files(model["vocab"], pairs)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{WHOLE}: not a byte pair encoding ({error!r})") from error
    _refuse_others(f"{WHOLE}: model", model, ONLY_IN_MODEL)
    if whole.get("normalizer") is not None:
        raise UserError(f"{WHOLE}: it has a normalizer; GPT-2 has none")
    before = whole.get("pre_tokenizer")
    if not (
        isinstance(before, dict)
        and before.get("type") == "ByteLevel"
        and before.get("add_prefix_space") is False
        and before.get("use_regex", True) is True
    ):
        raise UserError(f"{WHOLE}: its pre_tokenizer is not GPT-2's plain ByteLevel")
    after = whole.get("post_processor")
    if after is not None and not (
        isinstance(after, dict)
        and (after.get("type") == "ByteLevel" or _keeps_ids(after.get("single")))
    ):
        raise UserError(f"{WHOLE}: its post_processor adds tokens to every text; GPT-2 adds none")
    return files


def _keeps_ids(template: object) -> bool:
    """Whether a template adds no ids to those of a text."""
    return (
        isinstance(template, list)
        and len(template) == 1
        and isinstance(template[0], dict)
        and "Sequence" in template[0]
    )


def _refuse_others(
    where: str, values: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]]
) -> None:
    for key, allowed in only.items():
        if values.get(key, allowed[0]) not in allowed:
            raise UserError(f"{where}: {key} is {values[key]!r}, GPT-2's is {allowed[0]!r}")


def _named(names: Mapping[str, Any]) -> tuple[dict[str, str | None], list[AddedToken]]:
    """The token of each role, and all tokens that are special because a key names them."""
    default = None if names.get("tokenizer_class") in WITHOUT_DEFAULTS else END_OF_TEXT
    roles: dict[str, str | None] = dict.fromkeys(ROLES[:3], default)
    special = []
    for role in ROLES:
        value = names.get(role, roles.get(role))
        if value is not None:
            special.append(_special(value, role))
            roles[role] = special[-1].content
        elif role in roles:
            roles[role] = None
    for key, value in names.items():
        if key in LISTS and isinstance(value, list | dict):
            each = value.values() if isinstance(value, dict) else value
            special += [_special(one, key) for one in each]
        elif key.endswith("_token") and key not in ROLES and isinstance(value, str | dict):
            special.append(_special(value, key))
    return roles, special


def _added(
    directory: Path, config: Mapping[str, Any], whole: Mapping[str, Any], special: set[str]
) -> dict[int, AddedToken]:
    """The added tokens that have ids in the files. The most detailed file has precedence."""
    sources: list[tuple[str, object, AddedToken]] = []
    for content, token_id in _object(directory / ADDED).items():
        flags = {"special": content in special, "normalized": content not in special}
        sources.append((ADDED, token_id, parse(AddedToken, {"content": content, **flags}, ADDED)))
    entries, decoder = whole.get("added_tokens", []), config.get("added_tokens_decoder", {})
    if not isinstance(entries, list) or not isinstance(decoder, dict):
        raise UserError(f"added_tokens of {WHOLE} or added_tokens_decoder of {CONFIG}: wrong type")
    for entry in entries:
        values = dict(entry) if isinstance(entry, dict) else {}
        token_id = values.pop("id", None)
        sources.append((WHOLE, token_id, parse(AddedToken, values, f"{WHOLE}: added_tokens")))
    for key, entry in decoder.items():
        where = f"{CONFIG}: added_tokens_decoder.{key}"
        token_id = int(key) if key.isdecimal() and len(key) < 10 else key
        sources.append((CONFIG, token_id, _token(entry, where)))
    found: dict[int, AddedToken] = {}
    for file, token_id, token in sources:
        if type(token_id) is not int or token_id < 0:
            raise UserError(f"{file}: {token.content!r} has no id, but {token_id!r}")
        other = found.setdefault(token_id, token)
        if other.content != token.content:
            raise UserError(f"{file}: {token.content!r} has the id {token_id} of {other.content!r}")
        found[token_id] = token
    return found


def _special(value: object, where: str) -> AddedToken:
    """A token that is special because a key names it, as a string or with its flags."""
    flags = {"content": value} if isinstance(value, str) else value
    return _token({**flags, "special": True} if isinstance(flags, dict) else flags, where)


def _token(value: object, where: str) -> AddedToken:
    """A token with its flags, in the form of `CONFIG` and `NAMES`."""
    if isinstance(value, dict):
        stated = {key: flag for key, flag in value.items() if key != "__type"}
        value = {"normalized": not value.get("special", False), **stated}
    return parse(AddedToken, value, where)


def _with_ids(
    ids: Mapping[str, int], added: Mapping[int, AddedToken], special: Iterable[AddedToken]
) -> dict[int, AddedToken]:
    """The added tokens, and special tokens without an id, which get the next ones."""
    known = dict(ids)
    for token_id, token in added.items():
        other = known.setdefault(token.content, token_id)
        if other != token_id:
            raise UserError(f"the added token {token.content!r} has two ids: {other}, {token_id}")
    tokens = dict(added)
    following = max(known.values(), default=-1) + 1
    for token in special:
        if token.content not in known:
            known[token.content] = following
            following += 1
        tokens.setdefault(known[token.content], token)
    return tokens


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if the file does not exist."""
    if not path.is_file():
        return {}
    value = _value(path.name, _read(path))
    if not isinstance(value, dict):
        raise UserError(f"{path.name}: not an object")
    return value


def _value(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also for numbers with thousands of digits
        raise UserError(f"{name}: not valid JSON ({error})") from error


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise UserError(f"{path.name}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: not valid UTF-8 ({error})") from error
