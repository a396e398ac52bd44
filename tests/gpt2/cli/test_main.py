"""The command as a whole: help, usage errors, exit statuses, and how fast it starts."""

import os
import re
import subprocess
import sys

from gpt2.cli.main import main
from tests.gpt2.cli.command import ENVIRONMENT, PIPES, run, start


def test_wrong_usage_ends_with_2(smiling):
    for arguments in (
        ["generate", "--prompt", "a"],
        ["generate", "--model", smiling, "--prompt", "a", "--top-p", "0"],
        ["export", "--model", smiling, "--to", "onnx", "--output", "x"],
        ["sing"],
    ):
        assert run(*arguments).exit_code == 2


def test_every_command_shows_examples():
    for name in main.commands:
        assert re.search(rf"^ +gpt2 {name} --", run(name, "--help").stdout, re.M)
    for status in ("0    success", "1    failure", "2    wrong", "130  ", "143  "):
        assert re.search(rf"^ +{status}", run("--help").stdout, re.M)


def test_help_and_completion_import_nothing_heavy():
    code = (
        "import sys; from gpt2.cli.main import main\n"
        "try: main(prog_name='gpt2')\n"
        "finally: print('LOADED', *sorted({'torch', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    for arguments, settings, expected in (
        (["--help"], {}, "_GPT2_COMPLETE=bash_source"),
        (["generate", "--help"], {}, "--max-new-tokens"),
        (
            [],
            {"_GPT2_COMPLETE": "bash_complete", "COMP_WORDS": "gpt2 ge", "COMP_CWORD": "1"},
            "generate",
        ),
        (
            [],
            {"_GPT2_COMPLETE": "bash_complete", "COMP_WORDS": "gpt2 chat --se", "COMP_CWORD": "2"},
            "--seed",
        ),
    ):
        process = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**ENVIRONMENT, **settings},
            capture_output=True,
            text=True,
            check=True,
        )
        *shown, loaded = process.stdout.splitlines()
        assert loaded.split() == ["LOADED"]
        assert any(expected in line for line in shown)


TALK = ("--max-new-tokens", 8000)


def test_sigterm_ends_with_143(endless):
    process = start("generate", "--model", endless, "--prompt", "Talk.", *TALK, **PIPES)
    assert os.read(process.stdout.fileno(), 1)
    process.terminate()
    _, err = process.communicate()
    assert (process.returncode, err) == (143, b"")
