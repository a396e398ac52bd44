"""Files with random damage give rows or a reason, within limits of time and memory."""

import bz2
import gzip
import json
import lzma
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2.core.errors import UserError
from gpt2.data.parsing.rows import RawData
from gpt2.data.sources import own_data
from gpt2.data.sources.row_params import CorpusFiles, InstructionFiles
from scripts.deps import ROOT
from stages.download import json_line
from tests.tiny_llama import write_tiny_llama

MEBIBYTE = 2**20
MOST_MEMORY = 512 * MEBIBYTE
UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes that the system counts memory in."""
FEW = settings(
    max_examples=30,
    derandomize=True,
    database=None,
    deadline=timedelta(minutes=1),
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FEW, max_examples=300)
RECORDS: list[dict[str, object]] = [
    {"text": f"Text {n} é", "instruction": f"Say {n}.", "output": str(n)} for n in range(40)
]


def parquet(**options: object) -> bytes:
    file = BytesIO()
    pq.write_table(pa.Table.from_pylist(RECORDS), file, **options)
    return file.getvalue()


def packed(compression: int, **members: bytes) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return file.getvalue()


LIST = json.dumps(RECORDS, ensure_ascii=False).encode()
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in RECORDS).encode()
TEXTS = [f"Text {n}" for n in range(40)]
TABLE = b"text,instruction,output\n" + b"".join(
    b'"Text ""%d"", \xc3\xa9",Say %d,%d\n' % (n, n, n) for n in range(40)
)
TURNS = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It."}]
FILES = {
    "list.json": LIST,
    "lines.jsonl": LINES,
    "text.txt": "One, two é\n".encode() * 50,
    "table.csv": TABLE,
    "table.tsv": TABLE.replace(b",", b"\t"),
    "page.html": b"<html><body><h1>One</h1><p>Two &amp; <pre>a\n b</pre><script>c</script>" * 9,
    "columns.json": json.dumps({name: dict(enumerate(TEXTS)) for name in RECORDS[0]}).encode(),
    "objects.json": b"".join(json.dumps(row, indent=1).encode() for row in RECORDS),
    "chats.jsonl": b"".join(json.dumps({"messages": TURNS}).encode() + b"\n" for _ in range(9)),
    "divided.txt": b"One\n<|endoftext|>\nTwo \xc3\xa9" * 50,
    "lines.jsonl.bz2": bz2.compress(LINES),
    "lines.jsonl.xz": lzma.compress(LINES),
    "lines.jsonl.zst": pa.compress(LINES, codec="zstd", asbytes=True),
    "table.parquet.zst": pa.compress(parquet(), codec="zstd", asbytes=True),
    "lines.jsonl.gz": gzip.compress(LINES, mtime=0),
    "twice.json.gz.gz": gzip.compress(gzip.compress(LIST, mtime=0), mtime=0),
    "deflated.zip": packed(zipfile.ZIP_DEFLATED, a_jsonl=LINES, b_txt=b"One", c_json=LIST),
    "stored.zip": packed(zipfile.ZIP_STORED, a_jsonl=LINES, b_parquet=parquet()),
    "bzip2.zip": packed(zipfile.ZIP_BZIP2, a_jsonl=LINES),
    "lzma.zip": packed(zipfile.ZIP_LZMA, a_jsonl=LINES),
    "plain.parquet": parquet(compression="none", use_dictionary=False),
    "snappy.parquet": parquet(data_page_version="2.0"),
    "zstd.parquet": parquet(compression="zstd"),
    "table.parquet.gz": gzip.compress(parquet(), mtime=0),
}
"""A whole file of each kind."""


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """``content`` with up to four places changed, most of them near its ends: formats begin and end
    with what steers their reading; or bytes that were never such a file."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(1, 4))):
        near = draw(st.integers(0, min(len(content), 60)))
        place = draw(st.sampled_from([near, len(content) - near, -1]))
        if place == -1:
            place = draw(st.integers(0, len(content)))
        new = draw(st.one_of(st.binary(max_size=9), st.sampled_from(NASTY)))
        removed = draw(st.sampled_from([0, len(new), len(new), len(new), 1, 1000, len(content)]))
        content = content[:place] + new + content[place + removed :]
    return content


