"""Conversations in the formats of ShareGPT and OpenAI become one record per reply."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""Roles, by the values of ShareGPT's ``from`` and OpenAI's ``role``."""


class ConversationError(Exception):
    """No records can be made of a conversation; the text says why."""


class _Turn(NamedTuple):
    role: str
    text: str


def records_of(turns: object, system: object = None) -> list[dict[str, object]]:
    """One record per reply: the question before it, and all earlier turns as its input.

    The system prompt precedes each question. A question after the last reply is dropped.

    Args:
        turns: a list of objects with ``from`` and ``value``, or ``role`` and ``content``.
        system: a system prompt from another field.

    Raises:
        ConversationError: the turns have another form, or questions and replies do not alternate.
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
        raise ConversationError("it has no turn of the assistant")
    return records


def _turns(turns: list[object]) -> Iterator[_Turn]:
    for number, turn in enumerate(turns, start=1):
        try:
            yield _turn(turn)
        except ConversationError as error:
            raise ConversationError(f"turn {number} {error}") from error


def _turn(turn: object) -> _Turn:
    if not isinstance(turn, Mapping):
        raise ConversationError("is not an object with from and value, or role and content")
    name, content = (
        (turn.get("from"), turn.get("value"))
        if turn.get("from") is not None
        else (turn.get("role"), turn.get("content"))
    )
    role = ROLES.get(str(name).strip().lower())
    if role is None:
        raise ConversationError(
            f"is from {name!r}; only turns of a user, an assistant and the system can be used"
        )
    text = _text(content)
    if not text.strip():
        raise ConversationError(f"of the {role} is empty")
    return _Turn(role, text)


def _text(content: object) -> str:
    """A text, or the texts in OpenAI's list of parts, joined."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ConversationError(f"holds something that is not text: {kind}")
        texts.append(text)
    return "\n".join(texts)
