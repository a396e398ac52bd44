"""A served model over real HTTP: what it answers is what `gpt2 generate` and `gpt2 chat` print."""

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
import torch
from click.testing import CliRunner

from gpt2 import weights
from gpt2.cli import main
from gpt2.instructions import prompt
from gpt2.model import GPT2, GPT2Config
from gpt2.tokenizer import train_bpe
from scripts.deps import ROOT

EXACT = ("--dtype", "float32", "--device", "cpu")
WAIT = 120
"""Seconds; far more than any step takes."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    torch.manual_seed(5)
    tokenizer = train_bpe([prompt("Say it.", "Voilà")] * 2, 340)
    (place / "tokenizer").mkdir()
    tokenizer.save(place / "tokenizer")
    model = GPT2(GPT2Config(vocab_size=340, context_length=160, n_layer=1, n_head=2, n_embd=32))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    weights.save(model, place / "model", place / "tokenizer", tokenizer.end_of_text, {})
    return place / "model"


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
    # Whoever runs the tests in the background may have had SIGINT ignored.
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
    return [sys.executable, "-m", "gpt2.cli", "serve", "--model", model, "--port", 0, *options]


def address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout and process.stderr
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, line + process.stderr.read()
    return found[0]


def ask(url: str, records: list[dict[str, str]], **params: object) -> requests.Response:
    body = {"dataframe_records": records, "params": params}
    return requests.post(f"{url}/invocations", json=body, timeout=WAIT)


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
        options = [part for key, value in sampling.items() for part in (f"--{key}", value)]
        options = [str(part).replace("_", "-") for part in options]
        answer = ask(url, [{"prompt": "Say"}], **sampling)
        assert answer.json() == {"predictions": [generated(model, "Say", *options)]}

        for record, params, message in (
            ({"prompt": "a", "instruction": "b"}, {}, "either a prompt, or an instruction"),
            ({"input": "b"}, {}, "either a prompt, or an instruction"),
            ({"prompt": "a " * 400}, {}, "the prompt has "),
            ({"prompt": "a"}, {"temperature": -1.0}, "params.temperature: "),
            ({"prompt": "a"}, {"top_k": "many"}, "'top_k'"),
        ):
            refused = ask(url, [record], **params)
            assert refused.status_code == 400
            assert message in refused.json()["message"]

        process.terminate()
        assert (process.wait(WAIT), process.stderr.read() if process.stderr else "") == (143, "")
    assert not list(tmp_path.glob("tmp*"))


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
        for child in psutil.Process(process.pid).children(recursive=True):
            child.terminate()


def test_a_directory_without_a_model_is_packaged_by_nobody(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    (tmp_path / "model.safetensors").touch()
    output = tmp_path / "package"
    arguments = ["package", "--model", str(tmp_path), "--output", str(output)]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, output.exists()) == (1, False)
    assert "config.json.n_layer: missing" in result.stderr
