"""The losses of the steps since the last record."""

from __future__ import annotations

import math

from rmsprop.lab.runs.schema import LossRecord


class RecentLosses:
    """The losses of the steps since the last record, and how many of the newest in a row are not finite.

    With `keeps_weights`, a loss that is not finite leaves finite weights: the mean of a record leaves it out.
    """

    def __init__(self, *, keeps_weights: bool) -> None:
        self.values: list[float] = []
        self.lost = 0  # newest losses in a row that are not finite
        self._keeps_weights = keeps_weights

    def add(self, loss: float, steps_per_epoch: int) -> bool:
        """Add the loss of a step; return whether it shows that training goes nowhere."""
        self.values.append(loss)
        self.lost = 0 if math.isfinite(loss) else self.lost + 1
        return self.lost >= (steps_per_epoch if self._keeps_weights else 1)

    def record(self, step: int, epoch: float) -> LossRecord:
        """Return the record of these losses, and begin anew."""
        values, self.values = self.values, []
        losses = [loss for loss in values if math.isfinite(loss)] if self._keeps_weights else values
        mean = sum(losses) / len(losses) if losses else math.nan
        record: LossRecord = {"kind": "loss", "step": step, "epoch": epoch, "loss": mean}
        if len(values) == step:
            record["first_loss"] = values[0]
        if len(losses) < len(values):
            record["nonfinite"] = len(values) - len(losses)
        return record
