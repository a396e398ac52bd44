"""The stage: figures are those of the files, text of models is escaped, runs are compared."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpt2.core import files
from gpt2.report import formats
from gpt2.report.answers import item_scores
from gpt2.report.inputs import read
from gpt2.report.machine import Machine
from gpt2.report.page import render
from stages.report import main
from tests.gpt2.report import small_run

ARGUMENTS = ["--responses-dir", "data/responses", "--judgements-dir", "data/judgements"]
PAGE = Path("reports/report.html")
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """The text of each section by id, all tags with their attributes; checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {"header": ""}
        self._open: list[str] = []
        self._section = "header"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
            self.sections[self._section] = ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            text = f"{self.sections[self._section]} {data}".replace(formats.NARROW_SPACE, " ")
            self.sections[self._section] = " ".join(text.split())

    def close(self) -> None:
        super().close()
        assert self._open == []


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    return page


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def report() -> Result:
    return CliRunner().invoke(main, ARGUMENTS)


def sections() -> dict[str, str]:
    result = report()
    assert result.exit_code == 0, result.output
    return parse(PAGE.read_text(encoding="utf-8")).sections


def change(path: Path, **values: Any) -> None:
    """Change keys at the top of a JSON file."""
    files.write_json(path, files.read_json(path) | values)


def scores(values: dict[str, float]) -> Iterator[str]:
    for value in values.values():
        yield f"{value:.1f}"


def test_all_figures_are_those_of_the_metrics_files(place):
    small_run.write_run(place)
    page = sections()
    metrics = small_run.metrics()
    judged = metrics["llama3_eval"]
    expected: dict[str, list[str]] = {
        "header": ["1.414", "23.1", "2.718", "4.669", "24.5", "7.4", "61.7", "43.3", "tiny"],
        "stages": [
            "4,321 documents, 777 instructions",
            "12.3 M training tokens, 3.22 bytes per token",
            "4.27 M parameters, 1.414 bits per byte",
            "not used",
            "4.669 → 2.718",
            "40 test records",
            "finetuned 61.7, base 43.3; judge not trusted",
            "5 min 46 s",
            "total 6 min 59 s",
            "12.3 s",
        ],
        "learning": ["3.142", "23.1", "1.414", "2.718", "4.669", "9,801"],
        "scores": ["20 records", "+5.8 chrF compared with the best trivial answer"],
        "judge": ["33.3", "77.7", "0.31", "0.85 is needed", "+18.4", "+7.3 to +29.1", "20", "10"],
        "cost": ["6 min 59 s", "1.95 M", "5,432 tokens/s", "1.24 M", "778 MiB", "in pretrain"],
        "parameters": ["finetune.lr 0.002", 'finetune.prompts ["a", "b"]', "max_records null"],
    }
    for kind in metrics["generate_responses"]["by_kind"].values():
        for answerer, values in kind.items():
            if answerer != "n":
                row = f"{answerer.replace('_', ' ')} {' '.join(scores(values))}"
                expected["scores"].append(row)
    for variant in ("finetuned", "base", "reference", "shuffled"):
        own = judged[variant]
        row = f"{variant} {own['mean']:.1f} {own['median']:.1f} {own['n_total']} {own['scored']}"
        expected["judge"].append(row)
    for name, figures in expected.items():
        for figure in figures:
            assert figure in page[name], f"{figure!r} is not in section {name}: {page[name]}"


def test_the_path_is_the_last_line_and_the_first_report_has_nothing_to_compare_with(place):
    small_run.write_run(place)
    result = report()
    assert result.output.splitlines()[-1] == str(PAGE)
    assert (
        "nothing to compare it with" in parse(PAGE.read_text(encoding="utf-8")).sections["change"]
    )
    assert [path.name for path in PAGE.parent.iterdir()] == ["report.html"]


