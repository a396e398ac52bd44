"""Train a vocabulary by byte pair encoding (Sennrich et al. 2016), with `tokenizers`."""

import json
import logging
import sys
import time
from collections.abc import Iterable
from multiprocessing.pool import ThreadPool

from gpt2.core.progress import PLAIN_INTERVAL
from gpt2.data.tokenizer.bpe import Tokenizer
from gpt2.data.tokenizer.files import as_files
from gpt2.data.tokenizer.vocabulary import BYTES, tokens_of

logger = logging.getLogger(__name__)

LONGEST_WORD = 504
"""Longest word in bytes for training, cut between characters of 1 to 4 bytes. Training time grows
with the square of a word's length."""


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn byte pair merges from ``texts``: up to ``vocab_size`` entries, or all repeated pairs.

    The result depends only on the words in ``texts`` and their counts, not on order or threads.
    A longer word than `LONGEST_WORD` is trained in parts; encoding does not cut words.
    """
    from tokenizers import Tokenizer as Trainee
    from tokenizers import models, pre_tokenizers, trainers

    trainee = Trainee(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            pre_tokenizers.FixedLength(LONGEST_WORD),
        ]
    )
    on_terminal = sys.stderr.isatty()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # <|endoftext|> is the last one
        min_frequency=2,
        initial_alphabet=list(BYTES),
        show_progress=on_terminal,
    )
    # The trainer ignores signals, so it runs in a thread that the process need not wait for. It
    # gets all texts as one batch: returning to Python for the next one could crash a process that
    # is ending.
    with ThreadPool(1) as pool:
        training = pool.apply_async(trainee.train_from_iterator, ([list(texts)], trainer))
        began = time.monotonic()
        while not training.ready():
            training.wait(PLAIN_INTERVAL)
            if not (training.ready() or on_terminal):
                logger.info("training the vocabulary: %.0f s so far", time.monotonic() - began)
        training.get()
    merges = json.loads(trainee.to_str())["model"]["merges"]
    tokens = tokens_of([(left, right) for left, right in merges])
    if len(tokens) < vocab_size:
        logger.warning(
            "the corpus has repeated pairs for only %d entries; tokenizer.vocab_size asks for %d",
            len(tokens),
            vocab_size,
        )
    return Tokenizer(*as_files({token: rank for rank, token in enumerate(tokens)}, merges))
