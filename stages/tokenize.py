"""Stage ``tokenize``: a tokenizer, taken or trained, and the corpus as token shards."""

import os
import time
from pathlib import Path
from typing import Any

import click

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.data.corpus import (
    MOST_WORKERS,
    VOCABULARY_BYTES,
    TokenizeParams,
    choose_split,
    encode,
    read_documents,
    share_of,
    split_documents,
)
from gpt2.data.shards import write_shards
from gpt2.data.tokenizer.bpe import (
    BpeTokenizerParams,
    Gpt2TokenizerParams,
    ModelTokenizerParams,
    Tokenizer,
    TokenizerParams,
)
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
        params = run.load(TokenizeParams, "tokenize")
        corpus_facts = files.read_manifest(corpus_dir)
        files.read_manifest(raw_tokenizer_dir)
        place = tokenizer_place(kind, raw_tokenizer_dir, initial_weights)
        corpus = corpus_dir / "documents.jsonl"
        split = choose_split(corpus, params)
        run.tracker.dataset(
            "corpus",
            digest=files.digest(corpus_dir),
            source=corpus_dir,
            context="training",
            rows=corpus_facts.get("documents", 0),
        )
        run.tracker.begin()

        if isinstance(kind, BpeTokenizerParams):
            pieces = split_documents(read_documents(corpus, "reading words"), params, split)
            train = (text for split, text in pieces if split == "train")
            share = min(1.0, VOCABULARY_BYTES / max(1, corpus.stat().st_size))
            tokenizer = train_bpe(share_of(train, share, params.seed), kind.vocab_size)
        else:
            tokenizer = Tokenizer.load(place)

        facts: dict[str, Any] = {"corpus": files.digest(corpus_dir), "params": params.model_dump()}
        with (
            files.new_directory(tokenizer_dir, kind.model_dump()) as new_tokenizer,
            files.new_directory(tokens_dir, facts) as new_tokens,
        ):
            tokenizer.save(new_tokenizer)
            started = time.perf_counter()
            pieces = split_documents(read_documents(corpus, "encoding"), params, split)
            facts |= write_shards(
                new_tokens,
                encode(pieces, tokenizer, min(MOST_WORKERS, os.cpu_count() or 1)),
                tokenizer,
                params.shard_tokens,
                corpus_facts.get("max_document_tokens"),
            )
            seconds = time.perf_counter() - started
        tokens = sum(split["tokens"] for split in facts["splits"].values())
        speed = {"tokens_per_second": tokens / seconds}
        run.metrics(summary(tokenizer.n_vocab, facts["splits"]), speed)


def tokenizer_place(kind: TokenizerParams, raw_tokenizer_dir: Path, initial_weights: Path) -> Path:
    """Where the vocabulary lies, if it is not trained here: with the initial weights, if any.

    Raises:
        UserError: there is no such model, or ``tokenizer.kind`` says another vocabulary.
    """
    if initial_weights == NO_WEIGHTS:
        if isinstance(kind, ModelTokenizerParams):
            raise UserError(
                "tokenizer.kind: model, but pretrain.initial_weights is none. Write gpt2 or bpe"
            )
        return raw_tokenizer_dir
    if files.read_manifest(initial_weights).get("size") == "none":
        raise UserError(
            f"pretrain.initial_weights: {initial_weights}, but no model was downloaded there. "
            f"Set gpt2_weights.size, or write {NO_WEIGHTS}"
        )
    other = isinstance(kind, BpeTokenizerParams) or (
        isinstance(kind, Gpt2TokenizerParams)
        and Tokenizer.load(raw_tokenizer_dir).fingerprint
        != Tokenizer.load(initial_weights).fingerprint
    )
    if other:
        raise UserError(
            f"tokenizer.kind: {kind.kind}, but the model of pretrain.initial_weights has a "
            "vocabulary of its own. Write model"
        )
    return initial_weights


def summary(n_vocab: int, splits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The metrics. ``bytes_per_token`` leaves the ``<|endoftext|>`` between documents out."""
    tokens, documents, text_bytes = (
        sum(split[key] for split in splits.values())
        for key in ("tokens", "documents", "text_bytes")
    )
    keys = ("tokens", "documents", "text_bytes", "truncated")
    return {
        "vocab_size": n_vocab,
        **{name: {key: split[key] for key in keys} for name, split in splits.items()},
        "bytes_per_token": text_bytes / (tokens - documents),
    }


if __name__ == "__main__":
    as_program(main)
