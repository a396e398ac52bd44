"""What the sections ``corpus`` and ``instructions`` ask for: documents and records."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, get_args

from gpt2.core.errors import UserError
from gpt2.data.fetching.download import DOWNLOADS
from gpt2.data.parsing.rows import RawData
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
from gpt2.data.sources.records import Document, InstructionRecord, Split, sample
from gpt2.data.sources.sections import CorpusParams, InstructionsParams, OwnCorpus, OwnInstructions
from gpt2.data.sources.web_files import UrlCorpus, UrlInstructions


class Instructions(NamedTuple):
    """Records, the documented objects that they were made from, if any, and further metrics."""

    records: list[InstructionRecord]
    objects: list[DocumentedObject]
    metrics: dict[str, int]


class Corpus(NamedTuple):
    """Documents, and facts about them for the manifest; complete when the documents are read."""

    documents: Iterable[Document]
    facts: dict[str, Any]


def read_instructions(params: InstructionsParams, root: Path) -> Instructions:
    """The records that section ``instructions`` asks for."""
    if isinstance(params, PackageDocsInstructions):
        objects = documented_objects(params.packages, "instructions.packages")
        return Instructions(make_records(objects, params), objects, {})
    records, metrics = own_data.instruction_records(read_own(params, root), params)
    return Instructions(records, [], metrics)


def read_corpus(params: CorpusParams, instructions: Instructions, root: Path) -> Corpus:
    """The documents that section ``corpus`` asks for, without what the test records are about."""
    if not isinstance(params, PackageDocsCorpus):
        data = read_own(params, root)
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


def read_own(params: OwnCorpus | OwnInstructions, root: Path) -> RawData:
    """The rows of a user's own data."""
    if isinstance(params, HuggingfaceCorpus | HuggingfaceInstructions):
        return huggingface.read(params)
    if isinstance(params, UrlCorpus | UrlInstructions):
        return web_files.read(params, root / DOWNLOADS)
    return local_files.read(params, root)


def check_splits(records: Iterable[InstructionRecord]) -> None:
    """Raise `UserError` if a split holds no records."""
    present = {record.split for record in records}
    for split in get_args(Split):
        if split not in present:
            raise UserError(
                f"instructions: no record falls into the {split} split. "
                "Use more records, or change validation_fraction and test_fraction"
            )


def count(records: Iterable[InstructionRecord]) -> dict[str, dict[str, int]]:
    """Records per kind and split."""
    counts: dict[str, dict[str, int]] = {}
    for (kind, split), number in sorted(Counter((r.kind, r.split) for r in records).items()):
        counts.setdefault(kind, {})[split] = number
    return counts
