"""Tokens added to a vocabulary (padding, chat markers), and how they are found in a text.

This follows `transformers`: added tokens are found before the rest is encoded, the leftmost first
and of several at one position the longest. Tokens without normalization come before the others.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from gpt2.core.params import Params

WHITE = "".join(chr(point) for point in (*range(9, 14), 32, 0x85, 0xA0, 0x1680))
WHITE += "".join(chr(point) for point in (*range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F))
WHITE += "\u3000"
"""White space of Unicode."""


class AddedToken(Params):
    """An added token with the flags of the `tokenizers` library."""

    content: Annotated[str, Field(min_length=1)]
    single_word: bool = False
    """Found only where no letter or digit is next to it."""
    lstrip: bool = False
    """Takes the white space on its left as well."""
    rstrip: bool = False
    """Takes the white space on its right as well."""
    normalized: bool = True
    special: bool = False


class AddedTokens:
    """Finds added tokens in texts.

    Args:
        tokens: the tokens by id.
    """

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        raw = {i: token for i, token in tokens.items() if not token.normalized}
        normalized = {i: token for i, token in tokens.items() if token.normalized}
        self._passes = [_Pass(group) for group in (raw, normalized) if group]

    def split(self, text: str) -> list[str | int]:
        """The ids of the added tokens in ``text``, and the strings between them, in order."""
        parts: list[str | int] = [text]
        for one in self._passes:
            parts = [
                found
                for part in parts
                for found in (one.split(part) if isinstance(part, str) else [part])
            ]
        return parts


class _Pass:
    """Tokens that are searched for together."""

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        self._tokens = {token.content: (i, token) for i, token in tokens.items()}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def split(self, text: str) -> Iterator[str | int]:
        done = 0
        for match in self._pattern.finditer(text):
            token_id, token = self._tokens[match[0]]
            start, end = match.span()
            if token.single_word and (_in_word(text[:start][-1:]) or _in_word(text[end : end + 1])):
                continue
            if token.lstrip:
                start = max(done, len(text[done:start].rstrip(WHITE)) + done)
            if token.rstrip:
                end += len(text[end:]) - len(text[end:].lstrip(WHITE))
            if done < start:
                yield text[done:start]
            yield token_id
            done = end
        if done < len(text):
            yield text[done:]


def _in_word(character: str) -> bool:
    return re.fullmatch(r"\w", character) is not None
