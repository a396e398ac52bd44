"""How a run is shown while it trains: metrics in the tracker, a progress line in the terminal."""

from collections.abc import Mapping

from gpt2.core.progress import Progress
from gpt2.tracking.tracker import Tracker
from gpt2.training.history import History


class Display:
    """The tracker and the progress line of a run."""

    def __init__(self, tracker: Tracker, progress: Progress) -> None:
        self._tracker, self._progress = tracker, progress

    def replay(self, history: History) -> None:
        """Log a resumed history again: a killed process may not have sent all of it yet. The
        tracker skips what it already has."""
        for point in [*history.curve, *history.evaluations]:
            self.log(point)

    def log(self, point: Mapping[str, float]) -> None:
        """Log a point of the history as ``train/loss``, ``val/loss`` and so on."""
        names = {"val_loss": "val/loss"}
        values = {names.get(key, f"train/{key}"): point[key] for key in point if key != "step"}
        self._tracker.metrics(values, int(point["step"]))

    def evaluated(self, point: Mapping[str, float]) -> None:
        """Show an evaluation."""
        self.log(point)
        self._progress.note(f"step {point['step']}: val_loss {point['val_loss']:.4f}")

    def stepped(self, history: History, point: Mapping[str, float]) -> None:
        """Advance the progress line, with the figures of the last step and the speed so far."""
        z = {key: f" (z {point[key]:+.1f})" for key in ("loss_z", "grad_norm_z") if key in point}
        self._progress.advance(
            f"loss {point['loss']:.3f}{z.get('loss_z', '')}, "
            f"grad {point['grad_norm']:.2f}{z.get('grad_norm_z', '')}, "
            f"{history.tokens_per_second:,.0f} tokens/s, MFU {100 * history.mfu:.0f} %"
        )

    def close(self) -> None:
        self._progress.close()
