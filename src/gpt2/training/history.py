"""The history of a run: loss curve, evaluations and totals. It is saved with every checkpoint, so a
resumed run has one curve."""

from dataclasses import dataclass, field
from typing import NamedTuple

from gpt2.training.outliers import slid, z_score


class Update(NamedTuple):
    """Result of an optimizer step."""

    loss: float
    """Mean over the targets of the step, in nats."""
    grad_norm: float
    """Before clipping."""
    n_targets: int
    """Targets that are not `IGNORE_INDEX`."""


@dataclass
class History:
    """What a run has recorded so far."""

    curve: list[dict[str, float]] = field(default_factory=list)
    """One point per `log_interval`: step, loss, lr, grad_norm, tokens_per_second, mfu (see `mfu`),
    and as soon as there are enough steps to compare with, loss_z and grad_norm_z."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """One point per `eval_interval`: step, val_loss."""
    losses: list[float] = field(default_factory=list)
    """Of the last steps, for z-scores."""
    grad_norms: list[float] = field(default_factory=list)
    """Of the last steps, for z-scores."""
    tokens: int = 0
    """Input tokens of all training steps."""
    flops: float = 0.0
    """Model FLOPs of all training steps."""
    seconds: float = 0.0
    """Duration of all training steps."""
    peak_memory_mib: float = 0.0
    product_rate: float = 0.0
    """FLOP/s of the model's largest matrix products alone, measured when this process started."""

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation so far, as a fraction of `product_rate`."""
        return self.flops / self.seconds / self.product_rate

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def speed(self) -> dict[str, float]:
        """Time, throughput and memory of the whole run, by their metric names."""
        return {
            "train_seconds": round(self.seconds, 1),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "mfu": round(self.mfu, 3),
            "peak_memory_mib": round(self.peak_memory_mib, 1),
        }

    @property
    def best(self) -> dict[str, float]:
        """The evaluation with the lowest loss; the earlier one if two are equal."""
        return min(self.evaluations, key=lambda point: point["val_loss"])

    def add(
        self, step: int, update: Update, lr: float, tokens: int, flops: float, seconds: float
    ) -> dict[str, float]:
        """Count an optimizer step.

        Returns:
            Its point of the curve, which the caller may append to `curve`.
        """
        self.tokens += tokens
        self.flops += flops
        self.seconds += seconds
        self.losses = slid(self.losses, update.loss)
        self.grad_norms = slid(self.grad_norms, update.grad_norm)
        return {
            "step": step,
            "loss": update.loss,
            "lr": lr,
            "grad_norm": update.grad_norm,
            **self.z_scores,
            "tokens_per_second": tokens / seconds,
            "mfu": flops / seconds / self.product_rate,
        }

    @property
    def z_scores(self) -> dict[str, float]:
        """How unusual the last step was; empty until there are enough steps to compare with."""
        scores = {"loss_z": z_score(self.losses), "grad_norm_z": z_score(self.grad_norms)}
        return {name: score for name, score in scores.items() if score is not None}
