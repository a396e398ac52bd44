"""The real ``datasets`` library on data sets in local directories, without a network."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt2.core.errors import UserError
from gpt2.data.records import Document
from gpt2.data.sources import own_data
from gpt2.data.sources.huggingface import HuggingfaceCorpus, HuggingfaceInstructions, load_rows
from tests.file_server import serving

ROOT = Path(__file__).parents[4]
RECORDS = [
    {"prompt": f"Say {n}.", "context": None if n % 2 else "aloud", "answer": str(n), "id": n}
    for n in range(40)
]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    from datasets import config
    from huggingface_hub import constants

    # Both read the environment when they are imported, which another test may have done.
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def texts(tmp_path: Path) -> str:
    folder = tmp_path / "texts"
    folder.mkdir()
    table = pa.table({"text": ["One", "Two", None, " ", "Five"], "year": range(5)})
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 1), folder / "test-00000-of-00001.parquet")
    return str(folder)


def documents(dataset: str, **keys: object) -> list[Document]:
    params = HuggingfaceCorpus(source="huggingface", dataset=dataset, **keys)
    return list(own_data.documents(load_rows(params), params))


def test_a_corpus_from_parquet(texts: str) -> None:
    found = documents(texts, split="test")
    assert found == [Document(f"{texts}:test:1", "One")]
    found = documents(texts, on_bad_record="skip")
    assert [document.text for document in found] == ["One", "Two", "Five"]


def test_the_first_rows_are_taken_unless_others_are_asked_for(texts: str) -> None:
    assert [document.text for document in documents(texts, limit=2)] == ["One", "Two"]
    drawn = documents(texts, limit=3, sampling="random", on_bad_record="skip")
    rows = random.Random(123).sample(["One", "Two", None, None, "Five"], 3)
    assert [document.text for document in drawn] == [text for text in rows if text]


def test_every_bad_row_is_reported(texts: str) -> None:
    with pytest.raises(UserError) as caught:
        documents(texts)
    assert str(caught.value).splitlines() == [
        f"{texts}: 2 problem(s)",
        "  row 3: 'text': Field required",
        "  row 4: 'text' is empty",
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty cache, separate from that of the library."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_files_of_text_are_documents_as_our_own_are(folder: Path) -> None:
    (folder / "train-1.txt").write_text("\nOne\n\nline\n")
    (folder / "train-2.txt").write_text("Two\n<|endoftext|>\nThree\n<|endoftext|>\n")
    name = f"{folder}:train"
    assert documents(str(folder)) == [
        Document(f"{name}:1", "\nOne\n\nline\n"),
        Document(f"{name}:2:1", "Two"),
        Document(f"{name}:2:2", "Three"),
    ]
    found = documents(str(folder), document_separator="blank-lines")
    assert [document.text for document in found][:2] == ["One", "line"]
    (folder / "train-3.txt").write_text("\n")
    with pytest.raises(UserError, match=r"row 3: empty"):
        documents(str(folder))


def test_csv_as_the_library_reads_it(folder: Path) -> None:
    (folder / "train.csv").write_text('id,body\n1,One\n2,"Two, 2"\n3,\n')
    found = documents(str(folder), column="body", on_bad_record="skip")
    assert [document.text for document in found] == ["One", "Two, 2"]
    assert [d.text for d in documents(str(folder), column="id", coerce=True)] == ["1", "2", "3"]
    with pytest.raises(UserError, match=r"no column 'text', only id, body\. It looks like"):
        documents(str(folder))


def test_conversations_with_nested_paths(folder: Path) -> None:
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hi."}]
    rows = [{"id": n, "chat": {"turns": turns, "system": None}} for n in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    params = HuggingfaceInstructions(
        source="huggingface",
        dataset=str(folder),
        columns={"conversation": "chat.turns", "system": "chat.system"},
    )
    found = own_data.instruction_records(load_rows(params), params).records
    assert [record[:3] for record in found] == [("Hi?", "", "Hi.")] * 40


def test_instructions_from_json_lines(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    params = HuggingfaceInstructions(
        source="huggingface",
        dataset=str(tmp_path),
        columns={"instruction": "prompt", "input": "context", "output": "answer"},
        limit=30,
        split_by="position",
    )
    data = load_rows(params)
    found = own_data.instruction_records(data, params).records
    assert [record[:3] for record in found] == [
        (row["prompt"], row["context"] or "", row["answer"]) for row in RECORDS[:30]
    ]
    assert [record.split for record in found][23:28] == ["train", *["test"] * 3, "validation"]
    assert data.facts == {
        "raw": {"dataset": str(tmp_path), "config": None, "split": "train", "revision": None}
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"split": "dev"}, "Bad split: dev. Available splits: ['train', 'test']"),
        ({"config": "english"}, "BuilderConfig 'english' not found"),
        ({"column": "content"}, "no column 'content' for 'text', only text, year"),
    ],
)
def test_what_the_data_set_does_not_have(texts: str, keys: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        documents(texts, **keys)
    assert str(caught.value).startswith(f"{texts}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("train.parquet", b"PAR1 and no more"), ("train.jsonl", b"{oops"), ("train.txt", b"\xff\n")],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="Correct dataset, config, split or revision"):
        documents(str(tmp_path))


def test_offline_is_no_traceback() -> None:
    with pytest.raises(UserError, match=r"^nobody/nothing: ConnectionError: .*check the network"):
        documents("nobody/nothing")


def test_without_the_library_it_says_what_to_install(
    texts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"python -m pip install datasets==5\.2\.0"):
        documents(texts)


def message_with_hub(endpoint: str, home: Path) -> str:
    """The error for an unknown data set, in a new process, because the address is read once."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
from gpt2.core.errors import UserError
from gpt2.data.sources.huggingface import HuggingfaceCorpus, load_rows
try:
    list(load_rows(HuggingfaceCorpus(source="huggingface", dataset="nobody/nothing")).rows)
except UserError as error:
    print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_hub_that_does_not_have_it(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as endpoint:
        message = message_with_hub(endpoint, tmp_path)
    assert message.startswith("nobody/nothing: ")
    assert "Correct dataset" in message


@pytest.mark.slow  # the library itself tries for 23 s
def test_a_hub_that_nobody_answers_for(tmp_path: Path) -> None:
    message = message_with_hub("http://127.0.0.1:9", tmp_path)
    assert message.startswith("nobody/nothing: ConnectionError: ")
