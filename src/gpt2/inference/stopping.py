"""Strings that end a text, as `transformers` has them (``stop_strings``)."""

from collections.abc import Callable, Sequence

from gpt2.data.tokenizer.bpe import Tokenizer


def stop_strings(
    stop: Sequence[str], tokenizer: Tokenizer | None
) -> Callable[[Sequence[int]], bool]:
    """Says of the tokens of a text whether the last one completes a string of ``stop``: whether the
    string ends within it, wherever it began. Only if there are such strings is a tokenizer needed.
    """
    if not stop:
        return lambda tokens: False
    if tokenizer is None:
        raise ValueError("stop strings need the tokenizer")
    wanted = [string.encode() for string in stop]
    longest = max(map(len, wanted))

    def is_complete(tokens: Sequence[int]) -> bool:
        *earlier, newest = map(tokenizer.bytes_of, tokens[-longest:])  # each is a byte or longer
        before = b"".join(earlier)
        # With one byte less before than it has, a string that is found ends in the newest token.
        return any(
            string in before[max(0, len(before) - len(string) + 1) :] + newest for string in wanted
        )

    return is_complete