NASTY = [
    *(b"\0", b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x80" * 9, b"\xed\xa0\x80"),
    *(b"[", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"-", b"NaN", b'"\\ud800"', b"\\u0000"),
    *(b"1e999", b"\n" * 1000, b"{}\n" * 1000, b"\r", b'"', b"}", b"null\n", b"PAR1", b"PK\5\6"),
]
"""What readers stumble over."""


@contextmanager
def little_memory() -> Iterator[None]:
    """The block raises the most memory that this process ever held by `MOST_MEMORY` or less."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * UNIT < MOST_MEMORY


def read(name: str, content: bytes) -> None:
    """Rows become documents and records that can be written, or a `UserError` says why not."""
    for params in (
        CorpusFiles(),
        InstructionFiles(limit=20),
        InstructionFiles(limit=20, columns={"conversation": "messages"}),
        CorpusFiles(on_bad_record="skip", coerce=True),
    ):
        reader = replace(params.reader(), largest=MEBIBYTE, room=4 * MEBIBYTE)
        data = RawData(name, reader.rows(name, BytesIO(content)), {})
        try:
            if isinstance(params, InstructionFiles):
                found = own_data.instruction_records(data, params).records
            else:
                found = list(own_data.documents(data, params))
        except UserError as error:
            assert str(error).startswith(f"{name}: ")
        else:
            assert "".join(map(json_line, found)).encode()


def fuzz(name: str, how: settings) -> None:
    @how
    @given(damaged(FILES[name]))
    def run(content: bytes) -> None:
        read(name, content)

    read(name, FILES[name])
    with little_memory():
        run()


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_give_rows_or_a_reason(name: str) -> None:
    fuzz(name, FEW)


@pytest.mark.faults
@pytest.mark.parametrize("name", FILES)
def test_many_damaged_files_give_rows_or_a_reason(name: str) -> None:
    fuzz(name, MANY)


@pytest.mark.faults
def test_arrow_files_of_the_datasets_library(tmp_path: Path) -> None:
    """In the layout of the hub; the shards of tokens are Arrow, too, but behind their digests."""
    pytest.importorskip("datasets")
    from gpt2.data.sources.huggingface import HuggingfaceCorpus, load_rows

    file = BytesIO()
    table = pa.Table.from_pylist(RECORDS)
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    content = file.getvalue()
    whole = {"nothing": content}
    whole |= {f"cut at {n}": content[:n] for n in (0, 4, 8, 100, len(content) // 2)}
    for place in (0, 4, 9, 30, 100, 300, len(content) // 2, len(content) - 8):
        whole[f"flood at {place}"] = content[:place] + b"\xff" * 8 + content[place + 8 :]
    told = []
    with little_memory():
        for name, changed in whole.items():
            folder = tmp_path / name.replace(" ", "-")
            folder.mkdir()
            (folder / "train.arrow").write_bytes(changed)
            params = HuggingfaceCorpus(source="huggingface", dataset=str(folder))
            try:
                documents = list(own_data.documents(load_rows(params), params))
                assert "".join(map(json_line, documents)).encode()
            except UserError as error:
                told.append(name)
                assert str(error).startswith(str(folder))
    assert "nothing" not in told
    assert {"cut at 4", "cut at 100", "flood at 9"} <= {*told}


GGUF = """
import sys
from pathlib import Path
from gpt2.core.errors import UserError
from gpt2.evaluation.judge.backends.llamacpp import LlamaCppJudge
from gpt2.evaluation.judge.params import LlamaEvalParams
for path in map(Path, sys.argv[1:]):
    judge = LlamaCppJudge(path, 1, LlamaEvalParams(n_ctx=256, max_tokens=16))
    try:
        judge.judge("How good?")
        print(path.name, "replied", flush=True)
    except UserError as error:
        assert str(error).startswith(str(path)), error
        print(path.name, "refused", flush=True)
"""


@pytest.mark.faults
def test_damaged_headers_of_gguf_files(tmp_path: Path) -> None:
    """Magic, version, counts of tensors and keys, lengths of the first key and its value."""
    write_tiny_llama(tmp_path / "whole.gguf")
    content = (tmp_path / "whole.gguf").read_bytes()
    for place in (0, 4, 8, 16, 24, 32, 40, 56, 64):
        for number, new in enumerate((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f")):
            changed = content[:place] + new + content[place + len(new) :]
            (tmp_path / f"at-{place}-{number}.gguf").write_bytes(changed)
    paths = sorted(tmp_path.glob("at-*.gguf"))
    process = subprocess.run(
        [sys.executable, "-c", GGUF, *map(str, paths)],
        cwd=ROOT,
        env={"PYTHONPATH": "src:."},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line for line in process.stdout.splitlines() if line.startswith("at-")]
    refused = {line.split()[0] for line in lines if line.endswith("refused")}
    assert process.returncode == 0, (lines[-1:], process.stderr[-2000:])
    assert len(lines) == len(paths)
    assert {"at-0-0.gguf", "at-0-1.gguf", "at-8-1.gguf", "at-16-1.gguf"} <= refused
