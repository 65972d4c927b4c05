"""Score the best constant prediction: a training that does no better has learned nothing."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rmsprop.lab.loss_call import LossCall

MAX_VALUES = 2**20  # largest number of real values kept for their median; with more, the constant's loss is unknown
STANDARD_ERRORS = 2.0  # an accuracy counts as better if it is more than this many standard errors above the constant's
SHARE = 0.01  # a loss counts as better if it is more than this share of the constant's loss below it


class Constant(NamedTuple):
    """Loss and metric of the best prediction that is the same for every example; None if not known."""

    loss: float | None = None
    metric: float | None = None
    margin: float = 0.0  # standard error of `metric`, if it is an accuracy


def no_better(
    score: float, constant: float | None, margin: float = 0.0, *, higher_is_better: bool = False
) -> bool | None:
    """Return whether `score` is no better than that of a constant prediction; None if either is not known.

    To count as better, an accuracy must be more than `STANDARD_ERRORS` standard errors above `constant`. `margin` is
    one standard error. A loss must be more than the share `SHARE` below `constant`.

    Examples
    --------
    >>> no_better(0.113, 0.1, 0.01, higher_is_better=True), no_better(2.303, math.log(10))
    (True, True)
    """
    if constant is None or math.isnan(constant) or math.isnan(score):
        return None
    if higher_is_better:
        return score <= constant + STANDARD_ERRORS * margin
    return score >= constant - SHARE * abs(constant)


class Targets:
    """Gather the targets of a split, to find their best constant prediction.

    Each column of the targets (dimension 1, such as labels) has its own constant.
    """

    def __init__(self) -> None:
        self._known = True
        self._call: LossCall | None = None  # the newest call; only the tensors of calls differ
        self._sums = torch.zeros(0, 0, dtype=torch.float64)
        self._values: list[Tensor] = []
        self._kept = 0

    def add(self, call: LossCall | None) -> None:
        """Add the targets of a batch; `call` is None if its loss is not one call of a loss of torch."""
        if call is None or (self._call is not None and call.form != self._call.form):
            self._known = False
        if call is None or not self._known:
            return
        self._call = call
        if call.form == "values":
            self._values.append(_rows(call.target))
            self._kept += self._values[-1].numel()
            self._known = self._kept <= MAX_VALUES and self._values[-1].shape[1] == self._values[0].shape[1]
        else:
            sums = {"classes": _of_classes, "probabilities": _of_probabilities, "binary": _of_binary}[call.form](call)
            self._sums = sums if not len(self._sums) else _plus(self._sums, sums)

    def constant(self, divisor: float) -> Constant:
        """Return loss and accuracy of the best constant.

        `divisor` turns the sum of the loss over the split into its mean. The accuracy counts `LossCall.correct`. It is
        None if the targets are real values or class probabilities.
        """
        call = self._call
        if call is None or not self._known or not divisor:
            return Constant()
        if call.form == "values":
            return Constant(_loss_of_values(call, torch.cat(self._values)) / divisor)
        if call.form == "binary":
            all_, ones, counted, likely = self._sums
            total = (torch.special.entr(ones / all_) + torch.special.entr(1 - ones / all_)) * all_
            plain = call.options.get("weight") is None and call.options.get("pos_weight") is None
            loss, right = (total.nansum() / divisor if plain else None), torch.maximum(likely, counted - likely)
        else:
            weighted, counted = self._sums
            loss, right = _loss_of_classes(call, weighted, divisor), counted.max()
        count = float(counted.sum())
        if call.form == "probabilities" or not count:
            return Constant(_number(loss))
        share = float(right.sum()) / count
        return Constant(_number(loss), share, math.sqrt(share * (1 - share) / count))


def _of_classes(call: LossCall) -> Tensor:
    """Return two rows, a column per class: the summed weight of its targets, and the number with a weight above 0."""
    weights = call.weights.flatten()
    counted = weights != 0
    target, classes = call.target.flatten()[counted], call.classes
    counts = [torch.bincount(target, each, classes) for each in (weights[counted], counted[counted].double())]
    return torch.stack(counts)


def _of_probabilities(call: LossCall) -> Tensor:
    target = call.target if call.target.ndim > 1 else call.target[None]
    weighted = _rows(target).sum(dim=0) * call.class_weights()
    return torch.stack([weighted, torch.zeros_like(weighted)])


def _of_binary(call: LossCall) -> Tensor:
    """Return four rows: number of targets, their sum, number with a weight above 0, number of those that are 1."""
    target, counted = _rows(call.target), _rows(call.weights != 0)
    rows = (torch.ones_like(target), target, counted, counted * (target > 0.5))
    return torch.stack([row.sum(dim=0) for row in rows])


def _loss_of_classes(call: LossCall, weighted: Tensor, divisor: float) -> Tensor | None:
    """Return the cross-entropy of the targets if their own frequencies are the prediction; None if not known."""
    total, smoothing = weighted.sum(), call.options.get("label_smoothing", 0.0)
    if smoothing and call.options.get("weight") is not None:
        return None
    shares = (1 - smoothing) * weighted / total + smoothing / len(weighted)
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy * total / divisor


def _loss_of_values(call: LossCall, values: Tensor) -> float:
    """Return the summed loss when each column is predicted by its mean or median, whichever has the lower loss.

    The mean is best for MSE, the median for L1.
    """
    options = {name: call.options[name] for name in ("beta", "delta") if name in call.options}
    losses = [
        call.function(center.expand_as(values), values, reduction="none", **options).sum(dim=0)
        for center in (values.mean(dim=0), values.median(dim=0).values)
    ]
    return float(torch.minimum(*losses).sum())


def _rows(tensor: Tensor) -> Tensor:
    """Return a tensor as a matrix. Dimension 1 becomes the columns; a tensor without one becomes one column."""
    rows = tensor.movedim(1, -1) if tensor.ndim > 1 else tensor.reshape(-1, 1)
    return rows.reshape(-1, rows.shape[-1]).double()


def _plus(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum. Columns that only one of the matrices has are added to 0."""
    columns = max(a.shape[1], b.shape[1])
    x, y = (torch.nn.functional.pad(each, (0, columns - each.shape[1])) for each in (a, b))
    return x + y


def _number(value: Tensor | None) -> float | None:
    return None if value is None else float(value)
