"""Conversations, as ShareGPT and OpenAI write them: a record for each reply."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""Who speaks, by what ShareGPT's ``from`` and OpenAI's ``role`` call it."""


class ConversationError(Exception):
    """Why no records can be made of a conversation."""


class _Turn(NamedTuple):
    role: str
    text: str


def records_of(turns: object, system: object = None) -> list[dict[str, object]]:
    """A record for each reply: the question before it, and all earlier turns as its input.

    What the system says stands before each question. A question after the last reply is left out.

    Args:
        turns: a list of objects with ``from`` and ``value``, or ``role`` and ``content``.
        system: what stands in a field of its own.

    Raises:
        ConversationError: the turns are something else, or not question and reply in turn.
    """
    if not isinstance(turns, list) or not turns:
        raise ConversationError("a conversation must be a list of turns")
    instructions = [str(system)] if system else []
    records: list[dict[str, object]] = []
    earlier: list[str] = []
    question = ""
    for number, turn in enumerate(_turns(turns), start=1):
        if turn.role == "system" and number == 1:
            instructions.append(turn.text)
        elif turn.role == "user" and not question:
            question = turn.text
        elif turn.role == "assistant" and question:
            instruction = "\n\n".join([*instructions, question])
            history = "\n".join(earlier)
            records.append({"instruction": instruction, "input": history, "output": turn.text})
            earlier += [f"User: {question}", f"Assistant: {turn.text}"]
            question = ""
        else:
            expected = "the assistant's reply" if question else "a question of the user"
            raise ConversationError(f"turn {number} is from the {turn.role}, not {expected}")
    if not records:
        raise ConversationError("no turn of the assistant in it")
    return records


def _turns(turns: list[object]) -> Iterator[_Turn]:
    for number, turn in enumerate(turns, start=1):
        try:
            yield _turn(turn)
        except ConversationError as error:
            raise ConversationError(f"turn {number} {error}") from error


def _turn(turn: object) -> _Turn:
    if not isinstance(turn, Mapping):
        raise ConversationError("is no object with from and value, or role and content")
    name, content = (
        (turn.get("from"), turn.get("value"))
        if turn.get("from") is not None
        else (turn.get("role"), turn.get("content"))
    )
    role = ROLES.get(str(name).strip().lower())
    if role is None:
        raise ConversationError(
            f"is from {name!r}; only questions of a user, replies of an assistant and what the "
            "system says can be learned"
        )
    text = _text(content)
    if not text.strip():
        raise ConversationError(f"of the {role} is empty")
    return _Turn(role, text)


def _text(content: object) -> str:
    """A text, or OpenAI's list of parts that are texts."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ConversationError(f"holds something that is no text: {kind}")
        texts.append(text)
    return "\n".join(texts)
