"""Learning a vocabulary by byte pair encoding (Sennrich et al. 2016); ``tokenizers`` does it."""

import json
import logging
import sys
import time
from collections.abc import Iterable
from multiprocessing.pool import ThreadPool

from gpt2.core.progress import PLAIN_INTERVAL
from gpt2.data.tokenizer.bpe import BYTES, Tokenizer, tokens_of
from gpt2.data.tokenizer.files import as_files

logger = logging.getLogger(__name__)

LONGEST_WORD = 504
"""Bytes that training takes for one word at most, whole characters of 1 to 4 bytes among them: its
time grows with the square of a word's length."""


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn byte pair merges from ``texts``: up to ``vocab_size`` entries, or all repeated pairs.

    The result depends on the words in ``texts`` and their counts alone, not on order or threads.
    Parts of `LONGEST_WORD` of a longer word count as words; encoding cuts none.
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
    # A thread that may be left behind, for the trainer looks at no signal. It gets all texts as one
    # batch: where it came back to Python for the next one, it could crash a process that is ending.
    with ThreadPool(1) as pool:
        training = pool.apply_async(trainee.train_from_iterator, ([list(texts)], trainer))
        began = time.monotonic()
        while not training.ready():
            training.wait(PLAIN_INTERVAL)
            if not (training.ready() or on_terminal):
                logger.info("learning the vocabulary: %.0f s so far", time.monotonic() - began)
        training.get()
    merges = json.loads(trainee.to_str())["model"]["merges"]
    tokens = tokens_of([(left, right) for left, right in merges])
    if len(tokens) < vocab_size:
        logger.warning(
            "the corpus has repeated pairs for a vocabulary of %d entries only, not for the %d of "
            "tokenizer.vocab_size",
            len(tokens),
            vocab_size,
        )
    return Tokenizer(*as_files({token: rank for rank, token in enumerate(tokens)}, merges))
