"""Text that every machine with this project already holds: the docstrings of its own libraries.

The sources of the installed packages are parsed with ``ast`` and never imported.
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
"""Parts of a path (without ``.py``) that hold tests or other projects' vendored code."""
SIGNATURE_LENGTH = 160
"""Some signatures are longer than all that is said about them."""


class PackageDocsCorpus(Params):
    """One document for each documented class or function of some installed packages."""

    source: Literal["package_docs"]
    packages: Annotated[list[str], Field(min_length=1)]
    """Distribution names, as ``pip`` knows them: ``scikit-learn``, not ``sklearn``."""
    limit: Positive | None = None
    """Keep at most this many documents, drawn by the hash of their names."""
    max_document_tokens: Positive | None = None
    """Stage tokenize cuts longer documents after so many tokens: of a class or function the
    signature and the summary come first."""


@dataclass(frozen=True)
class DocumentedObject:
    """A class or function with a docstring, as its source states it."""

    name: str
    """Qualified by module (and class): ``numpy.linalg._linalg.norm``."""
    package: str
    """The distribution that holds it: ``numpy``."""
    kind: Kind
    parameters: str
    """Names and defaults, ``x, ord=None``, no annotations; those of ``__init__`` for a class."""
    docstring: str
    """Without the indentation of its source."""
    public: bool
    """Whether neither it nor a class around it has a private name; its module may have one."""

    @property
    def bare_name(self) -> str:
        """The last part of the name: ``norm``."""
        return self.name.rpartition(".")[2]

    @property
    def signature(self) -> str:
        """``def pandas.core.frame.DataFrame.to_csv(self, path)  # data frame, to csv``.

        The comment spells the name, and that of its class, in words, as descriptions do: a small
        model copies what it has seen letter by letter. Before it stand at most `SIGNATURE_LENGTH`
        characters.
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

    The result depends on the versions of the packages alone. Of several objects with one docstring
    the public one whose name sorts first is kept.

    Raises:
        UserError: a package is not installed or has no Python source; it names ``key``, the
            parameter that lists the packages.
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
    """The length of all that `documented_objects` would parse, by the packages' own lists.

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


@cache  # corpus and instructions are mostly made from the same packages
def _objects_of(package: str) -> tuple[DocumentedObject, ...]:
    by_name: dict[str, DocumentedObject] = {}
    for module, file in _modules(distribution(package)):
        for item in _documented(_parsed(file.read_binary()), module, package):
            by_name.setdefault(item.name, item)
    return tuple(by_name.values())


def _modules(package: Distribution) -> Iterator[tuple[str, PackagePath]]:
    """Dotted name and file of each module that a distribution's RECORD lists, sorted by path."""
    for file in sorted(package.files or []):
        parts = PurePosixPath(file).with_suffix("").parts
        if file.suffix != ".py" or not all(map(str.isidentifier, parts)):
            continue
        if any(map(SKIPPED.fullmatch, parts)):
            continue
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def _parsed(source: bytes) -> list[ast.stmt]:
    """The statements of a module; none if it is no Python, or that of a newer version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes in other people's strings
        try:
            return ast.parse(source).body
        except SyntaxError:
            return []


def _documented(
    body: list[ast.stmt], scope: str, package: str, in_class: bool = False, in_public: bool = True
) -> Iterator[DocumentedObject]:
    """Objects of a module's or class's body; functions inside functions are nobody's interface."""
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
