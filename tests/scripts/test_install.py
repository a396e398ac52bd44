"""Installing PyTorch: a real pip in a new environment, with package indices on this machine."""

import os
import re
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.deps import ROOT
from scripts.install import CPU_INDEX, SIZES, announcement, index_for, pinned
from tests.file_server import serving

BARE = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
BARE |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
BARE |= {"NO_PROXY": "127.0.0.1"}


def write_wheel(directory: Path, name: str, version: str, requires: str = "") -> None:
    """Write an empty package; ``requires`` is a line of its metadata."""
    directory.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"{metadata}{requires}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


class Environment:
    """A new virtual environment, a project that needs torch 9.9 and another package, and indices.

    ``cpu`` has torch 9.9+cpu. ``plain`` has torch 9.9, which depends on a missing package, and the
    other package.
    """

    def __init__(self, directory: Path) -> None:
        self.python = directory / "venv" / "bin" / "python"
        self.requirements = directory / "requirements.txt"
        self.indices = directory / "indices"
        subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
        self.requirements.write_text("other==1.0\ntorch==9.9\n")
        for place in ("cpu/torch", "wheels", "http:/torch.invalid/whl/torch"):
            write_wheel(self.indices / place, "torch", "9.9+cpu", "Requires-Dist: other")
        write_wheel(self.indices / "old" / "torch", "torch", "9.8+cpu")
        write_wheel(self.indices / "plain" / "torch", "torch", "9.9", "Requires-Dist: nvidia-none")
        write_wheel(self.indices / "plain" / "other", "other", "1.0")

    def install(self, index: str, **variables: str) -> list[str]:
        """The lines that the script prints; pip's begin with capitals."""
        command = [self.python, "-m", "scripts.install", "--index", index, self.requirements]
        process = subprocess.run(
            command, cwd=ROOT, env=BARE | variables, capture_output=True, text=True
        )
        assert (process.returncode, process.stderr) == (0, "")
        return process.stdout.splitlines()

    def pip(self, *arguments: str | Path, **variables: str) -> str:
        command = [self.python, "-m", "pip", *arguments]
        process = subprocess.run(command, env=BARE | variables, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stdout

    def packages(self) -> list[str]:
        return self.pip("freeze").splitlines()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("install"))


@pytest.fixture
def environment(made: Environment) -> Iterator[Environment]:
    yield made
    made.pip("uninstall", "--yes", "torch", "other")


@pytest.fixture(scope="module")
def server(made: Environment) -> Iterator[str]:
    with serving(made.indices) as address:
        yield address


def program(directory: Path, text: str) -> str:
    """A PATH with this shell script as ``nvidia-smi``."""
    file = directory / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return f"{directory}:/bin:/usr/bin"


def test_torch_comes_from_its_index_and_other_packages_from_the_plain_one(environment, server):
    plain = {"PIP_INDEX_URL": f"{server}/plain"}
    lines = environment.install(f"{server}/cpu", **plain)
    assert lines[0] == announcement(f"{server}/cpu", "Linux", "x86_64")
    assert environment.packages() == ["torch==9.9+cpu"]
    environment.pip("install", "-r", environment.requirements, **plain)
    assert environment.packages() == ["other==1.0", "torch==9.9+cpu"]
    assert environment.install("http://127.0.0.1:9") == []  # already installed


@pytest.mark.parametrize("directory", ["cpu", "wheels"])
def test_a_directory_is_an_index(environment, directory):
    environment.install(str(environment.indices / directory), PIP_QUIET="1")
    assert environment.packages() == ["torch==9.9+cpu"]


def test_the_users_proxy_is_used(environment, server):
    environment.install(
        "http://torch.invalid/whl", PIP_PROXY=server, PIP_TRUSTED_HOST="torch.invalid"
    )
    assert environment.packages() == ["torch==9.9+cpu"]


def fallen_back(environment: Environment, index: str) -> str:
    """The reason in the note about an unusable index; the installation continues."""
    note, announced = environment.install(index)
    assert announced.startswith("packages: ")
    assert environment.packages() == []
    match = re.fullmatch(r"note: (.*); installing PyTorch from pip's default index", note)
    assert match
    return match[1]


def test_an_unusable_index_is_reported_in_one_line(environment, server):
    assert fallen_back(environment, f"{server}/none") == "127.0.0.1 cannot be read"
    assert fallen_back(environment, f"{server}/old") == (
        "127.0.0.1 has no torch 9.9 for this Python"
    )
    assert fallen_back(environment, "no/such/place").startswith("no/such/place ")


