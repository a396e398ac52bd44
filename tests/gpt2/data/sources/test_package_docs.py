"""Documentation of packages: one made here, which cannot be imported, and numpy."""

import inspect
import sys
from pathlib import Path

import numpy
import pytest

from gpt2.core.errors import UserError
from gpt2.data.sources.package_docs import documented_objects, name_as_words, package_versions

SOURCES = {
    "gadget/__init__.py": '"""A module."""\nraise RuntimeError("imported")\n',
    "gadget/core.py": '''
import absent

class Box(absent.Base):
    """Hold things."""

    def __init__(self, size: int = 3, *, lid="on"):
        """Make an empty box."""

    def open(self) -> None:
        """Open it.

        Ways:
            by hand
        """

    @property
    def size(self):
        """Things that fit in."""

    def undocumented(self):
        pass

if absent.FAST:
    def pack(things: list[int] = [], /, *rest: int, **options: str) -> Box:
        """Put things into a box."""
        def inner():
            """Be of no use outside."""
else:
    def pack(things):
        """Put things into a box, slowly."""

class _Hidden:
    """Be private."""

    def show(self):
        """Be private as well."""

async def a_twin():
    """Be said twice."""

def _a_private_twin():
    """Be said twice."""
''',
    "gadget/old.py": 'print "not Python 3"\n',
    "gadget/latin.py": b'# coding: latin-1\ndef umlaut():\n    """Gr\xfc\xdfe."""\n',
    "gadget/tests/helpers.py": 'def helper():\n    """Help a test."""\n',
    "gadget/_vendor/other.py": 'def theirs():\n    """Be vendored."""\n',
    "gadget/conftest.py": 'def fixture():\n    """Be a fixture."""\n',
    "gadget/my-script.py": 'def main():\n    """Be no module."""\n',
}


def install(site: Path, name: str, sources: dict[str, str | bytes]) -> None:
    for path, source in sources.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(source if isinstance(source, bytes) else source.encode())
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in sources))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_documented_objects_of_a_package(site: Path) -> None:
    install(site, "gadget-kit", SOURCES)
    objects = documented_objects(["gadget-kit", "gadget-kit"], "corpus.packages")
    assert [(item.kind, item.signature, item.public) for item in objects] == [
        ("class", "class gadget.core.Box(size=3, *, lid='on')  # box", True),
        ("method", "def gadget.core.Box.__init__(self, size=3, *, lid='on')  # box, init", False),
        ("method", "def gadget.core.Box.open(self)  # box, open", True),
        ("property", "def gadget.core.Box.size(self)  # box, size", True),
        ("class", "class gadget.core._Hidden()  # hidden", False),
        ("method", "def gadget.core._Hidden.show(self)  # hidden, show", False),
        ("function", "def gadget.core.a_twin()  # a twin", True),
        ("function", "def gadget.core.pack(things=[], /, *rest, **options)  # pack", True),
        ("function", "def gadget.latin.umlaut()  # umlaut", True),
    ]
    assert objects[2].text == f"{objects[2].signature}\nOpen it.\n\nWays:\n    by hand"
    assert objects[-1].docstring == "Grüße."
    assert {item.package for item in objects} == {"gadget-kit"}
    assert "gadget" not in sys.modules
    assert package_versions(["gadget-kit"]) == {"gadget-kit": "1.2"}


def test_docstrings_are_those_that_python_itself_gives() -> None:
    objects = {item.name: item for item in documented_objects(["numpy"], "corpus.packages")}
    for function in (numpy.linalg.norm, numpy.average, numpy.polynomial.Polynomial.fit):
        code = inspect.unwrap(function)
        home = sys.modules[code.__module__].__name__
        names = [name for name in objects if name.endswith(f".{code.__qualname__}")]
        docstrings = [objects[name].docstring for name in names]
        assert inspect.getdoc(function) in docstrings, (home, names)
    assert len(objects) > 1500
    assert not [name for name in objects if ".tests." in name]


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(UserError, match=r"^corpus\.packages: package 'nympy' is not installed"):
        documented_objects(["numpy", "nympy"], "corpus.packages")


def test_a_package_without_documented_source(site: Path) -> None:
    install(site, "silent", {"silent.py": "def f():\n    pass\n"})
    with pytest.raises(UserError, match=r"^instructions\.packages: package 'silent' has no"):
        documented_objects(["silent"], "instructions.packages")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("numpy.linalg.matrix_rank", "matrix rank"),
        ("sklearn.tree.DecisionTreeClassifier", "decision tree classifier"),
        ("http.HTTPServer", "http server"),
        ("torch.nn.Conv2d", "conv2d"),
        ("pandas.DataFrame.to_csv", "to csv"),
        ("sklearn.svm.LinearSVC", "linear svc"),
        ("A.__init__", "init"),
        ("sin", "sin"),
    ],
)
def test_name_as_words(name, words):
    assert name_as_words(name) == words
