"""Checks of what a profile reads, on real servers and files."""

from pathlib import Path

import pytest

from gpt2.data.sources.local_files import FileCorpus
from gpt2.evaluation.judge.params import LlamaEvalParams, OllamaParams, OpenAIParams
from gpt2.pipeline.checks import sources
from tests.fake_ollama import serving_ollama
from tests.file_server import serving

EVALUATION = LlamaEvalParams()


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
        assert sources.package_index("a-wheel==1.2").finding == "has a-wheel==1.2"
        assert sources.package_index("a-wheel==1.3").finding == "has a-wheel, but not 1.3"
    monkeypatch.setenv("PIP_INDEX_URL", f"{nobody}/simple")
    assert sources.package_index("a-wheel==1.2").verdict == "problem"


def test_addresses(tmp_path: Path, nobody: str) -> None:
    (tmp_path / "data.json").touch()
    with serving(tmp_path) as url:
        assert sources.address(f"{url}/data.json").works
        missing = sources.address(f"{url}/other.json?token=secret")
    assert (missing.verdict, missing.finding) == ("problem", f"{url}/other.json?***: status 404")
    assert sources.address(nobody).finding == f"{nobody}: ConnectionError"
    assert not sources.address("http://[").works


@pytest.mark.parametrize(
    ("model", "verdict", "words"), [("llama3", "works", ""), ("qwen", "problem", "ollama pull")]
)
def test_ollama_and_its_model(tmp_path: Path, model: str, verdict: str, words: str) -> None:
    with serving_ollama() as server:
        params = OllamaParams(backend="ollama", model=model, host=server.address)
        check = sources.judge(params, EVALUATION, tmp_path)
    assert check.verdict == verdict
    assert words in check.remedy


def test_unavailable_judges(tmp_path: Path, nobody: str) -> None:
    ollama = OllamaParams(backend="ollama", host=nobody)
    assert "Start it: ollama serve" in sources.judge(ollama, EVALUATION, tmp_path).remedy
    ollama = OllamaParams(backend="ollama", host="ftp://x")
    assert "is not an address" in sources.judge(ollama, EVALUATION, tmp_path).remedy
    for variable in (None, "NO_SUCH_KEY"):
        openai = OpenAIParams(backend="openai", model="m", base_url=nobody, api_key_env=variable)
        assert sources.judge(openai, EVALUATION, tmp_path).verdict == "problem"


def test_what_the_profile_names(tmp_path: Path) -> None:
    here, gone = (FileCorpus(source="file", path=path) for path in ("corpus.txt", "*.md"))
    (tmp_path / "corpus.txt").write_text("text")
    assert sources.own_files(here, tmp_path).works
    assert "no file matches" in sources.own_files(gone, tmp_path).remedy
    assert sources.installed(["numpy", "click"]).works
    assert sources.installed(["numpy", "no-such"]).remedy == "python -m pip install no-such"
    assert not sources.checkpoint(tmp_path).works
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    assert sources.checkpoint(tmp_path).works