def test_an_index_that_refuses_or_is_silent_costs_seconds_and_shows_no_password(environment):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://me:secret@127.0.0.1:{silent.getsockname()[1]}/cpu"
        assert fallen_back(environment, index) == "127.0.0.1 cannot be read"
    assert fallen_back(environment, index) == "127.0.0.1 cannot be read"


def test_the_plain_index_can_be_chosen(environment):
    [announced] = environment.install("plain")
    assert announced.startswith("packages: ")
    assert environment.packages() == []


@pytest.mark.parametrize(
    ("system", "machine", "driver", "index"),
    [
        ("Linux", "x86_64", "exit 9", CPU_INDEX),
        ("Linux", "x86_64", "echo No devices found.", CPU_INDEX),
        ("Linux", "x86_64", "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'", None),
        ("Linux", "aarch64", "exit 9", CPU_INDEX),
        ("Linux", "aarch64", "echo 'GPU 0: NVIDIA GH200 (UUID: GPU-1)'", None),
        ("Linux", "riscv64", "exit 9", None),
        ("Darwin", "arm64", "exit 9", None),
        ("Windows", "ARM64", "exit 9", None),
    ],
)
def test_the_cpu_build_is_for_linux_without_an_nvidia_gpu(
    system, machine, driver, index, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", program(tmp_path, driver))
    assert index_for("", system, machine) == index
    assert index_for("cpu", system, machine) == CPU_INDEX
    assert index_for("plain", system, machine) is None
    assert index_for("http://here/whl", system, machine) == "http://here/whl"


def test_without_a_driver_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert index_for("", "Linux", "x86_64") == CPU_INDEX
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF, but not for this machine")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert index_for("", "Linux", "x86_64") == CPU_INDEX


@pytest.mark.parametrize(
    ("index", "system", "machine", "build"),
    [
        (CPU_INDEX, "Linux", "x86_64", "PyTorch's CPU build"),
        (None, "Linux", "aarch64", "PyTorch with CUDA"),
        (None, "Darwin", "arm64", "PyTorch for macOS"),
        (None, "Windows", "AMD64", "PyTorch's CPU build"),
        ("http://here/whl", "Linux", "x86_64", "without PyTorch"),
    ],
)
def test_sizes_depend_on_the_build(index, system, machine, build):
    download, disk = SIZES[build]
    assert announcement(index, system, machine) == (
        f"packages: at most {download} GB to download, {disk} GB on disk ({build})"
    )


def test_the_pin_is_the_one_in_the_requirements(tmp_path):
    files = [ROOT / "requirements.txt", ROOT / "requirements.in"]
    assert len({pinned(file) for file in files}) == 1
    (tmp_path / "requirements.txt").write_text("torchvision==1.0\n")
    with pytest.raises(SystemExit, match=r"has no line torch=="):
        pinned(tmp_path / "requirements.txt")


@pytest.mark.parametrize("given", ["argument", "variable"])
@pytest.mark.parametrize("target", [".venv/run", "lock"])
def test_make_passes_the_index(given, target, tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    argument = ["TORCH_INDEX=/a b"] if given == "argument" else []
    variables = {} if given == "argument" else {"TORCH_INDEX": "/a b"}
    command = ["make", "-n", target, *argument]
    environment = {key: value for key, value in os.environ.items() if "MAKE" not in key}
    dry = subprocess.run(
        command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True
    )
    own, *_ = [line for line in dry.stdout.splitlines() if "scripts.install" in line]
    assert own.startswith(".venv/bin/python -m scripts.install --index '/a b'")
    assert dry.stdout.index(own) < dry.stdout.index("pip install -r requirements.")


def test_the_lock_is_the_same_for_every_build():
    [expression] = re.findall(r"sed ('/\^pip==.*')$", (ROOT / "Makefile").read_text(), re.M)
    frozen = (
        "cuda-bindings==13.5.0\nnvidia-cublas==13.1.1.3\npip==26.3\n"
        "torch==2.13.0{}\ntriton==3.7.1\nzipp==4.1.2\n"
    )
    for build in ("", "+cpu", "+cu126"):
        process = subprocess.run(
            ["sh", "-c", f"sed {expression.replace('$$', '$')}"],
            input=frozen.format(build),
            capture_output=True,
            text=True,
        )
        assert process.stdout == "torch==2.13.0\nzipp==4.1.2\n"
