"""Each check where what it looks for is there, and where it is not; on real servers and files."""

import re
import sqlite3
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from gpt2.core.device import DeviceParams
from gpt2.core.processor import instruction_sets
from gpt2.data.sources.local_files import FileCorpus
from gpt2.evaluation.judge.params import LlamaEvalParams, OllamaParams, OpenAIParams
from gpt2.pipeline import doctor
from gpt2.pipeline.doctor import Check, Needs
from tests.fake_ollama import serving_ollama
from tests.file_server import serving
from tests.gpt2.evaluation.judge.servers import free_port

EVALUATION = LlamaEvalParams()


@pytest.fixture(scope="module")
def nobody() -> str:
    """An address where nothing answers."""
    return f"http://127.0.0.1:{free_port()}"


def needs(root: Path, **changes: object) -> Needs:
    corpus = root / "corpus.txt"
    corpus.write_text("text")
    values: dict[str, object] = {
        "wheels": [],
        "addresses": [],
        "packages": ["numpy"],
        "checkpoint": None,
        "sources": [FileCorpus(source="file", path="corpus.txt")],
        "judge": OpenAIParams(backend="openai", model="m", base_url="http://127.0.0.1:1/v1"),
        "evaluation": EVALUATION,
        "devices": [DeviceParams()],
        "compiled": False,
        "memory": 1.0,
        "disk": 1.0,
        **changes,
    }
    return Needs(**values)  # type: ignore[arg-type]  # each is what its name says


def git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def test_python_and_the_pinned_packages(tmp_path: Path) -> None:
    assert doctor.python_version().works
    requirements = tmp_path / "requirements.txt"
    assert doctor.pinned_packages(requirements).verdict == "absent"
    requirements.write_text(f"click=={version('click')}\n# remark\n-r other.txt\n")
    assert doctor.pinned_packages(requirements) == Check(
        "packages", True, "1 as pinned", f"python -m pip install -r {requirements}"
    )
    requirements.write_text(f"click=={version('click')}\nnumpy==0.1\nno-such-package==1.0\n")
    check = doctor.pinned_packages(requirements)
    assert check.verdict == "problem"
    assert check.finding.startswith("2 of 3 differ: numpy ")
    assert check.finding.endswith("; no-such-package missing, pinned 1.0")


def test_the_machine() -> None:
    finding = doctor.processor().finding
    assert re.match(r"\d+ core\(s\); .*; native float32(, \w+)*; \d+ thread\(s\); load ", finding)
    assert all(name in finding for name in instruction_sets())
    assert doctor.graphics([DeviceParams(device="cpu")]).verdict in ("works", "absent")
    check = doctor.graphics([DeviceParams(), DeviceParams(device="mps")])
    assert check.verdict == "works" or "mps is not available" in check.remedy


def test_a_busy_and_a_smaller_machine_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        finding = doctor.processor(seconds=1.5).finding
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    assert "; held to " in finding
    assert re.search(r"; others keep \d+\.\d core\(s\) busy", finding)


def test_a_compiler_only_counts_where_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.compiler(needed=False).verdict == "absent"
    assert doctor.compiler(needed=True).verdict == "problem"
    (tmp_path / "g++").touch(mode=0o755)
    assert doctor.compiler(needed=True).verdict == "works"


def test_git_wants_a_commit(tmp_path: Path) -> None:
    assert doctor.git(tmp_path).remedy.startswith("git init && git add .")
    git(tmp_path, "init")
    check = doctor.git(tmp_path)
    assert (check.verdict, check.finding) == ("problem", "no commit here")
    git(tmp_path, "commit", "--allow-empty", "-m", "one")
    assert doctor.git(tmp_path).works


def test_dvc_must_run_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    assert doctor.dvc(tmp_path).finding == "not on the path"
    (programs / "dvc").touch(mode=0o755)
    assert "no DVC repository" in doctor.dvc(tmp_path).finding
    (tmp_path / ".dvc").mkdir()
    assert doctor.dvc(tmp_path).finding == "its stages would run no python at all"
    (programs / "python").write_text("#!/bin/sh\necho /another\n")
    (programs / "python").chmod(0o755)
    assert doctor.dvc(tmp_path).finding == f"its stages would run {programs / 'python'}"
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    assert doctor.dvc(tmp_path).verdict == "works"