def test_a_trusted_judge_changes_the_headline_and_the_ranking(place):
    small_run.write_run(place)
    page = sections()
    assert "The judge’s score, 61.7 of 100, is not trusted" in page["header"]
    assert "prefers wrong answers to right ones" in page["judge"]
    assert "ranked by chrF, as no judge is trusted" in page["extremes"]
    assert "100.0 chrF" in page["extremes"]
    small_run.write_run(place, trusted=True)
    page = sections()
    assert "scores 61.7 of 100, the base model 43.3, and the judge is trusted" in page["header"]
    assert "It tells right answers from wrong ones" in page["judge"]
    assert "+29.1: significant" in page["judge"]
    assert "ranked by the score of the trusted judge" in page["extremes"]
    best = max(row["score"] for row in small_run.judgements() if row["variant"] == "finetuned")
    assert f"{best:.1f} judge" in page["extremes"]


def test_text_of_models_is_escaped_and_complete(place):
    small_run.write_run(place)
    evil = "<script>alert(1)</script> {{ 7 * 7 }} </p></main> \"' onload=x & é 漢字 \u202eabc"
    rows = small_run.responses()
    for row in rows:
        row |= {"finetuned": evil, "base": evil, "reference": evil + str(row["id"])}
        row |= {"instruction": evil, "input": evil, "kind": f"<b>{row['kind']}"}
    small_run.write_rows(place / "data/responses", "responses.jsonl", rows)
    small_run.write_params(place, profile=evil, evil={evil: evil})
    result = report()
    assert result.exit_code == 0, result.output
    html = PAGE.read_text(encoding="utf-8")
    page = parse(html)
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert "49" not in page.sections["answers"]
    assert " ".join(evil.split()) in page.sections["answers"]
    assert " ".join(evil.split()) in page.sections["parameters"]
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_the_page_loads_nothing(place):
    small_run.write_run(place)
    sections()
    html = PAGE.read_text(encoding="utf-8")
    page = parse(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert tag not in {"link", "script", "img", "iframe"}
        for name in ("src", "srcset", "data", "href"):
            target = attributes.get(name)
            assert target is None or target.removeprefix("#") in ids
    assert not re.search(r"https?://|@import|url\(", html)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert html.startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("missing", "section", "words"),
    [
        ("data/judgements/manifest.json", "judge", "Invalid Errors"),
        ("data/responses/manifest.json", "answers", "Not available yet: the responses"),
        ("data/responses/manifest.json", "extremes", "Not available yet: enough responses"),
        ("data/responses/manifest.json", "lengths", "dvc repro generate-responses"),
        ("metrics/generate_responses.json", "scores", "Not available yet: the scores"),
        ("metrics/generate_responses.json", "header", "has no answers yet"),
        ("metrics/llama3_eval.json", "header", "The answers have not been judged yet"),
        ("metrics/llama3_eval.json", "judge", "Not available yet: the summary"),
        ("metrics/tokenize.json", "stages", "tokenize no results yet"),
        ("data/runs/speed/tokenize.json", "stages", "bytes per token not run here –"),
        ("plots/pretrain.csv", "learning", "Not available yet: the curve"),
    ],
)
def test_missing_files_are_mentioned_in_their_section(place, missing, section, words):
    small_run.write_run(place)
    (place / missing).unlink()
    assert words in sections()[section]


def test_a_report_after_the_first_stage(place):
    small_run.write_run(place)
    for path in [*place.glob("plots/*"), *place.glob("data/*/manifest.json")]:
        path.unlink()
    for path in place.glob("**/*.json"):
        if path.name != "download.json":
            path.unlink()
    page = sections()
    assert "4,321 documents" in page["stages"]
    for name in ("learning", "answers", "scores", "judge", "extremes", "lengths"):
        assert "Not available yet" in page[name]
    assert "Time 12.3 s" in page["cost"]


