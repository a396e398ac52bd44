"""GPT-2's vocabulary: bytes, merges and their ids, and whether its files belong together.

Section 2.2 of the GPT-2 paper. GPT-2 spells each byte as a printable character in its text files.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence

from gpt2.core.errors import UserError
from gpt2.data.tokenizer.added_tokens import AddedToken
from gpt2.data.tokenizer.files import END_OF_TEXT, MERGES, VOCAB, Special


def _printable_bytes() -> dict[str, int]:
    """GPT-2's spelling of the 256 bytes, in the order of their token ids.

    A byte that Latin-1 prints is its own character; the n-th of the others is code point 256 + n.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelling = {chr(byte): byte for byte in printable}
    return spelling | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = _printable_bytes()


def tokens_of(merges: Iterable[tuple[str, str]]) -> list[str]:
    """All tokens in the order of their ids. If two merges make one token, its first rank counts."""
    return [*dict.fromkeys([*BYTES, *(left + right for left, right in merges)]), END_OF_TEXT]


def parse_merges(text: str) -> list[tuple[str, str]]:
    """The pairs in ``merges.txt``, after its version line.

    Raises:
        UserError: a line is not a pair of tokens.
    """
    pairs = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        match line.split(" "):
            case [left, right] if left and right and BYTES.keys() >= set(left + right):
                pairs.append((left, right))
            case _:
                raise UserError(
                    f"{MERGES}, line {number}: expected two tokens with a space between them, "
                    f"found {line!r}"
                )
    return pairs


def merge_ranks(
    ids: Mapping[str, int], merges: Sequence[tuple[str, str]], added: set[str]
) -> dict[bytes, int]:
    """The ids of the bytes and of all merged tokens. A lower id is merged earlier.

    Args:
        ids: id of each token, added ones included.
        merges: the pairs, in the order in which they are merged.
        added: tokens that are added to the byte pair encoding.

    Raises:
        UserError: the vocabulary and the merges do not belong together.
    """
    if sorted(ids.values()) != list(range(len(ids))):
        raise UserError(f"the ids of {VOCAB} and of added tokens are not 0 to n - 1, each once")
    tokens = tokens_of(merges)[:-1]
    if missing := [token for token in tokens if token not in ids]:
        raise UserError(
            f"{VOCAB}: {_some(missing)}: missing. It must have each of the 256 bytes and every "
            f"token that {MERGES} merges"
        )
    # A trainer puts special tokens first. Without a list of added tokens they are never found in
    # a text, so they do no harm.
    first = min(ids[byte] for byte in BYTES)
    others = ids.keys() - set(tokens) - added - {END_OF_TEXT}
    if unknown := {token for token in others if ids[token] > first}:
        raise UserError(
            f"{VOCAB}: {_some(sorted(unknown))}: neither merged by {MERGES}, nor an added token. "
            "Use the files of one tokenizer, unchanged"
        )
    for earlier, later in itertools.pairwise(tokens[len(BYTES) :]):
        if ids[earlier] > ids[later]:
            raise UserError(
                f"{VOCAB}: the ids of {earlier!r} and {later!r}, {ids[earlier]} and {ids[later]}, "
                f"are not in the order of {MERGES}"
            )
    return {bytes(BYTES[char] for char in token): ids[token] for token in tokens}


def end_id(ids: Mapping[str, int], special: Special, stated: int | None) -> int:
    """The id of the token that ends a text.

    Args:
        ids: id of each token.
        special: the special tokens and their roles.
        stated: id in the model's configuration; it counts if it is a special token.

    Raises:
        UserError: there is no such token.
    """
    known = {END_OF_TEXT, *(token.content for token in special.added.values())}
    if stated is not None and stated in {ids[token] for token in known if token in ids}:
        return stated
    name = special.roles["eos_token"] or END_OF_TEXT
    if name not in ids:
        raise UserError(f"no token ends a text: {VOCAB} has no {name!r}. Name one as eos_token")
    return ids[name]


def fingerprint(
    vocab: str,
    merges: str,
    special: Special,
    beyond: Mapping[int, AddedToken],
    roles: Mapping[str, str | None],
) -> str:
    """A sha256 of everything that decides an id.

    Args:
        vocab: text of ``vocab.json``.
        merges: text of ``merges.txt``.
        special: the special tokens.
        beyond: added tokens other than ``<|endoftext|>``.
        roles: which token is ``eos_token`` and so on.
    """
    content = f"{vocab}\0{merges}"
    if beyond or roles["eos_token"] != END_OF_TEXT:
        tokens = {token_id: token.model_dump() for token_id, token in special.added.items()}
        content += "\0" + json.dumps([tokens, dict(roles)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _some(tokens: Sequence[str]) -> str:
    more = f" and {len(tokens) - 3:,} more" if len(tokens) > 3 else ""
    return ", ".join(map(repr, tokens[:3])) + more
