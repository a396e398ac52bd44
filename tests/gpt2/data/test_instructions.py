import json
from functools import partial
from itertools import groupby

import pytest

from gpt2.core.errors import UserError
from gpt2.data.batch import IGNORE_INDEX
from gpt2.data.instructions import (
    Example,
    InstructionBatches,
    choose_records,
    collate,
    encode,
    encode_split,
    evaluation_batches,
    load_records,
    prompt,
)
from gpt2.data.records import InstructionRecord
from gpt2.data.train_bpe import train_bpe

TOKENIZER = train_bpe([prompt("Add.", "1 and 2") * 3], 300)
END = TOKENIZER.end_of_text


def record(output: str = "The sum is 3.", input: str = "1 and 2") -> InstructionRecord:
    return InstructionRecord(
        instruction="Add.", input=input, output=output, kind="sum", split="train", name=""
    )


def test_the_prompt_is_alpacas():
    assert prompt("Add.", "1 and 2") == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n"
    )
    assert prompt("Say hello.", "").endswith("Say hello.\n\n### Response:\n")
    assert "### Input" not in prompt("Say hello.", "")


def test_an_example_begins_with_the_prompt_as_it_is_generated_from():
    example, too_long = encode(record(), TOKENIZER, 512, "truncate")
    assert example is not None
    assert not too_long
    assert example.ids[: example.n_prompt] == TOKENIZER.encode(prompt("Add.", "1 and 2"))
    assert TOKENIZER.decode(example.ids[example.n_prompt : -1]) == "The sum is 3."
    assert example.ids[-1] == END


def test_only_the_response_and_its_end_are_learned():
    long = Example([1, 2, 3, 4, 5, END], n_prompt=3)
    short = Example([6, END, 7, END], n_prompt=2)  # an end token in the prompt stays a prompt token
    batch = collate([long, short], loss_on="response")
    ignored = IGNORE_INDEX
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [5, 3]
    assert batch.inputs.tolist() == [[1, 2, 3, 4, 5, 6, END, 7]]
    assert batch.targets.tolist() == [[ignored, ignored, 4, 5, END, ignored, 7, END]]
    everything = collate([long, short], loss_on="all")
    assert everything.targets.tolist() == [[2, 3, 4, 5, END, END, 7, END]]


def test_long_records_are_truncated_or_dropped():
    whole, _ = encode(record(), TOKENIZER, 512, "truncate")
    assert whole is not None
    fits, too_long = encode(record(), TOKENIZER, len(whole.ids) - 1, "drop")
    assert (fits, too_long) == (whole, False)
    limit = len(whole.ids) - 3
    cut, too_long = encode(record(), TOKENIZER, limit, "truncate")
    assert cut == Example(whole.ids[: limit + 1], whole.n_prompt)
    assert too_long
    assert encode(record(), TOKENIZER, limit, "drop") == (None, True)
    assert encode(record(), TOKENIZER, whole.n_prompt - 1, "truncate") == (None, True)
    last, _ = encode(record(), TOKENIZER, whole.n_prompt, "truncate")
    assert last is not None
    assert len(last.ids) == whole.n_prompt + 1


def test_a_split_counts_long_and_dropped_records():
    short, long, huge = record(), record("3. " * 50), record(input="1 and 2" * 200)
    other = record()._replace(split="validation")
    limit = len(TOKENIZER.encode(prompt("Add.", "1 and 2"))) + 20
    records = [long, other, short, huge]
    cut = encode_split(records, "train", TOKENIZER, limit, "truncate")
    assert len(cut.examples[0].ids) == limit + 1
    assert (len(cut.examples), cut.too_long, cut.dropped) == (2, 2, 1)
    dropped = encode_split(records, "train", TOKENIZER, limit, "drop")
    assert dropped == (cut.examples[1:], 2, 2)
    with pytest.raises(UserError, match="no record of the test split fits the context of"):
        encode_split(records, "test", TOKENIZER, limit, "drop")


