"""How a model is finetuned on instructions (tutorial part 5)."""

from gpt2.core.params import Fraction, Positive
from gpt2.data.instructions import InstructionParams
from gpt2.inference.generation.sampling import SamplingParams
from gpt2.training.params import TrainParams


class FinetuneParams(TrainParams, InstructionParams):
    """How the base model is finetuned."""

    base_model: str
    """The model directory to start from: data/models/pretrained or data/models/gpt2."""
    epochs: Positive
    """Times that every training record is seen."""
    dropout: Fraction = 0.0
    """Probability of dropping an activation while finetuning."""
    train_records: dict[str, Positive] | None = None
    """Most training records of a kind, drawn by a hash; of a kind that is not named: all."""
    max_validation_records: Positive | None = None
    """Most records of each kind in the validation split to evaluate on; null: all."""
    sample_records: Positive = 4
    """Validation records that the model answers at each evaluation."""
    sampling: SamplingParams
    """How it answers them."""
