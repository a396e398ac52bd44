"""The page of figures: tables and pictures from files of results."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page
from benchmarks.measure import Row, Timing, kind, record
from scripts.deps import ROOT

MARKED = "before\n\n<!-- results: {0} -->\nold\n<!-- end: {0} -->\n\nafter\n"


def side(median: float, ratio: float | None = None, goal: float | None = None) -> dict[str, Any]:
    return {
        "median": median,
        "low": 0.9 * median,
        "high": 1.2 * median,
        "ratio": ratio,
        "goal": goal,
        "seconds": [1.0, 1.0, 1.0],
        "processor_seconds": [],
    }


def row(work: str, sides: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"work": work, "amount": 10, "unit": "tokens", "sides": sides, "checks": []} | {
        "figures": {},
        **more,
    }


STEP = row("a step", {"ours": side(430), "nanoGPT": side(191, 2.25, 2.7), "Trainer": side(1e7, 2)})
CORPUS = row(
    "a corpus", {"ours": side(20), "tiktoken": side(25, 0.8, 0.5)}, figures={"corpus, MB": 10}
)


def write(results: Path, kind: str, benchmark: str, *rows: dict[str, Any], **machine: Any) -> None:
    found = {
        "benchmark": benchmark,
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"kind": kind, "imitated_by": {}, "processor": "A processor", "threads": 2}
        | machine,
        "versions": {"torch": "2.0"},
        "rows": rows,
    }
    (results / kind).mkdir(parents=True, exist_ok=True)
    (results / kind / f"{benchmark}.json").write_text(json.dumps(found))


def written(directory: Path, *benchmarks: str) -> str:
    """The page after it was brought up to date."""
    path = directory / "page.md"
    path.write_text("".join(map(MARKED.format, benchmarks)))
    page.write(path, directory / "results", directory / "images")
    return path.read_text()


def test_a_line_for_each_peer_and_a_table_for_each_kind(tmp_path: Path) -> None:
    write(tmp_path / "results", "avx512", "training_step", STEP)
    write(tmp_path / "results", "avx2", "training_step", STEP, imitated_by={"ISA": "avx2"})
    text = written(tmp_path, "training_step")
    lines = [
        "| work | ours | peer | ratio | goal |",
        "| --- | --- | --- | --- | --- |",
        "| a step | 430 tokens/s | nanoGPT: 191 tokens/s | 2.25× | 2.7× |",
        "| a step | 430 tokens/s | Trainer: 10 million tokens/s | 2.00× |  |",
    ]
    assert text.count("\n".join(["", *lines, ""])) == 2
    assert "**avx2**: A processor, 2 threads, held to avx2, torch 2.0, 20" in text
    assert "**avx512**: A processor, 2 threads, torch 2.0, 2026-01-02\n" in text
    assert text.index("**avx2**") < text.index("**avx512**")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "results", "avx2", "training_step", STEP)
    write(tmp_path / "results", "avx2", "tokenization", CORPUS)
    first = written(tmp_path, "training_step", "tokenization")
    pictures = {file.name: file.read_bytes() for file in (tmp_path / "images").iterdir()}
    page.write(tmp_path / "page.md", tmp_path / "results", tmp_path / "images")
    assert (tmp_path / "page.md").read_text() == first
    assert pictures.keys() == {"ratios.svg", "tokenization.svg"}
    for name, picture in pictures.items():
        assert (tmp_path / "images" / name).read_bytes() == picture


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    text = written(tmp_path, "training_step")
    assert "<!-- results: training_step -->\n\nNot measured yet.\n\n<!-- end" in text
    assert not list((tmp_path / "images").iterdir())


@pytest.mark.parametrize(("ratio", "cell"), [(1.7, "**1.70×**"), (1.69, "1.69×")])
def test_bold_is_what_reaches_its_goal(ratio: float, cell: str) -> None:
    table = page.table([row("a step", {"ours": side(10), "peer": side(5, ratio, 1.7)})])
    assert f"| {cell} | 1.7× |" in table


def test_without_goals_the_last_column_is_empty_and_there_is_no_picture(tmp_path: Path) -> None:
    step = row("a step", {"ours": side(10), "peer": side(5, 2)})
    write(tmp_path / "results", "avx2", "training_step", step)
    assert "| a step | 10 tokens/s | peer: 5 tokens/s | 2.00× |  |" in written(
        tmp_path, "training_step"
    )
    assert not (tmp_path / "images" / "ratios.svg").exists()


def test_what_is_done_once_is_told_in_seconds_and_by_its_name() -> None:
    once = row("training", {"Muon": side(0.02), "AdamW": side(0.01, 2)}, amount=1)
    assert "| training | Muon: 50 s | AdamW: 100 s |" in page.table([once])
    once = row("start of finetune", {"finetune": side(0.5), "import torch": side(1, 0.5)}, amount=1)
    assert "| start of finetune | 2 s | import torch: 1 s |" in page.table([once])


def test_the_footnote_has_the_spread_and_each_check_once() -> None:
    rows = [{**STEP, "checks": ["the same loss"]}, {**STEP, "checks": ["the same loss", "more"]}]
    spread = "Spread: ours −10 % to +20 %, peers −10 % to +20 %."
    note = page.footnote(rows)
    assert note == f"<sub>Medians of 3 rounds. {spread} Checked: the same loss; more.</sub>"


def test_one_round_has_no_spread() -> None:
    once = {"ours": side(1) | {"seconds": [1.0]}, "peer": side(1, 1) | {"seconds": [1.0]}}
    assert page.footnote([row("a step", once)]) == "<sub>1 round.</sub>"
    assert page.footnote([row("a step", once), STEP]).startswith("<sub>Medians of 1 to 3 rounds.")


def test_figures_that_are_asked_for_are_columns() -> None:
    rows = [
        row("one", {}, figures={"peak memory, MiB": 1234, "share (float32), goal 1": 0.5}),
        row("two", {}, figures={"share (float32)": 0.25, "another": 1}),
        row("three", {}, figures={"another": 1}),
    ]
    assert page.figures(rows, ["share", "peak", "none"]).splitlines() == [
        "| work | share (float32) | peak memory, MiB |",
        "| --- | --- | --- |",
        "| one | 0.5 | 1,234 |",
        "| two | 0.25 |  |",
    ]
    assert page.figures(rows, ["none"]) == ""


def test_figures_with_a_goal_have_lines_of_their_own() -> None:
    rows = [row("one", {}, figures={"share, goal at least 0.48": 0.5, "another": 1})]
    assert page.limits(rows).splitlines()[2:] == ["| one | share | 0.5 | at least 0.48 |"]
    assert page.limits([STEP]) == ""


def test_the_picture_has_a_line_for_a_work_on_all_kinds(tmp_path: Path) -> None:
    for name, dtype in (("avx2", "float32"), ("avx512-bf16", "bfloat16")):
        sides = {"ours": side(10), f"Hugging Face, {dtype}": side(5, 2, 1.3)}
        write(tmp_path, name, "generation", row("a prompt", sides), row("no goal", {}))
    points = list(page.ratios(page.read(tmp_path, "generation").values()))
    assert points == [
        ("a prompt / Hugging Face", "avx2", 2, 1.3),
        ("a prompt / Hugging Face", "avx512-bf16", 2, 1.3),
    ]
    assert page.works(points) == ["a prompt / Hugging Face"]


def test_what_a_benchmark_records_is_what_the_page_reads(tmp_path: Path) -> None:
    sides = {"ours": Timing([1.0, 2.0, 4.0], []), "peer": Timing([4.0, 4.0, 4.0], [])}
    measured = Row("a step", 100, "tokens", sides, {"peer": 1.5}, ["alike"], {"share": 0.5})
    record("training_step", [measured], results=tmp_path / "results")
    text = written(tmp_path, "training_step")
    assert f"**{kind()}**: " in text
    assert "| a step | 50 tokens/s | peer: 25 tokens/s | **2.00×** | 1.5× |" in text
    assert "Spread: ours −50 % to +100 %, peers −0 % to +0 %. Checked: alike." in text


def test_the_page_of_the_repository_is_up_to_date(tmp_path: Path) -> None:
    text = (ROOT / page.PAGE).read_text()
    (tmp_path / "page.md").write_text(text)
    page.write(tmp_path / "page.md", images=tmp_path / "images")
    assert (tmp_path / "page.md").read_text() == text