def test_the_store_of_mlflow(tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert doctor.store(tmp_path).works
    assert not list(tmp_path.iterdir())  # nothing was made
    sqlite3.connect(tmp_path / "mlflow.db").close()
    assert doctor.store(tmp_path).works
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    check = doctor.store(tmp_path)
    assert (check.verdict, check.finding) == ("absent", "mlflow.db: file is not a database")
    for uri, works in (("off", True), (nobody, False), ("http://[", False)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert doctor.store(tmp_path).works == works
    with serving(tmp_path) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert doctor.store(tmp_path).works


def test_room_on_the_disk_and_in_memory(tmp_path: Path) -> None:
    for needed, works in ((1.0, True), (1e18, False)):
        assert doctor.disk(tmp_path, needed).works == works
        assert doctor.memory(needed, [DeviceParams()]).works == works


def test_the_package_index_that_pip_is_configured_with(
    tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "simple" / "a-wheel"
    project.mkdir(parents=True)
    (project / "a_wheel-1.2-py3-none-any.whl").touch()
    for variable in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    with serving(tmp_path) as url:
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        assert doctor.package_index("a-wheel==1.2").finding == "has a-wheel==1.2"
        assert doctor.package_index("a-wheel==1.3").finding == "has a-wheel, but not 1.3"
    monkeypatch.setenv("PIP_INDEX_URL", f"{nobody}/simple")
    assert doctor.package_index("a-wheel==1.2").verdict == "problem"


def test_addresses(tmp_path: Path, nobody: str) -> None:
    (tmp_path / "data.json").touch()
    with serving(tmp_path) as url:
        assert doctor.address(f"{url}/data.json").works
        missing = doctor.address(f"{url}/other.json?token=secret")
    assert (missing.verdict, missing.finding) == ("problem", f"{url}/other.json?***: status 404")
    assert doctor.address(nobody).finding == f"{nobody}: ConnectionError"
    assert not doctor.address("http://[").works


@pytest.mark.parametrize(
    ("model", "verdict", "words"), [("llama3", "works", ""), ("qwen", "problem", "ollama pull")]
)
def test_ollama_and_its_model(tmp_path: Path, model: str, verdict: str, words: str) -> None:
    with serving_ollama() as server:
        params = OllamaParams(backend="ollama", model=model, host=server.address)
        check = doctor.judge(params, EVALUATION, tmp_path)
    assert check.verdict == verdict
    assert words in check.remedy


def test_judges_that_are_not_there(tmp_path: Path, nobody: str) -> None:
    ollama = OllamaParams(backend="ollama", host=nobody)
    assert "Start it: ollama serve" in doctor.judge(ollama, EVALUATION, tmp_path).remedy
    ollama = OllamaParams(backend="ollama", host="ftp://x")
    assert "is not an address" in doctor.judge(ollama, EVALUATION, tmp_path).remedy
    for variable in (None, "NO_SUCH_KEY"):
        openai = OpenAIParams(backend="openai", model="m", base_url=nobody, api_key_env=variable)
        assert doctor.judge(openai, EVALUATION, tmp_path).verdict == "problem"


def test_what_the_profile_names(tmp_path: Path) -> None:
    here, gone = (FileCorpus(source="file", path=path) for path in ("corpus.txt", "*.md"))
    (tmp_path / "corpus.txt").write_text("text")
    assert doctor.own_files(here, tmp_path).works
    assert "no file matches" in doctor.own_files(gone, tmp_path).remedy
    assert doctor.installed(["numpy", "click"]).works
    assert doctor.installed(["numpy", "no-such"]).remedy == "python -m pip install no-such"
    assert not doctor.checkpoint(tmp_path).works
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    assert doctor.checkpoint(tmp_path).works


def test_an_examination_has_a_line_for_everything(tmp_path: Path, nobody: str) -> None:
    names = [check.name for check in doctor.examine(tmp_path, None)]
    alone = ["Python", "packages", "processor", "GPU", "C++ compiler", "git", "dvc", "MLflow"]
    assert names == alone
    wanted = needs(tmp_path, addresses=[nobody], checkpoint=Path("gpt2"))
    checks = doctor.examine(tmp_path, wanted)
    assert [check.name for check in checks] == [
        *alone,
        *("disk", "memory", "judge", "download", "own files", "sources", "checkpoint"),
    ]
    assert {check.name for check in checks[len(alone) :] if not check.works} == {
        *("judge", "download", "checkpoint"),
    }
