"""Checks of what a profile reads: files, packages, downloads, a checkpoint and the judge."""

import sys
from collections.abc import Sequence
from pathlib import Path

from gpt2.core.errors import UserError
from gpt2.data.fetching import http_client
from gpt2.data.sources import local_files
from gpt2.data.sources.local_files import FileCorpus, FileInstructions
from gpt2.evaluation.judge.backends.judges import open_judge
from gpt2.evaluation.judge.params import FileModel, JudgeParams, LlamaCppParams, LlamaEvalParams
from gpt2.pipeline.checks.check import Check, installed_version, output_of

NETWORK_SECONDS = 5


def judge(params: JudgeParams, evaluation: LlamaEvalParams, root: Path) -> Check:
    """The judge's server has the model; or, for llama.cpp, its file exists."""
    if isinstance(params, LlamaCppParams):
        if isinstance(params.model, FileModel):
            path = root / params.model.file
            remedy = "Put the file there, or correct judge.model.file"
            return Check("judge", path.is_file(), f"{path}", remedy)
        return Check("judge", True, f"llama.cpp in this process, {params.model.wheel}")
    try:
        found = open_judge(params, root, evaluation)
    except (UserError, ImportError) as error:
        return Check("judge", False, f"{params.backend}: {params.model}", str(error))
    return Check("judge", True, f"{params.backend}: {params.model}, {found.digest[:12]}")


def package_index(wheel: str) -> Check:
    """The package index that pip is configured with has the wheel, such as ``a-wheel==1.2``."""
    name, _, version = wheel.partition("==")
    listed = output_of(
        *(sys.executable, "-m", "pip", "index", "versions", name),
        *("--no-input", "--disable-pip-version-check", "--retries=0"),
        f"--timeout={NETWORK_SECONDS}",
    )
    remedy = "Check the network and: python -m pip config list"
    if not listed:
        return Check("package index", False, f"does not provide {name}", remedy)
    found = version in listed.replace(",", " ").split()
    finding = f"has {wheel}" if found else f"has {name}, but not {version}"
    return Check("package index", found, finding, remedy)


def address(url: str) -> Check:
    """A server answers at ``url`` and has the file."""
    import requests

    name = "download"
    remedy = "Check the network, the address in the parameters, and HF_ENDPOINT"
    try:
        shown = http_client.redacted(url)
        answer = requests.head(
            url, timeout=NETWORK_SECONDS, allow_redirects=True, proxies=http_client.proxies(url)
        )
    except requests.RequestException as error:
        return Check(name, False, f"{shown}: {type(error).__name__}", remedy)
    except ValueError as error:
        return Check(name, False, f"not a valid address ({error})", remedy)
    except UserError as error:
        return Check(name, False, shown, str(error))
    finding = f"{shown}: status {answer.status_code}"
    # 405: the server does not answer HEAD requests.
    return Check(name, answer.status_code < 400 or answer.status_code == 405, finding, remedy)


def own_files(source: FileCorpus | FileInstructions, root: Path) -> Check:
    """The user's own files exist; their content is not read."""
    try:
        local_files.load_rows(source, root)
    except UserError as error:
        return Check("own files", False, source.path, str(error))
    return Check("own files", True, source.path)


def installed(packages: Sequence[str]) -> Check:
    """The distributions that the profile names are installed, in any version."""
    missing = [name for name in packages if not installed_version(name)]
    finding = f"missing: {', '.join(missing)}" if missing else f"{', '.join(packages)} installed"
    return Check("sources", not missing, finding, f"python -m pip install {' '.join(missing)}")


def checkpoint(directory: Path) -> Check:
    """The model directory that the profile starts from is complete."""
    complete = all((directory / name).is_file() for name in ("config.json", "model.safetensors"))
    remedy = "Correct gpt2_weights.path: the directory needs config.json and model.safetensors"
    return Check("checkpoint", complete, str(directory), remedy)
