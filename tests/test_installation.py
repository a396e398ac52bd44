"""The installed package: complete, usable outside of the repository, and no obstacle to a copy."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile
from pathlib import Path

import pytest

from scripts.deps import ROOT
from tests.hugging_face import write_checkpoint

CPU = ("--device", "cpu", "--dtype", "float32")


def run(*command: object, cwd: Path, status: int = 0, **settings: str) -> str:
    """What a program prints on standard output and standard error until it ends with ``status``."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**environment, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status, done.stdout
    return done.stdout.strip()


def pip(*arguments: object, cwd: Path) -> str:
    options = ("--quiet", "--no-index", "--no-deps")
    return run(sys.executable, "-m", "pip", *arguments, *options, cwd=cwd)


def source_tree(place: Path) -> Path:
    """A copy of what an installation reads, so that building leaves nothing in the repository."""
    for name in ("src", "stages"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, place / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, place)
    return place


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    original = source_tree(place / "original")
    pip("wheel", original, "--no-build-isolation", "--wheel-dir", place, cwd=place)
    [built] = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def gpt2(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command ``gpt2`` of an environment with the wheel and this environment's dependencies.

    Python runs no .pth files in a directory that a .pth file names, so the editable install in this
    environment stays out.
    """
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    [site] = place.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python = place / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--quiet", "--no-index", "--no-deps", wheel),
        cwd=place,
    )
    found = run(python, "-c", "import gpt2; print(gpt2.__file__)", cwd=place)
    assert found == str(site / "gpt2" / "__init__.py")
    return place / "bin" / "gpt2"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_checkpoint(directory, n_positions=512)
    return directory


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    wanted = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "gpt2").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"gpt2/report/page.html.jinja", "gpt2/report/page.css"} < wanted
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == wanted


def test_help_works_anywhere(gpt2: Path, tmp_path: Path) -> None:
    assert run(gpt2, "--version", cwd=tmp_path).startswith("gpt2, version ")
    shown = run(gpt2, "--help", cwd=tmp_path)
    assert "Usage: gpt2 " in shown
    assert run(gpt2.with_name("python"), "-m", "gpt2.cli", "--help", cwd=tmp_path) == shown
    assert not list(tmp_path.iterdir())


def test_models_work_anywhere(gpt2: Path, model: Path, tmp_path: Path) -> None:
    asked = ("--max-new-tokens", 5, *CPU, "--model", model)
    source = (sys.executable, "-m", "gpt2.cli")
    command = ("generate", "--prompt", "Say", *asked)
    continuation = run(gpt2, *command, cwd=tmp_path)
    assert continuation
    assert run(*source, *command, cwd=tmp_path, PYTHONPATH=str(ROOT / "src")) == continuation

    output = tmp_path / "model.gguf"
    shown = run(gpt2, "export", "--model", model, "--to", "gguf", "--output", output, cwd=tmp_path)
    assert f"wrote {output}" in shown
    assert output.stat().st_size > 1000


def test_chat_works_anywhere(gpt2: Path, model: Path, tmp_path: Path) -> None:
    command = [gpt2, "chat", "--max-new-tokens", "5", *CPU, "--model", model]
    answers = subprocess.run(
        command, cwd=tmp_path, input="Say it.\n", capture_output=True, text=True, check=True
    )
    assert answers.stdout.strip()
    assert answers.stderr == ""


def test_a_server_works_anywhere(gpt2: Path, model: Path, tmp_path: Path) -> None:
    command = [gpt2, "serve", "--port", "0", *CPU, "--model", model]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            address = server.stdout.readline().split()[-1]
            body = json.dumps({"dataframe_records": [{"prompt": "Say"}]}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(address, data=body, headers=headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer)
        finally:
            server.terminate()


@pytest.mark.parametrize("command", ["validate", "doctor"])
def test_commands_about_the_pipeline_say_that_they_need_it(
    gpt2: Path, tmp_path: Path, command: str
) -> None:
    shown = run(gpt2, command, cwd=tmp_path, status=1)
    assert shown == (
        "error: no params.yaml here. Run this command in the repository of the pipeline, or name a "
        "parameter file"
    )


def test_a_parameter_file_can_be_checked_anywhere(gpt2: Path, tmp_path: Path) -> None:
    path = ROOT / "profiles" / "smoke.yaml"
    shown = run(gpt2, "validate", "--no-estimates", path, cwd=tmp_path)
    assert shown == f"{path}: valid, profile smoke"


def test_a_copy_of_the_repository_runs_its_own_code(tmp_path: Path) -> None:
    """As `dvc exp run --temp` runs ``python -m stages...`` in a copy."""
    original = source_tree(tmp_path / "original")
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    target = tmp_path / "editable"
    pip(
        *("install", "--no-build-isolation", "--target", target, "--editable", original),
        cwd=tmp_path,
    )
    code = "import site, sys; site.addsitedir(sys.argv[1]); {}import gpt2; print(gpt2.__file__)"
    for place, first, expected in (
        (tmp_path, "", original),
        (original, "import stages; ", original),
        (copy, "import stages; ", copy),
    ):
        # -S: the environment of this test has an editable install of its own.
        found = run(sys.executable, "-S", "-c", code.format(first), target, cwd=place)
        assert found == str(expected / "src" / "gpt2" / "__init__.py")
