"""When a training is evaluated, when it stops early, and which weights it keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Selection:
    """When the model is evaluated, when training stops early, and which model is kept.

    Attributes
    ----------
    evaluate_every
        Epochs from one evaluation to the next; the last epoch is always evaluated.
    patience
        Stop after so many evaluations without a better validation score; None trains to the end.
    best
        Keep the weights with the best validation score, for the end of training.
    """

    evaluate_every: int = 1
    patience: int | None = None
    best: bool = False


class Best:
    """The best validation score of a training so far, with its epoch and, if they are kept, its weights."""

    def __init__(self, selection: Selection, *, higher_is_better: bool) -> None:
        self._selection, self._sign = selection, 1 if higher_is_better else -1
        self.epoch, self.score = 0, math.nan
        self.weights: dict[str, Tensor] = {}

    def add(self, epoch: int, score: float, model: nn.Module) -> bool:
        """Keep the weights of `model` if its score is the best so far; return whether to stop for lack of progress."""
        if not self._sign * score <= self._sign * self.score and math.isfinite(score):
            self.epoch, self.score = epoch, score
            if self._selection.best:
                self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        waited = (epoch - self.epoch) // self._selection.evaluate_every
        return self._selection.patience is not None and waited >= self._selection.patience
