"""``source: package_docs``: the docstrings of installed Python packages as a corpus.

It needs no network: the packages are on every machine with this project. Their source files are
parsed with ``ast`` and never imported.
"""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    PackagePath,
    distribution,
    version,
)
from operator import attrgetter
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from gpt2.core.errors import UserError
from gpt2.core.params import Params, Positive

Kind = Literal["class", "method", "property", "function"]
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

SKIPPED = re.compile(
    r"tests?|testing|_testing|conftest|test_.*|.*_test"  # tests
    r"|_?vendor(ed)?(_packages)?|externals?|_?extern|_?third_party"  # vendored code
    r"|_?array_api_(compat|extra).*|cobyqa|pyprima|_uarray"
)
"""Names of files and directories (without ``.py``) with tests or vendored code."""
SIGNATURE_LENGTH = 160
"""Largest number of characters: some signatures are longer than their documentation."""


class PackageDocsCorpus(Params):
    """One document for each documented class or function of the installed packages."""

    source: Literal["package_docs"]
    packages: Annotated[list[str], Field(min_length=1)]
    """Distribution names for ``pip``: ``scikit-learn``, not ``sklearn``."""
    limit: Positive | None = None
    """Keep at most this many documents, drawn by the hash of their names."""
    max_document_tokens: Positive | None = None
    """Stage tokenize truncates longer documents to this many tokens. The signature and the summary
    of a class or function come first."""


@dataclass(frozen=True)
class DocumentedObject:
    """A class or function with a docstring, from its source file."""

    name: str
    """With module (and class): ``numpy.linalg._linalg.norm``."""
    package: str
    """Its distribution: ``numpy``."""
    kind: Kind
    parameters: str
    """Names and defaults, ``x, ord=None``, no annotations; those of ``__init__`` for a class."""
    docstring: str
    """Without the indentation in the source file."""
    public: bool
    """Whether neither its name nor that of a class around it is private. The name of its module may
    be private."""

    @property
    def bare_name(self) -> str:
        """The last part of the name: ``norm``."""
        return self.name.rpartition(".")[2]

    @property
    def signature(self) -> str:
        """``def pandas.core.frame.DataFrame.to_csv(self, path)  # data frame, to csv``.

        The comment has the name, and that of its class, in words, as descriptions do: a small model
        copies what it has seen letter by letter. At most `SIGNATURE_LENGTH` characters precede it.
        """
        keyword = "class" if self.kind == "class" else "def"
        scope, _, name = self.name.rpartition(".")
        owners = [scope] if self.kind in ("method", "property") else []
        words = ", ".join(name_as_words(part) for part in [*owners, name])
        return f"{keyword} {self.name}({self.parameters})"[:SIGNATURE_LENGTH] + f"  # {words}"

    @property
    def text(self) -> str:
        """The object as a document: signature, then docstring."""
        return f"{self.signature}\n{self.docstring}"


def documented_objects(packages: Iterable[str], key: str) -> list[DocumentedObject]:
    """All documented objects of ``packages``, each docstring once, in the order of their names.

    The result depends only on the versions of the packages. Of several objects with the same
    docstring, the public one whose name sorts first is kept.

    Args:
        packages: names of distributions.
        key: the parameter that lists them, for messages.

    Raises:
        UserError: a package is not installed or has no Python source.
    """
    everything: list[DocumentedObject] = []
    for package in sorted(set(packages)):
        try:
            found = _objects_of(package)
        except PackageNotFoundError:
            raise UserError(
                f"{key}: package '{package}' is not installed. Correct its name, remove it, or "
                f"run: python -m pip install {package}"
            ) from None
        if not found:
            raise UserError(
                f"{key}: package '{package}' has no documented Python source. Remove it"
            )
        everything += found
    everything.sort(key=lambda item: (not item.public, item.name), reverse=True)
    return sorted({item.docstring: item for item in everything}.values(), key=attrgetter("name"))


def source_bytes(packages: Iterable[str]) -> int:
    """Bytes that `documented_objects` would parse, from the file lists of the packages.

    Raises:
        UserError: a package is not installed.
    """
    try:
        found = [distribution(package) for package in sorted(set(packages))]
    except PackageNotFoundError as error:
        raise UserError(f"package '{error.name}' is not installed") from None
    return sum(file.size or 0 for package in found for _, file in _modules(package))


def name_as_words(name: str) -> str:
    """The last part of a name as lower-case words.

    >>> name_as_words("numpy.linalg.matrix_rank"), name_as_words("sklearn.svm.LinearSVC")
    ('matrix rank', 'linear svc')
    """
    words = re.findall(r"[A-Z0-9]+(?![a-z])|[A-Z]?[a-z0-9]+", name.rpartition(".")[2])
    return " ".join(words).lower()


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of each package."""
    return {package: version(package) for package in sorted(set(packages))}


@cache  # corpus and instructions usually use the same packages
def _objects_of(package: str) -> tuple[DocumentedObject, ...]:
    by_name: dict[str, DocumentedObject] = {}
    for module, file in _modules(distribution(package)):
        for item in _documented(_parsed(file.read_binary()), module, package):
            by_name.setdefault(item.name, item)
    return tuple(by_name.values())


def _modules(package: Distribution) -> Iterator[tuple[str, PackagePath]]:
    """Dotted name and file of each module in a distribution's RECORD, sorted by path."""
    for file in sorted(package.files or []):
        parts = PurePosixPath(file).with_suffix("").parts
        if file.suffix != ".py" or not all(map(str.isidentifier, parts)):
            continue
        if any(map(SKIPPED.fullmatch, parts)):
            continue
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def _parsed(source: bytes) -> list[ast.stmt]:
    """The statements of a module; none if it is not Python of this version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes in strings
        try:
            return ast.parse(source).body
        except SyntaxError:
            return []


def _documented(
    body: list[ast.stmt], scope: str, package: str, in_class: bool = False, in_public: bool = True
) -> Iterator[DocumentedObject]:
    """Objects in the body of a module or class. Functions inside functions are not included."""
    for node in _definitions(body):
        name = f"{scope}.{node.name}"
        public = in_public and not node.name.startswith("_")
        docstring = ast.get_docstring(node)
        if docstring:
            kind = _kind(node, in_class)
            yield DocumentedObject(name, package, kind, _parameters(node), docstring, public)
        if isinstance(node, ast.ClassDef):
            yield from _documented(node.body, name, package, in_class=True, in_public=public)


def _definitions(body: list[ast.stmt]) -> Iterator[Definition]:
    """Classes and functions, also those under ``if`` and ``try``."""
    for node in body:
        if isinstance(node, Definition):
            yield node
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions(node.body + node.orelse)


def _kind(node: Definition, in_class: bool) -> Kind:
    if isinstance(node, ast.ClassDef):
        return "class"
    if not in_class:
        return "function"
    decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    return "property" if "property" in decorators else "method"


def _parameters(node: Definition) -> str:
    if isinstance(node, ast.ClassDef):
        inits = [item for item in _definitions(node.body) if item.name == "__init__"]
        return _parameters(inits[0]).removeprefix("self").removeprefix(", ") if inits else ""
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return ast.unparse(node.args)
