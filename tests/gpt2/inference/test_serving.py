"""A served model over real HTTP: it answers what `gpt2 generate` and `gpt2 chat` print."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from click.testing import CliRunner

from gpt2.cli.main import main
from gpt2.data.instructions import prompt
from scripts.deps import ROOT
from tests.our_model import write_our_model

EXACT = ("--dtype", "float32", "--device", "cpu")
WAIT = 120
"""Seconds; far more than any request takes."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    return write_our_model(place, prompt("Say it.", "Voilà"), context_length=160, seed=5)


@contextmanager
def server(command: Sequence[object], temporary: Path) -> Iterator["subprocess.Popen[str]"]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(temporary),
        # As in an active environment: `mlflow models serve` calls uvicorn by its name.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    # SIGINT is ignored when the tests run as a background job.
    attend = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(
        list(map(str, command)),
        env=environment,
        preexec_fn=attend,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def serve(model: Path, *options: object) -> list[object]:
    return [sys.executable, "-m", "gpt2.cli.main", "serve", "--model", model, "--port", 0, *options]


def address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout and process.stderr
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, line + process.stderr.read()
    return found[0]


NESTED = {"prompt": {"prompt": "Say"}}
WRONG_RECORDS: list[object] = [
    *({"prompt": value} for value in (5, 1.5, True, ["Say"], {"text": "Say"}, None)),
    *("Say", 5, None, ["Say"], {}, {"text": "Say"}, {"Prompt": "Say"}, {"question": "What?"}),
    {"prompt": "Say", "colour": "red"},
    {"prompt": "Say", "instruction": "Say it."},
    {"prompt": "Say", "input": "Voilà"},
    {"input": "Voilà"},
    {"instruction": None},
    {"instruction": "Say it.", "input": 5},
    {"prompt": "\ud800"},
]
WRONG_VALUES: list[object] = [
    *(
        [],
        {},
        "Say",
        5,
        None,
        True,
        ["Say"],
        ["Say", "it"],
        [["Say"]],
        [5],
        [None],
        {"text": "Say"},
    ),
    *({"text": ["Say"]}, NESTED, {"prompt": 5}, [[{"prompt": "Say"}]]),
]
WRONG_COLUMNS: list[object] = [
    {"prompt": []},
    {"prompt": [5]},
    {"prompt": [["Say"]]},
    {"prompt": ["Say"], "text": ["Say"]},
    {"instruction": ["Say it.", "Say"], "input": ["Voilà"]},
    {"instruction": "Say it.", "input": ["Voilà"]},
]
WRONG_TABLES: list[object] = [
    {"columns": ["text"], "data": [["def"], ["class"]]},
    {"columns": ["prompt"], "data": []},
    {"columns": ["prompt"], "data": [[5]]},
    {"columns": ["prompt"], "data": [["Say", "it"]]},
    {"columns": ["prompt", "text"], "data": [["Say", "it"]]},
    {"columns": ["prompt", "prompt"], "data": [["Say", "it"]]},
    {"columns": "prompt", "data": [["Say"]]},
    {"columns": ["prompt"]},
    {"data": [["Say"]]},
]
WRONG_PARAMS: list[object] = [
    *({"temperature": value} for value in (-1.0, 1e7, "0.5", [0.5], 10**400)),
    *({"top_k": "many"}, {"max_new_tokens": 0}, {"max_new_tokens": 1.5}, {"seed": -1}),
    *({"top_p": 0}, {"min_p": 2}, {"repetition_penalty": 0.0}, {"strict": "yes"}),
    *({"stop": "a"}, {"stop": [""]}, {"stop": [1]}, {"num_return_sequences": 2}, [], "greedy", 5),
]


def post(url: str, body: object) -> requests.Response:
    headers = {"Content-Type": "application/json"}
    return requests.post(f"{url}/invocations", json.dumps(body), headers=headers, timeout=WAIT)


def ask(url: str, records: list[dict[str, str]], **params: object) -> requests.Response:
    return post(url, {"dataframe_records": records, "params": params})


def generated(model: Path, text: str, *options: object) -> str:
    arguments = ["generate", "--model", model, "--prompt", text, *EXACT, *options]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_answers_are_those_of_generate(model: Path, tmp_path: Path) -> None:
    with server(serve(model, *EXACT), tmp_path) as process:
        url = address(process)
        assert requests.get(f"{url}/ping", timeout=WAIT).status_code == 200
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(process.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening == ["127.0.0.1"]

        records = [{"prompt": "Say"}, {"instruction": "Say it.", "input": "Voilà"}, {"prompt": ""}]
        answer = ask(url, [*records, {"instruction": "Say it."}], max_new_tokens=9)
        texts = ["Say", prompt("Say it.", "Voilà"), "", prompt("Say it.", "")]
        expected = [generated(model, text, "--max-new-tokens", 9) for text in texts]
        assert answer.json() == {"predictions": expected}
        assert len(set(expected)) == 4

        sampling: dict[str, Any] = {"temperature": 1.5, "top_k": 90, "top_p": 0.95, "seed": 7}
        sampling |= {"min_p": 0.01, "repetition_penalty": 1.1, "max_new_tokens": 9}
        options = [part for key, value in sampling.items() for part in (f"--{key}", value)]
        options = [str(part).replace("_", "-") for part in options]
        answer = ask(url, [{"prompt": "Say"}], **sampling)
        one = generated(model, "Say", *options)
        assert answer.json() == {"predictions": [one]}

        answer = ask(url, [{"prompt": "Say"}] * 2, **sampling, num_return_sequences=3)
        three = generated(model, "Say", *options, "--num-return-sequences", 3).split("\n---\n")
        assert answer.json() == {"predictions": three * 2}
        assert three[0] == one
        stop = generated(model, "Say", "--max-new-tokens", 9)[2:4]
        answer = ask(url, [{"prompt": "Say"}], max_new_tokens=9, stop=["never there", stop])
        expected = [generated(model, "Say", "--max-new-tokens", 9, "--stop", stop)]
        assert answer.json() == {"predictions": expected}

        # Longer than the context: its end is used, as by `gpt2 generate`, or it is refused.
        long = [{"prompt": "a " * 400}]
        assert ask(url, long, max_new_tokens=2).json() == {
            "predictions": [generated(model, "a " * 400, "--max-new-tokens", 2)]
        }
        refused = ask(url, long, strict=True)
        assert refused.status_code == 400
        assert "the prompt has 401 tokens, and the model's context 160" in refused.json()["message"]

        for temperature in (5e-324, 1e-40):
            answer = ask(url, [{"prompt": "Say"}], temperature=temperature, max_new_tokens=9)
            assert answer.json() == {"predictions": [generated(model, "Say", *options[-2:])]}

        check_forms(url, generated(model, "Say", "--max-new-tokens", 9), complete=True)
        check_refusals(url, REFUSED)
        check_refusals(url, REFUSED_BEFORE_MLFLOW)

        process.terminate()
        assert process.wait(WAIT) == 143
        assert process.stderr
        [warning] = process.stderr.read().splitlines()
        assert "the prompt has 401 tokens, and the model's context 160: only its end" in warning
    assert not list(tmp_path.glob("tmp*"))


def check_forms(url: str, expected: str, complete: bool) -> None:
    """All forms that MLflow's server accepts; ``complete``: also those of `CheckedRequests`."""
    record = {"prompt": "Say"}
    bodies: list[dict[str, Any]] = [
        {"dataframe_records": [record]},
        {"dataframe_records": [{**record, "instruction": None, "input": None}]},
        {"dataframe_split": {"columns": ["prompt"], "data": [["Say"]]}},
        {
            "dataframe_split": {
                "columns": ["input", "prompt"],
                "index": [7],
                "data": [[None, "Say"]],
            }
        },
        {"inputs": [record]},
        {"inputs": {"prompt": ["Say"]}},
        {"inputs": record},
        {"instances": [record]},
        {"instances": {"prompt": ["Say"]}},
    ]
    for body in bodies:
        answer = post(url, {**body, "params": {"max_new_tokens": 9}})
        assert (answer.status_code, answer.text) == (200, json.dumps({"predictions": [expected]}))
    answer = post(url, {**record, "max_new_tokens": 9})
    assert answer.json() == ({"predictions": [expected]} if complete else [expected])
    mixed = [record, {"instruction": "Say it.", "input": "Voilà"}, {"instruction": "Say it."}]
    for form in ("dataframe_records", "inputs", *(["instances"] if complete else [])):
        answer = post(url, {form: mixed, "params": {"max_new_tokens": 1}})
        assert len(answer.json()["predictions"]) == 3
    headers = {"Content-Type": "text/csv; charset=utf-8"}
    for text in ("prompt\nSay\n", "prompt,instruction\nSay,\n", *(["prompt\n42\n"] * complete)):
        answer = requests.post(f"{url}/invocations", text, headers=headers, timeout=WAIT)
        assert answer.status_code == 200, answer.text


FORMS = ("dataframe_records", "inputs", "instances")
REFUSED: list[object] = [
    *({form: value} for form in (*FORMS, "dataframe_split") for value in WRONG_VALUES),
    *({form: [record]} for form in FORMS for record in WRONG_RECORDS),
    *({form: [{"prompt": "Say"}, record]} for form in FORMS[:2] for record in WRONG_RECORDS),
    *({form: columns} for form in ("inputs", "instances") for columns in WRONG_COLUMNS),
    *({"dataframe_split": table} for table in WRONG_TABLES),
    *({"dataframe_records": [{"prompt": "Say"}], "params": params} for params in WRONG_PARAMS),
    [{"prompt": "Say"}],
    ["Say"],
    "Say",
    5,
    None,
    {},
    {"data": [{"prompt": "Say"}]},
    {"prompt": 5},
    {"input": "Say"},
    {"messages": [{"role": "user", "content": "Say"}]},
    {"dataframe_records": [{"prompt": "Say"}], "inputs": [{"prompt": "Say"}]},
]
REFUSED_BEFORE_MLFLOW: list[object] = [
    {"dataframe_records": [{"prompt": "Say"}], "params": {"max_tokens": 5}},
    {"dataframe_records": [{"prompt": "Say"}], "max_new_tokens": 5},
    {"dataframe_records": [{"prompt": "Say"}], "parameters": {"max_new_tokens": 5}},
    {"instances": [{"instruction": "Say it."}, {"input": "Voilà"}]},
    *({"instances": [{"prompt": "Say"}, record]} for record in WRONG_RECORDS),
    *({form: {"prompt": ["Say", 5]}} for form in ("inputs", "instances")),
    {"dataframe_split": {"columns": ["prompt"], "data": ["Say"]}},
]
"""MLflow's own parser drops or mixes up the invalid parts of these."""


def check_refusals(url: str, bodies: list[object]) -> None:
    answered = []
    for body in bodies:
        answer = post(url, body)
        if answer.status_code != 400 or len(answer.json()["message"]) < 20:
            answered.append((body, answer.text))
    assert not answered


def test_malformed_requests_are_refused(model: Path, tmp_path: Path) -> None:
    with server(serve(model, *EXACT), tmp_path) as process:
        url = address(process)
        good = b'{"dataframe_records": [{"prompt": "Say"}], "params": {"max_new_tokens": 1}}'
        kind = "application/json"
        for body in (b"", b"{", b"\xff", b"[" * 100_000, good[:-1], b"NaN", good + b"a"):
            answer = requests.post(
                f"{url}/invocations", body, headers={"Content-Type": kind}, timeout=WAIT
            )
            assert (answer.status_code, "message" in answer.json()) == (400, True), body
        for body in (
            b"",
            b"text\nSay\n",
            b"prompt\n",
            b"\xff\n",
            b'prompt\n"Say\n',
            b"prompt,prompt\na,b\n",
        ):
            answer = requests.post(
                f"{url}/invocations", body, headers={"Content-Type": "text/csv"}, timeout=WAIT
            )
            assert (answer.status_code, "message" in answer.json()) == (400, True), body
        for other, status in ((None, 400), ("text/plain", 415), (f"{kind}; charset=latin-1", 415)):
            headers = {"Content-Type": other} if other else {}
            answer = requests.post(f"{url}/invocations", good, headers=headers, timeout=WAIT)
            assert answer.status_code == status
        for spelling in ("Application/JSON", f"{kind};charset=UTF-8", f"{kind}; charset=utf-8"):
            headers = {"Content-Type": spelling}
            answer = requests.post(f"{url}/invocations", good, headers=headers, timeout=WAIT)
            assert answer.status_code == 200


def test_a_timed_out_request_does_not_block_the_next(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "2")
    with server(serve(model, *EXACT), tmp_path) as process:
        url = address(process)
        assert ask(url, [{"prompt": "Say"}], max_new_tokens=10**6).status_code == 504
        assert ask(url, [{"prompt": "Say"}], max_new_tokens=1).status_code == 200


def test_ctrl_c_ends_it_and_a_taken_port_is_one_message(model: Path, tmp_path: Path) -> None:
    with server(serve(model, *EXACT), tmp_path) as process:
        port = address(process).rpartition(":")[2]
        arguments = ["serve", "--model", str(model), "--port", port]
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"error: 127.0.0.1, port {port}: Address already in use" in result.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 130


def test_mlflow_serves_the_package(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "export" / "mlflow"
    arguments = ["package", "--model", str(model), "--output", str(output), *EXACT]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert f"mlflow models serve -m {output} --env-manager local" in result.stderr
    assert [path.name for path in output.parent.iterdir()] == ["mlflow"]
    assert not [path for path in output.rglob("*") if path.suffix in (".pkl", ".pickle")]
    assert CliRunner().invoke(main, arguments).exit_code == 1  # nothing is overwritten

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", output]
    options = ["--env-manager", "local", "--port", port, "--workers", 1]
    with server([*command, *options], tmp_path) as process:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + WAIT
        while True:
            try:
                assert requests.get(f"{url}/ping", timeout=WAIT).status_code == 200
                break
            except requests.ConnectionError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
        answer = ask(url, [{"prompt": "Say"}], max_new_tokens=9)
        expected = [generated(model, "Say", "--max-new-tokens", 9)]
        assert answer.json() == {"predictions": expected}
        check_forms(url, *expected, complete=False)
        check_refusals(url, REFUSED)
        for child in psutil.Process(process.pid).children(recursive=True):
            child.terminate()


def test_a_directory_without_a_model_is_not_packaged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    (tmp_path / "model.safetensors").touch()
    output = tmp_path / "package"
    arguments = ["package", "--model", str(tmp_path), "--output", str(output)]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, output.exists()) == (1, False)
    assert "config.json.n_layer: missing" in result.stderr
