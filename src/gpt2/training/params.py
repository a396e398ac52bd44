"""Parameters of training, for pretraining and finetuning alike."""

from typing import Literal

from gpt2.core.device import DeviceParams
from gpt2.core.params import NonNegative, Positive
from gpt2.training.optim import OptimizerParams


class TrainParams(OptimizerParams, DeviceParams):
    """How a model is trained, whatever its batches are."""

    seed: NonNegative = 123
    batch_size: Positive
    """Sequences in an optimizer step."""
    micro_batch_size: Positive | None = None
    """Sequences in memory at once; gradients are accumulated. None: the whole batch."""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile; auto: on a GPU, if the run is long enough to make up for compile time."""
    activation_checkpointing: bool = False
    """Keep only the input of each block and recompute the rest in the backward pass: much less
    memory, a third more time (Chen et al. 2016)."""
    eval_interval: Positive = 100
    """Steps between evaluations on the validation split."""
    log_interval: Positive = 10
    """Steps between points of the loss curve."""
    checkpoint_interval: Positive = 200
    """Steps between checkpoints for resuming."""
