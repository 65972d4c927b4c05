"""Find which loss of torch a task's loss calls, with which output and target.

A task's loss may be a module, a function of torch, a `partial`, or the user's own function around one of them. A
`TorchFunctionMode` sees the call in all cases.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)
from torch.overrides import TorchFunctionMode

from rmsprop.errors import InputError, Received
from rmsprop.lab.data import map_tensors

Form = Literal["classes", "probabilities", "binary", "values"]

_FORMS: dict[Callable[..., Any], Form] = {
    F.cross_entropy: "classes",
    F.nll_loss: "classes",
    F.binary_cross_entropy_with_logits: "binary",
    F.binary_cross_entropy: "binary",
    F.mse_loss: "values",
    F.l1_loss: "values",
    F.smooth_l1_loss: "values",
    F.huber_loss: "values",
}


@dataclass(frozen=True)
class LossCall:
    """One call of a loss of torch. The task's loss returned its result."""

    function: Callable[..., Tensor]
    form: Form  # what the target holds: class indices, class probabilities, 0 and 1, or real values
    output: Tensor
    target: Tensor
    options: dict[str, Any]  # the other arguments

    @property
    def is_sum(self) -> bool:
        """Whether the loss is a sum over its elements, not their mean."""
        return bool(self.options["reduction"] == "sum")

    @property
    def classes(self) -> int:
        """Number of classes: the size of the output's dimension 1, or of dimension 0 if there is no batch."""
        return self.output.shape[1 if self.output.ndim > 1 else 0]

    def class_weights(self) -> Tensor:
        """Return the weight of each class: the argument `weight`, or ones."""
        weight = self.options.get("weight")
        return (
            torch.ones(self.classes, dtype=torch.float64, device=self.target.device)
            if weight is None
            else weight.double()
        )

    @functools.cached_property
    def weights(self) -> Tensor:
        """The weight of each element of the target in the loss; 0 if the loss ignores the element.

        Not for targets that are class probabilities.
        """
        if self.form == "classes":
            ignored = self.target == self.options["ignore_index"]
            return self.class_weights()[self.target.masked_fill(ignored, 0).long()].masked_fill(ignored, 0)
        weight = self.options.get("weight") if self.form == "binary" else None
        ones = torch.ones_like(self.target, dtype=torch.float64)
        return ones if weight is None else ones * weight

    def divisor(self) -> float:
        """Return the divisor of a mean over the batch."""
        if self.form == "classes":
            return float(self.weights.sum())
        return self.target.numel() / (self.classes if self.form == "probabilities" else 1)

    def correct(self) -> Tensor:
        """Return which elements of the target equal the prediction: the likeliest class, or the likelier of 0 and 1."""
        if self.form == "classes":
            return self.output.argmax(dim=1 if self.output.ndim > 1 else 0) == self.target
        border = 0.0 if self.function is F.binary_cross_entropy_with_logits else 0.5
        return (self.output > border) == (self.target > 0.5)


class _Calls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[LossCall | None, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _FORMS:
            return func(*args, **kwargs)
        call = _loss_call(func, args, kwargs)  # before torch's call: raises InputError where torch would only warn
        self.calls.append((call, func(*args, **kwargs)))
        return self.calls[-1][1]


def observe(loss: Callable[[Any, Any], Tensor], output: Any, target: Any) -> tuple[Tensor, LossCall | None]:
    """Return the loss of a batch, and the call of a loss of torch that computed it.

    The call is None if the loss is not the unchanged result of exactly one such call.

    Raises
    ------
    InputError
        If torch would broadcast an output such as (N, 1) and a target such as (N,) to (N, N). Or if there is only one
        class. Torch then computes a number, but not the loss that the user means.
    """
    with _Calls() as seen:
        value = loss(output, target)
    if len(seen.calls) != 1 or not isinstance(value, Tensor):
        return value, None
    ((call, result),) = seen.calls
    same = value is result or (result.numel() == value.numel() == 1 and _equal(value, result))
    return value, call if same else None


def _equal(a: Tensor, b: Tensor) -> bool:
    x, y = float(a.detach()), float(b.detach())
    return x == y or (x != x and y != y)


_signature = functools.cache(inspect.signature)  # reading one takes longer than the loss of a small batch


def _loss_call(function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> LossCall | None:
    bound = _signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    options = dict(bound.arguments)
    output, target, form = options.pop("input"), options.pop("target"), _FORMS[function]
    old = any(options.get(name) is not None for name in ("size_average", "reduce"))  # deprecated arguments
    if old or options["reduction"] not in ("mean", "sum"):
        return None
    if form == "classes":
        if output.ndim > 1 and output.shape[1] == 1:
            found = Received(f"one, of shape {tuple(output.shape)}")
            raise InputError("class scores", "two or more", found, "for one logit use nn.BCEWithLogitsLoss()")
        form = "probabilities" if target.is_floating_point() else "classes"
    elif output.shape != target.shape:
        try:
            broadcast = np.broadcast_shapes(output.shape, target.shape)
        except ValueError:
            broadcast = None
        if broadcast is None or math.prod(broadcast) > max(output.numel(), target.numel()):
            found = Received(f"{tuple(target.shape)} beside {tuple(output.shape)}")
            remedy = "reshape one of them: torch would broadcast both to another shape, or fail"
            raise InputError("the target in the loss", "of the output's shape", found, remedy)
        if output.numel() != target.numel():
            return None
        target = target.reshape(output.shape)
    if form == "values" and options.get("weight") is not None:
        return None
    return LossCall(function, form, output, target, options)


def adds_up(loss: Callable[[Any, Any], Tensor], output: Any, target: Any, examples: int) -> bool:
    """Return whether the user's own loss is a sum over the batch, so that a doubled batch doubles the loss."""

    def twice(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor]) if tensor.ndim and len(tensor) == examples else tensor

    try:
        once = float(loss(output, target))
        again = float(loss(map_tensors(twice, output), map_tensors(twice, target)))
    except Exception:
        return False  # the batch cannot be doubled: treat the loss as a mean
    return abs(again - 2 * once) < 1e-4 * abs(once)
