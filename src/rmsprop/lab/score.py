"""Score a task: by its own metric, or by a score derived from its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from rmsprop.errors import InputError, Received
from rmsprop.lab.chance import Constant, Targets
from rmsprop.lab.loss_call import adds_up, observe

Metric = Callable[[Any, Any], Tensor | float]

_LOSSES = {  # name of the score if the score is the loss itself
    F.mse_loss: "mean squared error",
    F.l1_loss: "mean absolute error",
    F.smooth_l1_loss: "smooth L1 loss",
    F.huber_loss: "Huber loss",
    F.cross_entropy: "cross-entropy",
    F.binary_cross_entropy: "cross-entropy",
    F.binary_cross_entropy_with_logits: "cross-entropy",
}


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return the share of targets (integer classes) whose class has the largest score in dimension 1 of `output`.

    Raises
    ------
    InputError
        If the shapes are not (N, C, ...) for class scores and (N, ...) for classes, or the classes are no integers.
    """
    if output.ndim < 2 or output.shape[1] < 2 or output.shape[:1] + output.shape[2:] != target.shape:
        found = Received(f"outputs of shape {tuple(output.shape)}, targets of {tuple(target.shape)}")
        remedy = "for one logit, several labels or real values, give another metric= or none"
        raise InputError("the metric accuracy", "given scores (N, C, ...) and classes (N, ...)", found, remedy)
    if target.is_floating_point():
        raise InputError("the metric accuracy", "given classes as integers", target.dtype, "convert with .long()")
    return (output.argmax(dim=1) == target).double().mean()


def is_share(name: str) -> bool:
    """Return whether a score of this name is a share from 0 to 1, which is shown as a percentage."""
    return name == "accuracy" or name.endswith(" accuracy")


def score_words(value: float | None, metric: str) -> str:
    """Return a share as a percentage, any other score with four significant digits, and a dash for None."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4g}"


IN_PLACE_OF_LOSS = ("return", "distance")  # kinds of scores that also are the validation loss, or minus it


@dataclass(frozen=True)
class Score:
    """The number that a trained model is judged by.

    `kind` is "metric" (the task has one), "accuracy" (derived from the loss), "loss" (the loss itself), "return" (of
    the episodes of a policy; the validation loss is minus it) or "distance" (of generated to real images; the
    validation loss is the same).
    """

    name: str
    higher_is_better: bool
    kind: str
    loss_is_sum: bool  # a sum over the batch, which is shown divided by the number of examples


class Evaluation(NamedTuple):
    """Mean loss and mean score over a split, those of the best constant prediction, and the task's other metrics."""

    loss: float
    metric: float
    constant: Constant
    metrics: Mapping[str, float] = MappingProxyType({})


def described(metric: Metric, name: str | None, higher_is_better: bool | None, *, loss_is_sum: bool) -> Score:
    """Return the score of a task with a metric. A name or direction that is None is taken from the metric.

    Raises
    ------
    InputError
        If `higher_is_better` is None and the metric's direction is not known.
    """
    function = str(getattr(metric, "__name__", type(metric).__name__))
    if name is None:
        name = "metric" if function == "<lambda>" else function.replace("_", " ")
    if higher_is_better is None:
        if is_share(name):
            higher_is_better = True
        elif isinstance(metric, nn.modules.loss._Loss) or getattr(F, function, None) is metric:  # losses of torch
            higher_is_better = False
        else:
            remedy = f"say whether more {name} is better or worse"
            raise InputError("Task.higher_is_better", "True or False beside metric=", None, remedy)
    return Score(name, higher_is_better, "metric", loss_is_sum)


def derive(loss: Callable[[Any, Any], Tensor], output: Any, target: Any, examples: int) -> Score:
    """Return the score of a task without a metric, derived from one batch of `examples` examples.

    - Integer classes (`cross_entropy`, `nll_loss`): accuracy over the elements that the loss does not ignore.
    - 0 and 1 (`binary_cross_entropy`, with logits or without): accuracy. A logit above 0, or a probability above 1/2,
      predicts 1. If an example has several targets (labels, pixels), each counts by itself: element accuracy.
    - Anything else: the loss itself; lower is better.
    """
    _, call = observe(loss, output, target)
    if call is None:
        return Score("loss", higher_is_better=False, kind="loss", loss_is_sum=adds_up(loss, output, target, examples))
    binary = call.form == "binary" and bool(((call.target == 0) | (call.target == 1)).all())
    if binary or call.form == "classes":
        several = binary and call.target.ndim > 1 and call.target[0].numel() > 1
        name = "element accuracy" if several else "accuracy"
        return Score(name, higher_is_better=True, kind="accuracy", loss_is_sum=call.is_sum)
    name = "loss" if call.is_sum else _LOSSES.get(call.function, "loss")
    return Score(name, higher_is_better=False, kind="loss", loss_is_sum=call.is_sum)


class Tally:
    """Average loss and score over the batches of a split.

    For a loss of torch that is a mean, a batch has the weight that torch divides by: the summed class weights of the
    elements that the loss does not ignore. For other losses and metrics, the weight is the number of examples.
    """

    def __init__(
        self,
        loss: Callable[[Any, Any], Tensor],
        metric: Metric | None,
        score: Score,
        others: Mapping[str, Metric] = MappingProxyType({}),
    ) -> None:
        self._loss, self._metric, self._score = loss, metric, score
        self._others = {name: (function, _Mean()) for name, function in others.items()}
        self._by_divisor, self._by_examples, self._metrics = _Mean(), _Mean(), _Mean()
        self._targets = Targets()
        self._has_divisors = not score.loss_is_sum  # whether torch's divisor of every batch so far is known

    def add(self, output: Any, target: Any, examples: int) -> None:
        """Add a batch of `examples` examples."""
        loss, call = observe(self._loss, output, target)
        self._targets.add(call)
        self._by_examples.add(float(loss), examples, is_sum=self._score.loss_is_sum)
        if call is None or call.is_sum:
            self._has_divisors = False
        else:
            self._by_divisor.add(float(loss), call.divisor())
        for function, mean in self._others.values():
            mean.add(float(function(output, target)), examples)
        if self._score.kind == "metric" and self._metric is not None:
            self._metrics.add(float(self._metric(output, target)), examples)
        elif self._score.kind == "accuracy":
            if call is None:
                remedy = "give the task a metric=: it cannot be derived where the loss changes from batch to batch"
                raise InputError("Task.loss()", "the same loss of torch for every batch", Received("another"), remedy)
            counted = call.weights != 0
            self._metrics.add(float((call.correct() & counted).sum()), float(counted.sum()), is_sum=True)

    def result(self) -> Evaluation:
        """Return the means; NaN if nothing was counted."""
        losses = self._by_divisor if self._has_divisors else self._by_examples
        loss, constant = losses.value(), self._targets.constant(losses.weight)
        others = {name: mean.value() for name, (_, mean) in self._others.items()}
        if self._score.kind == "loss":
            return Evaluation(loss, loss, Constant(constant.loss, constant.loss), others)
        if self._score.kind == "metric":
            return Evaluation(loss, self._metrics.value(), Constant(constant.loss), others)
        return Evaluation(loss, self._metrics.value(), constant, others)


class _Mean:
    def __init__(self) -> None:
        self.sum = self.weight = 0.0

    def add(self, value: float, weight: float, *, is_sum: bool = False) -> None:
        if weight:  # if a batch has no weight, its mean is NaN
            self.sum += value if is_sum else value * weight
            self.weight += weight

    def value(self) -> float:
        return self.sum / self.weight if self.weight else float("nan")
