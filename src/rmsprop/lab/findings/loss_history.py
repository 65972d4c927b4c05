"""The losses and scores of a training, epoch by epoch, from its records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from rmsprop.lab.chance import Constant
from rmsprop.lab.runs.schema import EpochRecord, LossRecord, TrainRecord


class Loss(NamedTuple):
    """The mean training loss of the steps that a record covers; `step` is the last of them, `epoch` its position."""

    step: int
    epoch: float
    value: float


class Epoch(NamedTuple):
    """Validation loss and score after an epoch; epoch 0 is before the first step."""

    number: int
    loss: float
    score: float | None


class LossHistory:
    """The losses of a training.

    Attributes
    ----------
    before
        The loss before the first step: the larger one of the validation loss and the training loss of the first step.
        The latter is larger with dropout, for example. None if either is not known.
    training
        Epoch → median of its training losses. The median ignores a few bad batches. The newest epoch may be incomplete.
    validation
        The epochs with a finite validation loss.
    lost
        Whether the validation loss of an epoch is not finite.
    losses
        The mean training loss of each record, if finite.
    constant
        Loss and metric of the best constant prediction, if known, and the standard error of this metric.
    separate
        Whether the validation loss is another function than the training loss, as in reinforcement learning.
    has_scale
        Whether ratios of losses mean anything. False if a loss is negative, `before` is 0 or None, or `separate`.
    """

    def __init__(self, records: Sequence[TrainRecord]) -> None:
        losses: list[LossRecord] = [r for r in records if r["kind"] == "loss" and r["loss"] is not None]
        epochs: list[EpochRecord] = [r for r in records if r["kind"] == "epoch"]
        self.losses = [Loss(r["step"], r["epoch"], r["loss"]) for r in losses if r["loss"] is not None]
        self.validation = [
            Epoch(r["epoch"], r["validation_loss"], r.get("validation_metric"))
            for r in epochs
            if r["validation_loss"] is not None
        ]
        self.lost = len(self.validation) < len(epochs)
        self.constant = next((Constant(**r["constant"]) for r in epochs if "constant" in r), Constant())
        self.separate = any(r.get("separate_losses") for r in epochs)
        start = [r["validation_loss"] for r in epochs if r["epoch"] == 0]
        start += [r["first_loss"] for r in losses if "first_loss" in r]
        known = [loss for loss in start if loss is not None]
        self.before: float | None = None if len(known) < 2 or len(known) < len(start) else max(known)
        by_epoch: dict[int, list[float]] = {}
        for loss in self.losses:
            by_epoch.setdefault(math.ceil(loss.epoch), []).append(loss.value)
        self.training = {epoch: median(values) for epoch, values in by_epoch.items()}
        every = (*known, *(e.loss for e in self.validation), *(loss.value for loss in self.losses))
        self.has_scale = bool(self.before) and min(every) >= 0 and not self.separate

    @property
    def left(self) -> float:
        """Training loss of the newest epoch divided by the loss before the first step; NaN if losses have no scale."""
        if not (self.has_scale and self.before and self.training):
            return math.nan
        return self.training[max(self.training)] / self.before

    @property
    def jump(self) -> float:
        """Largest training loss of a record divided by the loss before the first step; NaN if losses have no scale."""
        if not (self.has_scale and self.before and self.losses):
            return math.nan
        return max(loss.value for loss in self.losses) / self.before
