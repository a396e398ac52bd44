"""Real repositories for tests: git, `dvc`, and this code with the smoke profile."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpt2.pipeline import stage as frame
from scripts.deps import ROOT
from tests import yaml12
from tests.tiny_llama import write_tiny_llama

STAGES = [module.replace("_", "-") for module in frame.STAGES]
WITH_RESULTS = [module.replace("_", "-") for module in frame.WITH_RESULTS]
ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "OMP_NUM_THREADS": "1",
    "DVC_NO_ANALYTICS": "1",
    **{f"GIT_{who}_NAME": "Test" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "test@localhost" for who in ("AUTHOR", "COMMITTER")},
}
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT", "PYTHONPATH"):
    ENVIRONMENT.pop(name, None)


class Repository:
    """A directory with git and DVC."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, cwd=self.directory, env=ENVIRONMENT, capture_output=True, text=True
        )

    def call(self, *command: str) -> str:
        """Standard output of a command that succeeds."""
        process = self.run(*command)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    def module(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run ``python -m ...`` with this code, installed or not."""
        return self.run("env", f"PYTHONPATH={ROOT}:{ROOT / 'src'}", "python", "-m", *command)

    def start(self) -> None:
        """Make the directory a repository, without a commit."""
        self.call("git", "init", "--quiet", "--initial-branch=main")
        self.call("dvc", "init", "--quiet")

    def commit(self) -> None:
        self.call("git", "add", "--all")
        self.call("git", "commit", "--quiet", "--allow-empty", "--message", "test")

    def repro(self) -> list[str]:
        """Run the pipeline; return the stages that were not up to date."""
        return started(self.call("dvc", "repro"))

    def json(self, name: str) -> Any:
        return json.loads((self.directory / name).read_text())

    def set(self, key: str, value: object) -> Any:
        """Change one parameter; return its old value."""
        path = self.directory / "params.yaml"
        params = yaml12.loads(path.read_text())
        *sections, last = key.split(".")
        table = params
        for section in sections:
            table = table[section]
        old, table[last] = table[last], value
        path.write_text(yaml12.dumps(params))
        return old


class Pipeline(Repository):
    """A repository with this code and the smoke profile."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.start()
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("src", "stages", "scripts", ".dvc/plots"):
            shutil.copytree(ROOT / name, directory / name, ignore=ignored)
        for name in ("dvc.yaml", "none", "requirements.txt", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, directory / name)
        write_tiny_llama(directory / "judge.gguf")
        shutil.copy(ROOT / "profiles" / "smoke.yaml", directory / "params.yaml")
        self.set("judge.model", {"file": "judge.gguf"})
        self.set("finetune.lr", 0.002)
        self.commit()


def started(output: str) -> list[str]:
    """The stages that ``output`` reports as started."""
    return re.findall(r"^([\w-]+): started$", output, re.MULTILINE)
