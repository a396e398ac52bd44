"""Conversations of ShareGPT and OpenAI as records."""

import pytest

from gpt2.core.errors import UserError
from gpt2.core.params import parse
from gpt2.data.parsing.conversations import ConversationError, records_of
from gpt2.data.parsing.rows import RawData, Row
from gpt2.data.sources.own_data import OwnRecords, instruction_records
from gpt2.data.sources.row_params import InstructionRows
from tests import yaml12


def sharegpt(*turns: str) -> list[object]:
    """Alternating turns of human and gpt."""
    return [{"from": "gpt" if n % 2 else "human", "value": turn} for n, turn in enumerate(turns)]


def messages(*turns: str, system: str | None = None) -> list[object]:
    first = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return first + [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]


def read(values: list[object], **columns: str) -> OwnRecords:
    rows = [Row(f"own:{n}", f"record {n}", value) for n, value in enumerate(values, start=1)]
    return instruction_records(RawData("own", rows, {}), InstructionRows(columns=columns))


def refused(values: list[object], **columns: str) -> str:
    with pytest.raises(UserError) as caught:
        read(values, **columns)
    return str(caught.value)


@pytest.mark.parametrize("turns", [sharegpt, messages])
def test_a_question_and_a_reply_are_a_record(turns: object) -> None:
    assert records_of(turns("Say hi.", "Hi.")) == [  # type: ignore[operator]
        {"instruction": "Say hi.", "input": "", "output": "Hi."}
    ]


@pytest.mark.parametrize("turns", [sharegpt, messages])
def test_each_reply_is_a_record_with_all_earlier_turns_as_input(turns: object) -> None:
    found = records_of(turns("One?", "1", "Two?\nOr", "2", "Three?", "3"))  # type: ignore[operator]
    assert [(record["instruction"], record["output"]) for record in found] == [
        ("One?", "1"),
        ("Two?\nOr", "2"),
        ("Three?", "3"),
    ]
    assert [record["input"] for record in found] == [
        "",
        "User: One?\nAssistant: 1",
        "User: One?\nAssistant: 1\nUser: Two?\nOr\nAssistant: 2",
    ]


def test_the_system_prompt_precedes_each_question() -> None:
    for turns in (
        messages("One?", "1", "Two?", "2", system="Be brief."),
        [{"from": "system", "value": "Be brief."}, *sharegpt("One?", "1", "Two?", "2")],
        [{"role": "developer", "content": "Be brief."}, *messages("One?", "1", "Two?", "2")],
    ):
        found = records_of(turns)
        assert [record["instruction"] for record in found] == [
            "Be brief.\n\nOne?",
            "Be brief.\n\nTwo?",
        ]
        assert found[1]["input"] == "User: One?\nAssistant: 1"
    (record,) = records_of(sharegpt("One?", "1"), "Be brief.")
    assert record["instruction"] == "Be brief.\n\nOne?"


def test_a_question_without_a_reply_is_dropped() -> None:
    assert records_of(messages("One?", "1", "Two?")) == records_of(messages("One?", "1"))


def test_parts_that_are_text_are_joined() -> None:
    parts = [{"type": "text", "text": "One"}, {"type": "text", "text": "two?"}]
    (record,) = records_of([{"role": "user", "content": parts}, *messages("", "1")[1:]])
    assert record["instruction"] == "One\ntwo?"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (None, "a conversation must be a list of turns"),
        ([], "a conversation must be a list of turns"),
        ("Hi", "a conversation must be a list of turns"),
        (["Hi", "Ho"], "turn 1 is not an object with from and value, or role and content"),
        ([{"text": "Hi"}], "turn 1 is from None; only turns"),
        (messages("One?"), "it has no turn of the assistant"),
        (sharegpt("One?", "1")[::-1], "turn 1 is from the assistant, not a question of the user"),
        ([*messages("a"), *messages("b", "c")], "turn 2 is from the user, not the assistant's"),
        ([*messages("a", "b"), *messages("c", system="d")], "turn 3 is from the system, not a"),
        ([*messages("a"), {"role": "tool", "content": "1"}], "turn 2 is from 'tool'; only"),
        ([*sharegpt("a"), {"from": "function_call", "value": "1"}], "turn 2 is from 'function_"),
        (messages("a", " \n"), "turn 2 of the assistant is empty"),
        ([*messages("a"), {"role": "assistant", "content": None}], "turn 2 of the assistant is"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "turn 1 holds something that is not text: image_url",
        ),
        ([{"role": "user", "content": 3}], "turn 1 holds something that is not text: int"),
    ],
)
def test_what_is_no_conversation(turns: object, message: str) -> None:
    with pytest.raises(ConversationError) as caught:
        records_of(turns)
    assert str(caught.value).startswith(message)


