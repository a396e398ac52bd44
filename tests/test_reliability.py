"""docs/reliability.md names tests that are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def test_the_tests_of_the_promises_exist() -> None:
    file, named = "", 0
    for name in re.findall(r"`([\w/]*(?:\.py)?(?:::\w+)?)`", PAGE.read_text(encoding="utf-8")):
        path, _, function = name.partition("::")
        if path.endswith(".py"):
            file = path
            assert (TESTS / file).is_file(), f"{file} is not there"
        if function:
            named += 1
            source = (TESTS / file).read_text(encoding="utf-8")
            assert f"def {function}(" in source, f"{file} has no {function}"
    assert named > 10
