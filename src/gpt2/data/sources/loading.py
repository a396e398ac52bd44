"""Load the documents and records that the sections ``corpus`` and ``instructions`` ask for."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, get_args

from gpt2.core.errors import UserError
from gpt2.data.fetching.download import DOWNLOADS
from gpt2.data.parsing.rows import RawData
from gpt2.data.records import Document, InstructionRecord, Split, sample
from gpt2.data.sources import huggingface, local_files, own_data, web_files
from gpt2.data.sources.huggingface import HuggingfaceCorpus, HuggingfaceInstructions
from gpt2.data.sources.package_docs import (
    DocumentedObject,
    PackageDocsCorpus,
    documented_objects,
    package_versions,
)
from gpt2.data.sources.package_instructions import (
    PackageDocsInstructions,
    make_records,
    without_held_out,
)
from gpt2.data.sources.params import CorpusParams, InstructionsParams, OwnCorpus, OwnInstructions
from gpt2.data.sources.web_files import UrlCorpus, UrlInstructions


class Instructions(NamedTuple):
    """Instruction records and what else is known about them."""

    records: list[InstructionRecord]
    objects: list[DocumentedObject]
    """The documented objects from which the records were made; empty for other sources."""
    metrics: dict[str, int]


class Corpus(NamedTuple):
    """Documents, which are loaded when they are iterated, and facts about them."""

    documents: Iterable[Document]
    facts: dict[str, Any]
    """Entries for the manifest; complete after the last document."""


def load_instructions(params: InstructionsParams, root: Path) -> Instructions:
    """The records of section ``instructions``."""
    if isinstance(params, PackageDocsInstructions):
        objects = documented_objects(params.packages, "instructions.packages")
        return Instructions(make_records(objects, params), objects, {})
    records, metrics = own_data.instruction_records(load_rows(params, root), params)
    return Instructions(records, [], metrics)


def load_corpus(params: CorpusParams, instructions: Instructions, root: Path) -> Corpus:
    """The documents of section ``corpus``.

    Package documentation does not include the objects that the test records ask about.
    """
    if not isinstance(params, PackageDocsCorpus):
        data = load_rows(params, root)
        return Corpus(own_data.documents(data, params), data.facts)
    objects = documented_objects(params.packages, "corpus.packages")
    kept = without_held_out(objects, instructions.objects, instructions.records)
    documents = sample(
        [Document(item.name, item.text) for item in kept],
        params.limit,
        lambda document: document.name,
        seed=0,
    )
    facts: dict[str, Any] = {
        "packages": package_versions(params.packages),
        "held_out": len(objects) - len(kept),
        "max_document_tokens": params.max_document_tokens,
    }
    return Corpus(documents, facts)


def load_rows(params: OwnCorpus | OwnInstructions, root: Path) -> RawData:
    """The rows of the user's own data, before they are checked."""
    if isinstance(params, HuggingfaceCorpus | HuggingfaceInstructions):
        return huggingface.load_rows(params)
    if isinstance(params, UrlCorpus | UrlInstructions):
        return web_files.load_rows(params, root / DOWNLOADS)
    return local_files.load_rows(params, root)


def check_splits(records: Iterable[InstructionRecord]) -> None:
    """Raise `UserError` if a split has no records."""
    present = {record.split for record in records}
    for split in get_args(Split):
        if split not in present:
            raise UserError(
                f"instructions: no record falls into the {split} split. "
                "Use more records, or change validation_fraction and test_fraction"
            )


def count_records(records: Iterable[InstructionRecord]) -> dict[str, dict[str, int]]:
    """Number of records per kind and split."""
    counts: dict[str, dict[str, int]] = {}
    for (kind, split), number in sorted(Counter((r.kind, r.split) for r in records).items()):
        counts.setdefault(kind, {})[split] = number
    return counts
