"""Instruction records about the documented objects of installed packages.

There are four kinds. ``describe`` and ``name`` have open answers. ``library`` and ``object`` have
short answers that can be checked, with classes of equal size, so that a constant answer scores
little.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from operator import attrgetter
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from gpt2.core.params import Positive
from gpt2.data.records import (
    InstructionRecord,
    Split,
    SplitParams,
    normalised,
    sample,
    sample_records,
    split_of,
)
from gpt2.data.sources.package_docs import DocumentedObject

LARGEST_DRAWN_GROUP = 20
"""Larger groups (every ``fit``) are always for training: one of them would change the fractions."""
SUMMARY_LENGTH = range(15, 201)
"""Characters of a summary that fits on one line of a question or an answer."""
DESCRIPTION_LENGTH = range(40, 301)
"""Characters of a description in a question with a short answer."""
SMALLEST_LIBRARY = 200
"""Number of descriptions from which a package is a possible answer of kind ``library``."""
BALANCED = ("library", "object")
ALIASES = {
    "matplotlib": ("mpl", "plt", "pyplot"),
    "numpy": ("np",),
    "pandas": ("pd",),
    "pyarrow": ("arrow", "pa"),
    "scikit-learn": ("scikit", "sklearn"),
    "scipy": ("sp",),
    "torch": ("pytorch",),
}
"""Other names of a package that give the answer away."""


class PackageDocsInstructions(SplitParams):
    """Records made from the documented objects of installed packages; see `assign_splits`."""

    source: Literal["package_docs"]
    packages: Annotated[list[str], Field(min_length=1)]
    """Distribution names for ``pip``."""
    limit: Positive | None = None
    """Keep at most this many records of each kind, drawn by hash."""


def make_records(
    objects: Sequence[DocumentedObject], params: PackageDocsInstructions
) -> list[InstructionRecord]:
    """Records of all kinds about the public classes, methods and functions among ``objects``."""
    subjects = [item for item in objects if item.public and item.kind != "property"]
    splits = assign_splits(subjects, params)
    records: list[InstructionRecord] = []
    for kind, ask in _kinds(subjects).items():
        made = _unique(
            InstructionRecord(*question, kind, splits[item.name], item.name)
            for item in subjects
            if (question := ask(item))
        )
        if kind in BALANCED:
            made = _balanced(made, params.seed)
        # Not sampled by name: the hash of the name decides the split, so that would prefer
        # held-out records.
        records += sample_records(made, params.limit, params.seed)
    return records


def assign_splits(objects: Iterable[DocumentedObject], params: SplitParams) -> dict[str, Split]:
    """The split of each object, by name.

    Objects with the same summary or bare name (ignoring case and white space) form a group,
    directly or through others. A group has one split. Summaries and bare names are the answers of
    the open kinds, so no function and no open answer occurs in two splits. The split of a group is
    decided by a hash of the seed and the name that sorts first. Groups of more than
    `LARGEST_DRAWN_GROUP` are for training.
    """
    splits: dict[str, Split] = {}
    for names in _groups(objects):
        split: Split = "train"
        if len(names) <= LARGEST_DRAWN_GROUP:
            split = split_of(min(names), params)
        splits |= dict.fromkeys(names, split)
    return splits


def without_held_out(
    objects: Iterable[DocumentedObject],
    asked_about: Iterable[DocumentedObject],
    records: Iterable[InstructionRecord],
) -> list[DocumentedObject]:
    """``objects`` without the subjects of test records and without objects with equal summaries.

    Args:
        objects: candidates for the corpus.
        asked_about: the objects from which ``records`` were made.
        records: instruction records of all splits.
    """
    names = {record.name for record in records if record.split == "test"}
    summaries = {normalised(summary(item)) for item in asked_about if item.name in names}
    return [
        item
        for item in objects
        if item.name not in names and normalised(summary(item)) not in summaries
    ]


def summary(item: DocumentedObject) -> str:
    """The first paragraph of the docstring, as one line without markup."""
    return _plain(re.split(r"\n\s*\n", item.docstring, maxsplit=1)[0])


class _Question(NamedTuple):
    instruction: str
    input: str
    output: str


_Ask = Callable[[DocumentedObject], _Question | None]


def _kinds(objects: Sequence[DocumentedObject]) -> dict[str, _Ask]:
    """For each kind, the function that makes a question about an object, or None."""
    kinds: dict[str, _Ask] = {"describe": _describe, "name": _name, "object": _object}
    packages = {item.package for item in objects}
    usable = Counter(item.package for item in objects if _nameless_description(item, packages))
    choices = sorted(name for name in packages if usable[name] >= SMALLEST_LIBRARY)
    if len(choices) > 1:
        kinds["library"] = lambda item: _library(item, packages, choices)
    return kinds


def _describe(item: DocumentedObject) -> _Question | None:
    answer = summary(item)
    if not _is_one_sentence(answer):
        return None
    question = f"Describe in one line what this Python {item.kind} does."
    return _Question(question, item.signature, answer)


def _name(item: DocumentedObject) -> _Question | None:
    description = summary(item)
    if not _is_one_sentence(description) or _mentions(description, [item.bare_name]):
        return None
    question = f"Suggest a name for the Python {item.kind} with this description."
    return _Question(question, description, item.bare_name)


def _object(item: DocumentedObject) -> _Question | None:
    text = _description(item)
    if len(text) not in DESCRIPTION_LENGTH or _mentions(text, ["self", "cls"]):
        return None
    question = "Is this a class, a method or a function?"
    return _Question(question, f"{item.bare_name}: {text}", item.kind)


def _library(
    item: DocumentedObject, packages: Collection[str], choices: Sequence[str]
) -> _Question | None:
    if item.package not in choices or not (text := _nameless_description(item, packages)):
        return None
    question = f"Which of these libraries has this description: {', '.join(choices)}?"
    return _Question(question, text, item.package)


def _description(item: DocumentedObject) -> str:
    """The beginning of the docstring without markup."""
    longest = DESCRIPTION_LENGTH.stop - 1
    return _cut(_plain(item.docstring[: 4 * longest]), longest)


def _nameless_description(item: DocumentedObject, packages: Iterable[str]) -> str:
    """The description; empty if it has the wrong length or names one of the packages."""
    names = [name for package in packages for name in (package, *ALIASES.get(package, ()))]
    text = _description(item)
    return "" if len(text) not in DESCRIPTION_LENGTH or _mentions(text, names) else text


def _plain(text: str) -> str:
    """Text on one line without reStructuredText markup: ``:class:`~.lines.Line2D``` is Line2D."""
    text = text.replace("`\\s", "s`")  # a plural
    text = re.sub(r":[\w:]+:`[~!.\w]*?([^`<>.]*[^`<>.\s])(?:\s*<[^`]*>)?`", r"\1", text)
    text = re.sub(r"`(?:~(?:[\w.]*\.)?|\.)(\w+)`", r"\1", text)
    return " ".join(text.replace("`", "").split())


def _cut(text: str, length: int) -> str:
    """The first words of ``text``, at most ``length`` characters."""
    return text if len(text) <= length else text[: length + 1].rsplit(maxsplit=1)[0]


def _is_one_sentence(text: str) -> bool:
    return (
        len(text) in SUMMARY_LENGTH
        and text[0].isalpha()
        and " " in text
        and not re.match(r"[\w.]+\(", text)  # a signature
        and not re.search(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)[.!?] +\S", text)
        and not re.search(r">>>|::|:$|-{3}|={3}", text)  # an example, a list, a table
    )


def _mentions(text: str, names: Iterable[str]) -> bool:
    """Whether a name occurs in ``text``, not as a part of a longer word."""
    found = [re.escape(name) for name in names if name.casefold() in text.casefold()]
    pattern = rf"(?<![a-z])({'|'.join(found)})(?![a-z])"
    return bool(found) and re.search(pattern, text, re.IGNORECASE) is not None


def _unique(records: Iterable[InstructionRecord]) -> list[InstructionRecord]:
    """The records without repetitions of question and answer."""
    first: dict[tuple[str, str, str], InstructionRecord] = {}
    for record in records:
        first.setdefault(record[:3], record)
    return list(first.values())


def _balanced(records: Sequence[InstructionRecord], seed: int) -> list[InstructionRecord]:
    """The same number of records for each answer in a split, drawn by hash, in the given order."""
    classes: dict[tuple[str, str], list[InstructionRecord]] = defaultdict(list)
    for record in records:
        classes[record.split, record.output].append(record)
    rarest = {
        split: min(len(same) for (other, _), same in classes.items() if other == split)
        for split, _ in classes
    }
    kept = {
        record
        for (split, _), same in classes.items()
        for record in sample(same, rarest[split], attrgetter("name"), seed)
    }
    return [record for record in records if record in kept]


def _groups(objects: Iterable[DocumentedObject]) -> list[list[str]]:
    """Groups of names with a common answer: connected components, by union-find."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    groups: dict[str, list[str]] = defaultdict(list)
    named = [(item.name, normalised(summary(item)), normalised(item.bare_name)) for item in objects]
    for name, *answers in named:
        for answer in answers:
            parent[root(f"answer {answer}")] = root(name)
    for name, *_ in named:
        groups[root(name)].append(name)
    return list(groups.values())
