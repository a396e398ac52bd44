"""Which tokenizer files ``tokenizer.kind`` means: downloaded ones, or those of a model."""

from pathlib import Path

from gpt2.core import files
from gpt2.core.errors import UserError
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.params import (
    BpeTokenizerParams,
    Gpt2TokenizerParams,
    ModelTokenizerParams,
    TokenizerParams,
)


def tokenizer_directory(
    params: TokenizerParams, downloaded: Path, initial_weights: Path | None
) -> Path:
    """Directory of the vocabulary, unless it is trained on the corpus.

    Args:
        params: the section ``tokenizer``.
        downloaded: directory of OpenAI's vocabulary, if it was downloaded.
        initial_weights: model directory that pretraining starts from, if any; its vocabulary must
            be used.

    Raises:
        UserError: there is no such model, or ``tokenizer.kind`` names another vocabulary.
    """
    if initial_weights is None:
        if isinstance(params, ModelTokenizerParams):
            raise UserError(
                "tokenizer.kind: model, but pretrain.initial_weights is none. Write gpt2 or bpe"
            )
        return downloaded
    if files.read_manifest(initial_weights).get("size") == "none":
        raise UserError(
            f"pretrain.initial_weights: {initial_weights}, but no model was downloaded there. "
            "Set gpt2_weights.size, or write none"
        )
    other = isinstance(params, BpeTokenizerParams) or (
        isinstance(params, Gpt2TokenizerParams)
        and Tokenizer.load(downloaded).fingerprint != Tokenizer.load(initial_weights).fingerprint
    )
    if other:
        raise UserError(
            f"tokenizer.kind: {params.kind}, but the model of pretrain.initial_weights has a "
            "vocabulary of its own. Write model"
        )
    return initial_weights