def test_limits_hold_for_each_kind_and_the_named_kinds_come_first(caplog):
    records = [
        record(str(n))._replace(kind=kind, split=split)
        for n in range(6)
        for kind in ("b", "a", "c")
        for split in ("train", "validation", "test")
    ]
    with caplog.at_level("INFO"):
        chosen = choose_records(records, {"c": 2, "x": 1}, 3, seed=1)
    assert "no records of kind x; kinds are a, b, c" in caplog.text
    parts = [(key, len(list(group))) for key, group in groupby(chosen, lambda r: (r.kind, r.split))]
    assert parts == [
        *((("c", "train"), 2), (("c", "validation"), 3)),
        *((("a", "train"), 6), (("a", "validation"), 3)),
        *((("b", "train"), 6), (("b", "validation"), 3)),
    ]
    assert chosen == choose_records(records, {"c": 2, "x": 1}, 3, seed=1)
    assert len(choose_records(records, {}, None, seed=1)) == 36


EXAMPLES = [Example([n] * (2 + n % 7), 1) for n in range(23)]
COLLATE = partial(collate, loss_on="all")


def rows(batches) -> list[int]:
    """The examples in the batches; the ids of each example repeat its number."""
    return [
        int(ids[0]) for batch in batches for ids in batch.inputs[0].split(batch.lengths.tolist())
    ]


def test_an_epoch_has_every_example_once_and_another_order_next_time():
    batches = InstructionBatches(EXAMPLES, 4, None, 1, COLLATE)
    assert batches.steps_per_epoch == 6
    epochs = [
        [rows(batches(step)) for step in range(epoch * 6, epoch * 6 + 6)] for epoch in range(2)
    ]
    for epoch in epochs:
        assert sorted(row for step in epoch for row in step) == list(range(23))
    assert epochs[0] != epochs[1]


def test_order_is_a_pure_function_of_seed_and_step():
    one, other = (InstructionBatches(EXAMPLES, 4, None, 1, COLLATE) for _ in range(2))
    forwards = [rows(one(step)) for step in range(12)]
    backwards = [rows(other(step)) for step in reversed(range(12))]
    assert forwards == backwards[::-1]
    assert forwards != [
        rows(InstructionBatches(EXAMPLES, 4, None, 2, COLLATE)(step)) for step in range(12)
    ]


def test_micro_batches_hold_the_rows_of_the_batch():
    whole = InstructionBatches(EXAMPLES, 8, None, 1, COLLATE)
    parts = InstructionBatches(EXAMPLES, 8, 3, 1, COLLATE)
    assert rows(whole(0)) == rows(parts(0))
    assert [len(batch.lengths) for batch in parts(0)] == [3, 3, 2]


def test_evaluation_has_every_example_once():
    assert sorted(rows(evaluation_batches(EXAMPLES, 5, COLLATE))) == list(range(23))


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_records_are_read_back(tmp_path):
    path = write(
        tmp_path / "records.jsonl",
        [
            json.dumps(record(output)._asdict(), ensure_ascii=False)
            for output in ("The sum is 3.", "é", "a\x85b\u2028c\u2029d\r\ne")
        ],
    )
    outputs = ["The sum is 3.", "é", "a\x85b\u2028c\u2029d\r\ne"]
    assert [r.output for r in load_records(path)] == outputs


def test_all_bad_records_are_reported_with_their_lines(tmp_path):
    good = record()._asdict()
    lines = [
        json.dumps(good),
        json.dumps({**good, "output": 3}),
        "{",
        json.dumps({**good, "split": "dev"}),
        json.dumps({**good, "extra": 1}),
        "1" * 5000,
        "[" * 100_000,
    ]
    with pytest.raises(UserError) as caught:
        load_records(write(tmp_path / "records.jsonl", lines))
    message = str(caught.value)
    assert "6 bad record(s)" in message
    for number in (2, 3, 4, 5, 6, 7):
        assert f"line {number}" in message
    assert "line 1:" not in message


def test_a_missing_file_and_one_that_is_not_utf8_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none.jsonl: no such file"):
        load_records(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"instruction": "\xe9"}')
    with pytest.raises(UserError, match=r"latin.jsonl: not UTF-8 at byte 17"):
        load_records(tmp_path / "latin.jsonl")
