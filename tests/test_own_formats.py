"""Five realistic data sets, each in other formats, through the whole pipeline."""

import csv
import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pytest

from tests.pipeline import STAGES, Pipeline

ANIMALS = ("bird", "fox", "mouse", "whale", "horse", "beetle", "hedgehog")
PLACES = ("in the wood", "by the sea", "under a stone", "on the hill", "behind the old mill")
STORIES = [
    f'Once upon a time, a little {ANIMALS[n % 7]} lived {PLACES[n % 5]}.\n\nIt said, "Good day, '
    f'number {n}!" and went to sleep; the {ANIMALS[(n + 3) % 7]} sang all night.'
    for n in range(400)
]
ANSWERS = [
    (f"Where does {ANIMALS[n % 7]} {n} live?", f"It lives {PLACES[n % 5]}.") for n in range(160)
]


class Made(NamedTuple):
    """The two sections of params.yaml, and the expected result."""

    corpus: dict[str, Any]
    instructions: dict[str, Any]
    documents: int
    records: int
    first: tuple[str, str, str]


def csv_and_dolly(place: Path) -> Made:
    pd.DataFrame({"text": STORIES}).to_csv(place / "stories.csv")
    rows = [
        {"instruction": ask, "context": "", "response": answer, "category": "open_qa"}
        for ask, answer in ANSWERS
    ]
    (place / "dolly.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Made(
        {"path": "stories.csv"},
        {"path": "dolly.jsonl", "columns": {"input": "context", "output": "response"}},
        400,
        160,
        (*ANSWERS[0][:1], "", ANSWERS[0][1]),
    )


def tinystories_and_pandas(place: Path) -> Made:
    text = "\n<|endoftext|>\n".join(STORIES).encode()
    (place / "TinyStories-train.txt.zst").write_bytes(pa.compress(text, "zstd", asbytes=True))
    table = pd.DataFrame(ANSWERS, columns=["instruction", "output"])
    table["input"] = [None if n % 2 else "As a poet." for n in range(160)]
    table.to_json(place / "alpaca.json")
    return Made(
        {"path": "TinyStories-train.txt.zst"},
        {"path": "alpaca.json"},
        400,
        160,
        (ANSWERS[0][0], "As a poet.", ANSWERS[0][1]),
    )


def web_pages_and_sharegpt(place: Path) -> Made:
    (place / "pages" / "a").mkdir(parents=True)
    for n, story in enumerate(STORIES):
        paragraphs = "".join(f"<p>{part}</p>" for part in story.split("\n\n"))
        page = f"<!DOCTYPE html><html><head><title>{n}</title><style>p {{}}</style>{paragraphs}"
        (place / "pages" / "a" / f"{n:03}.html").write_text(page)
    chats = [
        {
            "id": n,
            "conversations": [
                {"from": "human", "value": ask},
                {"from": "gpt", "value": answer},
                {"from": "human", "value": f"Are you sure, number {n}?"},
                {"from": "gpt", "value": "Quite sure."},
            ],
        }
        for n, (ask, answer) in enumerate(ANSWERS)
    ]
    (place / "chats.json").write_text(json.dumps(chats, indent=2))
    columns = {"conversation": "conversations"}
    return Made(
        {"path": "pages"},
        {"path": "chats.json", "columns": columns},
        400,
        320,
        (ANSWERS[0][0], "", ANSWERS[0][1]),
    )


def parquet_and_messages(place: Path) -> Made:
    pages = pd.DataFrame({"url": "http://localhost", "page": [{"body": text} for text in STORIES]})
    pages.to_parquet(place / "pages.parquet")
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": ask}]},
                {"role": "assistant", "content": answer},
            ]
        }
        for ask, answer in ANSWERS
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (place / "messages.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return Made(
        {"path": "pages.parquet", "column": "page.body"},
        {"path": "messages.jsonl.gz", "columns": {"conversation": "messages"}},
        400,
        160,
        (f"Be brief.\n\n{ANSWERS[0][0]}", "", ANSWERS[0][1]),
    )


def notes_and_spreadsheet(place: Path) -> Made:
    with zipfile.ZipFile(place / "notes.zip", "w") as archive:
        for n, story in enumerate(STORIES):
            archive.writestr(f"notes/{n:03}.md", f"# Note {n}\n\n{story}\n")
    table = pd.DataFrame(ANSWERS, columns=["Question", "Answer"])
    table["Context"] = ["<noinput>" if n % 2 else f"{n}; and more" for n in range(160)]
    table.to_csv(
        place / "sheet.csv",
        sep=";",
        index=False,
        encoding="utf-8-sig",
        quoting=csv.QUOTE_MINIMAL,
        lineterminator="\r\n",
    )
    columns = {"instruction": "Question", "input": "Context", "output": "Answer"}
    return Made(
        {"path": "notes.zip"},
        {"path": "sheet.csv", "columns": columns},
        400,
        160,
        (ANSWERS[0][0], "0; and more", ANSWERS[0][1]),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        csv_and_dolly,
        tinystories_and_pandas,
        web_pages_and_sharegpt,
        parquet_and_messages,
        notes_and_spreadsheet,
    ],
)
def test_peoples_data_go_through_all_stages(tmp_path: Path, make: Callable[[Path], Made]) -> None:
    pipeline = Pipeline(tmp_path)
    made = make(tmp_path)
    pipeline.set("corpus", {"source": "file", **made.corpus})
    pipeline.set("instructions", {"source": "file", **made.instructions})
    # The words of Alpaca's prompt are not in these texts, so that it takes many tokens.
    pipeline.set("pretrain.model.context_length", 512)
    assert pipeline.repro() == STAGES

    metrics = pipeline.json("metrics/download.json")
    assert metrics["documents"] == made.documents
    lines = (tmp_path / "data/raw/instructions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == made.records
    first = json.loads(lines[0])
    assert (first["instruction"], first["input"], first["output"]) == made.first
    assert pipeline.json("metrics/pretrain.json")["val_loss"] > 0
    judged = pipeline.json("metrics/llama3_eval.json")
    assert judged["finetuned"]["n_total"] > 0
    assert (tmp_path / "reports" / "report.html").stat().st_size
