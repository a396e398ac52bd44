"""Stop strings: strings that end a text, as ``stop_strings`` in `transformers`."""

from collections.abc import Callable, Sequence

from gpt2.data.tokenizer.bpe import Tokenizer


def stop_strings(
    stop: Sequence[str], tokenizer: Tokenizer | None
) -> Callable[[Sequence[int]], bool]:
    """A function that checks whether the last token of a text completes a string of ``stop``.

    A string is complete if it ends within the last token, wherever it began.

    Raises:
        ValueError: there are stop strings, but no tokenizer.
    """
    if not stop:
        return lambda tokens: False
    if tokenizer is None:
        raise ValueError("stop strings need the tokenizer")
    wanted = [string.encode() for string in stop]
    longest = max(map(len, wanted))

    def is_complete(tokens: Sequence[int]) -> bool:
        *earlier, newest = map(
            tokenizer.bytes_of, tokens[-longest:]
        )  # a token is at least one byte
        before = b"".join(earlier)
        # Only len(string) - 1 earlier bytes are searched, so a match ends in the newest token.
        return any(
            string in before[max(0, len(before) - len(string) + 1) :] + newest for string in wanted
        )

    return is_complete
