"""The training loss of a batch, and its mean over a validation split (tutorial part 4)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2.core.device import Runtime
from gpt2.core.errors import UserError
from gpt2.data.batch import IGNORE_INDEX, Batch
from gpt2.model.gpt2 import GPT2
from gpt2.model.loss import ChunkLoss, linear_cross_entropy


def loss_sum(
    model: GPT2,
    batch: Batch,
    features_of: Callable[..., Tensor] | None = None,
    chunk_loss: ChunkLoss | None = None,
) -> Tensor:
    """Cross-entropy in nats, summed over the targets that are not `IGNORE_INDEX`.

    Only the features ``(N, C)`` of those targets pass the output layer, which is a third of the
    work of a small model.

    Args:
        features_of: a compiled `GPT2.features`; None: the model's own.
        chunk_loss: see `linear_cross_entropy`.
    """
    features = (features_of or model.features)(batch.inputs, lengths=batch.lengths)  # B T C
    counted = batch.targets != IGNORE_INDEX
    return linear_cross_entropy(
        features[counted], model.output_weight, batch.targets[counted], chunk_loss=chunk_loss
    )


def count_targets(batch: Batch) -> int:
    """Targets of a batch that are not `IGNORE_INDEX`."""
    return int((batch.targets != IGNORE_INDEX).sum())


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over ``n_tokens`` targets, in nats per token."""

    loss: float
    n_tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    def bits_per_byte(self, n_bytes: int) -> float:
        """The loss per byte of text. Unlike perplexity it is comparable between tokenizers."""
        return self.loss * self.n_tokens / n_bytes / math.log(2)


@torch.no_grad()
def evaluate(model: GPT2, batches: Iterable[Batch], runtime: Runtime) -> Evaluation:
    """Mean loss over ``batches``, without dropout. The model's training mode is restored.

    Raises:
        UserError: the batches have no target.
    """
    training = model.training
    model.eval()
    total, n_tokens = 0.0, 0
    for batch in batches:
        moved = batch.to(runtime.device)
        with runtime.autocast():
            total += float(loss_sum(model, moved))
        n_tokens += count_targets(batch)
    model.train(training)
    if n_tokens == 0:
        raise UserError(
            "the validation split has no token to predict: give it more text or records"
        )
    return Evaluation(total / n_tokens, n_tokens)
