"""Stage ``tokenize``: a tokenizer, loaded or trained, and the corpus as token shards."""

import os
import time
from pathlib import Path
from typing import Any

import click

from gpt2.core import files
from gpt2.data import corpus
from gpt2.data.records import DOCUMENTS
from gpt2.data.shards import write_shards
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.choice import tokenizer_directory
from gpt2.data.tokenizer.params import BpeTokenizerParams, TokenizerParams
from gpt2.data.train_bpe import train_bpe
from gpt2.pipeline.stage import EXAMPLES, NO_WEIGHTS, as_program, running


@click.command(epilog=EXAMPLES.format("tokenize"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--corpus-dir", type=click.Path(path_type=Path), required=True)
@click.option("--raw-tokenizer-dir", type=click.Path(path_type=Path), required=True)
@click.option("--initial-weights", type=click.Path(path_type=Path), default=NO_WEIGHTS)
@click.option("--tokenizer-dir", type=click.Path(path_type=Path), required=True)
@click.option("--tokens-dir", type=click.Path(path_type=Path), required=True)
def main(
    params_path: Path,
    corpus_dir: Path,
    raw_tokenizer_dir: Path,
    initial_weights: Path,
    tokenizer_dir: Path,
    tokens_dir: Path,
) -> None:
    """Turn the corpus into token shards."""
    with running("tokenize", params_path, sections=["tokenizer", "tokenize"]) as run:
        kind: TokenizerParams = run.load(TokenizerParams, "tokenizer")
        params = run.load(corpus.TokenizeParams, "tokenize")
        corpus_facts = files.read_manifest(corpus_dir)
        files.read_manifest(raw_tokenizer_dir)
        model = None if initial_weights == NO_WEIGHTS else initial_weights
        found = tokenizer_directory(kind, raw_tokenizer_dir, model)
        documents = corpus_dir / DOCUMENTS
        rule = corpus.split_rule(documents, params)
        run.tracker.dataset(
            "corpus",
            digest=files.digest(corpus_dir),
            source=corpus_dir,
            context="training",
            rows=corpus_facts.get("documents", 0),
        )
        run.tracker.begin()

        if isinstance(kind, BpeTokenizerParams):
            tokenizer = train_bpe(corpus.vocabulary_texts(documents, rule), kind.vocab_size)
        else:
            tokenizer = Tokenizer.load(found)

        facts: dict[str, Any] = {"corpus": files.digest(corpus_dir), "params": params.model_dump()}
        with (
            files.new_directory(tokenizer_dir, kind.model_dump()) as new_tokenizer,
            files.new_directory(tokens_dir, facts) as new_tokens,
        ):
            tokenizer.save(new_tokenizer)
            started = time.perf_counter()
            pieces = corpus.split_documents(corpus.read_documents(documents, "encoding"), rule)
            workers = min(corpus.MAX_WORKERS, os.cpu_count() or 1)
            facts |= write_shards(
                new_tokens,
                corpus.encode(pieces, tokenizer, workers),
                tokenizer,
                params.shard_tokens,
                corpus_facts.get("max_document_tokens"),
            )
            seconds = time.perf_counter() - started
        tokens = sum(split["tokens"] for split in facts["splits"].values())
        speed = {"tokens_per_second": tokens / seconds}
        run.metrics(corpus.summary(tokenizer.n_vocab, facts["splits"]), speed)


if __name__ == "__main__":
    as_program(main)
