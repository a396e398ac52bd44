"""What the README tells people to type and to open exists."""

import re

import pytest

from scripts.deps import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_it_opens_with_the_two_commands() -> None:
    first = README.index("```sh")
    assert README[first:].splitlines()[1].startswith("make run")
    assert README[first:].splitlines()[2].startswith("make test")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z]+)", README))))
def test_make_targets_exist(target: str) -> None:
    assert target in TARGETS


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (scripts\.\w+)", README))))
def test_modules_exist(module: str) -> None:
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