def test_records_out_of_conversations() -> None:
    values: list[object] = [
        {"id": n, "kind": "chat", "conversations": sharegpt(f"{n}?", "a", f"more {n}?", "b")}
        for n in range(100)
    ]
    found = read(values, conversation="conversations").records
    assert len(found) == 200
    assert [record.name for record in found[:3]] == ["own:1.1", "own:1.2", "own:2.1"]
    assert {record.kind for record in found} == {"chat"}
    assert all(a.split == b.split for a, b in zip(found[::2], found[1::2], strict=True))
    assert {record.split for record in found} == {"train", "test", "validation"}


def test_a_conversation_and_its_system_may_stand_anywhere() -> None:
    value = {"chat": {"turns": messages("One?", "1")}, "prompts": [{"text": "Be brief."}]}
    found = read([value] * 3, conversation="chat.turns", system="prompts[0].text").records
    assert found[0][:3] == ("Be brief.\n\nOne?", "", "1")


def test_the_system_goes_before_plain_instructions_too() -> None:
    """As in OpenOrca."""
    values: list[object] = [
        {"system_prompt": "Be brief.", "question": "One?", "response": "1"},
        {"system_prompt": "", "question": "Two?", "response": "2"},
        {"system_prompt": None, "question": "Three?", "response": "3"},
    ]
    columns = {"system": "system_prompt", "instruction": "question", "output": "response"}
    found = read(values, **columns).records
    assert [r.instruction for r in found] == ["Be brief.\n\nOne?", "Two?", "Three?"]


def test_bad_conversations_are_reported() -> None:
    message = refused([{"c": messages("a", "b")}, {"c": []}, {}], conversation="c")
    assert message.splitlines() == [
        "own: 2 problem(s)",
        "  record 2: a conversation must be a list of turns",
        "  record 3: a conversation must be a list of turns",
    ]
    message = refused([{"c": messages("a", "\ud800")}], conversation="c")
    assert "record 1: 'output': " in message


def test_a_conversation_excludes_the_other_fields() -> None:
    columns = {"conversation": "c", "output": "d"}
    with pytest.raises(UserError, match="a conversation holds instruction, input and output"):
        parse(InstructionRows, {"columns": columns}, "instructions")


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"conversations": []}, "columns: {conversation: conversations}"),
        ({"id": 1, "messages": []}, "columns: {conversation: messages}"),
        (
            {"instruction": "a", "context": "", "response": "b", "category": "c"},
            "columns: {instruction: instruction, input: context, output: response}",
        ),
        ({"prompt": "a", "completion": "b"}, "columns: {instruction: prompt, output: completion}"),
        ({"question": "a", "answer": "b"}, "columns: {instruction: question, output: answer}"),
        (
            {"system_prompt": "a", "question": "b", "response": "c", "id": 3},
            "columns: {system: system_prompt, instruction: question, output: response}",
        ),
        ({"input": "a", "output": "b"}, "columns: {instruction: input, output: output}"),
    ],
)
def test_a_known_layout_is_named_with_the_lines_that_read_it(
    record: dict[str, object], line: str
) -> None:
    values: list[object] = [record] * 3
    end = refused(values).splitlines()[-3:]
    assert end[0].startswith("  It looks like ")
    assert end[1:] == ["    instructions:", f"      {line}"]


def test_the_lines_read_what_they_are_named_for() -> None:
    record = {"prompt": "a", "completion": "b"}
    values: list[object] = [record] * 3
    *_, section, line = refused(values).splitlines()
    params = yaml12.loads(f"{section}\n{line}")
    assert read(values, **params["instructions"]["columns"]).records[0][:3] == ("a", "", "b")