def test_without_any_output_the_error_says_what_to_do(place):
    small_run.write_params(place)
    result = report()
    assert result.exit_code == 1
    assert "nothing to report" in result.output
    assert "dvc repro" in result.output
    assert not PAGE.exists()


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("metrics/pretrain.json", '{"val_loss": "3"}', "metrics/pretrain.json.val_loss: Input"),
        ("metrics/finetune.json", "{", "metrics/finetune.json: not valid JSON"),
        ("plots/finetune.csv", "step,loss\n1,x\n", "plots/finetune.csv: not a table of numbers"),
        ("data/responses/responses.jsonl", "{}", "damaged"),
    ],
)
def test_damaged_input_is_named_and_the_old_page_is_kept(place, path, content, message):
    small_run.write_run(place)
    sections()
    before = PAGE.read_bytes()
    (place / path).write_text(content)
    result = report()
    assert result.exit_code == 1
    assert message in result.output
    assert PAGE.read_bytes() == before


def test_a_second_run_is_compared_with_the_first(place):
    small_run.write_run(place)
    sections()
    small_run.write_run(place, finetune={"lr": 0.004, "epochs": 3})
    change(place / "metrics/finetune.json", val_loss=2.5, train_records=9000)
    rows = small_run.judgements(shift=3)
    small_run.write_rows(place / "data/judgements", "judgements.jsonl", rows, judge="digest")
    page = sections()["change"]
    for words in (
        "finetune.lr 0.002 0.004",
        "finetune.epochs – 3",
        'finetune.prompts ["a", "b"] –',
        "finetune.val_loss 2.718 2.500 −0.218 better",
        "1 other changed metrics",
        "finetune.train_records 9,801 9,000 −801",
        "The difference is significant: +3.0, 95% confidence interval +3.0 to +3.0.",
        "both runs were scored on the same 20 records",
        "The judge is not trusted",
        "The difference is not significant: +0.0, 95% confidence interval +0.0 to +0.0.",
    ):
        assert words in page, f"{words!r} is not in {page}"
    again = sections()["change"]
    assert again == page
    snapshots = list((place / "data/runs/reports").iterdir())
    assert len(snapshots) == 2
    assert max(path.stat().st_size for path in snapshots) < 10_000


def test_other_records_and_another_judge_are_pointed_out(place):
    small_run.write_run(place)
    sections()
    rows = [row | {"input": f"def g{row['id']}()"} for row in small_run.responses()[:30]]
    small_run.write_rows(place / "data/responses", "responses.jsonl", rows)
    small_run.write_rows(
        place / "data/judgements", "judgements.jsonl", small_run.judgements(), judge="other"
    )
    page = sections()["change"]
    assert "The judge or its settings changed" in page
    assert "Judge’s score" not in page
    assert "Unpaired bootstrap" in page
    assert "40 before and 30 now" in page
    assert "No parameter changed" in page


def test_a_fixed_time_gives_the_same_page(place):
    small_run.write_run(place)
    machine = Machine("0123456789abcdef", True, {"python": "3.11.7"}, "a processor, 2 cores")

    def page() -> str:
        inputs = read(
            small_run.STAGES,
            Path("params.yaml"),
            Path("metrics"),
            Path("plots"),
            Path("data/runs/speed"),
            Path("data/responses"),
            Path("data/judgements"),
        )
        by_item = item_scores(inputs.responses, inputs.judgements)
        now = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
        return render(inputs, by_item, {"a": 1}, None, machine, now)

    first = page()
    assert page() == first
    header = parse(first).sections["header"]
    assert "2030-01-02 03:04 +0000" in header
    assert "0123456789ab , with uncommitted changes" in header


def test_snapshots_are_in_the_repository_even_if_the_stage_runs_in_a_copy(place, monkeypatch):
    repository, copy = place / "repository", place / "copy"
    small_run.write_run(copy)
    repository.mkdir()
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(repository))
    assert report().exit_code == 0
    (snapshot,) = (repository / "data/runs/reports").iterdir()
    assert json.loads(snapshot.read_text())["params"]["finetune.lr"] == 0.002
    assert (copy / PAGE).is_file()
