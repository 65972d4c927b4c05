"""The tensors that a step of one parameter reads and writes, and the checks before the first change.

Every `ParamStep` is checked before any parameter changes. torch's operations check only their own tensors: an error in
a late parameter would leave the earlier ones stepped.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rmsprop.errors import InputError, Received
from rmsprop.torch.distributed import is_sharded, local_shard, placements
from rmsprop.torch.private import dispatch_modes
from rmsprop.torch.state import COMPUTE

_PLAIN = (Tensor, torch.nn.Parameter)
_FIELDS = {"p": "", "g": "the gradient of ", "v": "square_avg of ", "m": "grad_avg of ", "b": "momentum_buffer of "}


class ParamStep(NamedTuple):
    """The tensors of one parameter for one step; complex tensors are viewed as real."""

    p: Tensor
    g: Tensor
    step: Tensor
    v: Tensor
    m: Tensor | None
    b: Tensor | None
    param_index: int = 0  # among all parameters; stochastic rounding derives its noise from it

    def averages(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return v, m and b."""
        return self.v, self.m, self.b

    def local(self) -> ParamStep:
        """Return the step with this rank's shard in place of every DTensor."""
        shards: dict[str, Any] = {name: local_shard(x) for name, x in self._asdict().items() if isinstance(x, Tensor)}
        return self._replace(**shards)


def scaled(g: Tensor, grad_scale: float) -> Tensor:
    """Return `g` divided by `grad_scale` in the compute dtype (1: in its own dtype), without a pending conjugation."""
    g = g.resolve_conj()
    return g if grad_scale == 1 else g.to(COMPUTE.get(g.dtype, g.dtype)) * (1 / grad_scale)


def check(own: ParamStep, *, differentiable: bool) -> None:
    """Raise InputError if tensor operations cannot step `own`."""
    p, step = own.p, own.step
    if step.numel() != 1:
        raise _misfit(f"step of parameter {own.param_index}", "one number", f"shape {tuple(step.shape)}")
    if differentiable and p.is_leaf and p.requires_grad:
        found, remedy = Received("a leaf that requires a gradient"), "step a copy: parameter.clone()"
        raise InputError(f"parameter {own.param_index}", "computed from others with differentiable=True", found, remedy)
    device, is_plain = p.device, type(p) in _PLAIN and not dispatch_modes()
    spans = []
    for x in (p, own.g, *own.averages()):
        if x is None:
            continue
        if x.device != device:
            remedy = "optimizer.load_state_dict(optimizer.state_dict()) moves the state"
            raise InputError(_name(own, x), f"on {device}, as its parameter", Received(str(x.device)), remedy)
        if x.shape != p.shape and x.dtype != torch.uint8:
            raise _misfit(_name(own, x), f"of shape {tuple(p.shape)}", tuple(x.shape))
        if x is not own.g and (x.is_inference() or not x.is_contiguous()):
            check_writable(_name(own, x), x)
        if is_plain and x.is_contiguous():
            try:
                start = x.data_ptr()
            except RuntimeError:  # in a transform of torch.func, tensors have no address
                is_plain = False
                continue
            spans.append((start, start + x.nbytes, x))
    if is_plain:
        _check_overlap(own, spans)
    elif is_sharded(p):
        _check_shards(own)


def check_writable(name: str, x: Tensor) -> None:
    """Raise InputError if `x` cannot be written in place."""
    if repeats(x):
        found = Received(f"strides {tuple(x.stride())} for shape {tuple(x.shape)}")
        raise InputError(name, "in memory of its own for every element", found, "use x.clone() of an expanded tensor x")
    if x.is_inference() and not torch.is_inference_mode_enabled():
        found, remedy = Received("one made in inference_mode"), "use x.clone(), or make it outside of that mode"
        raise InputError(name, "a tensor that may be changed", found, remedy)


def repeats(x: Tensor) -> bool:
    """Return whether elements of `x` share memory, as in an expanded tensor."""
    return not x.is_contiguous() and any(
        stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)
    )


def _name(own: ParamStep, x: Tensor) -> str:
    field = next(field for field, value in own._asdict().items() if value is x)
    return f"{_FIELDS[field]}parameter {own.param_index}"


def _check_shards(own: ParamStep) -> None:
    """Raise InputError if a gradient or average has other DTensor placements than its parameter."""
    expected = placements(own.p)
    for x in (own.g, *own.averages()):
        if x is not None and placements(x) != expected:
            found = Received(str(placements(x) or "a plain tensor"))
            raise InputError(_name(own, x), f"spread over ranks as its parameter, {expected}", found, "convert it")


def _check_overlap(own: ParamStep, spans: list[tuple[int, int, Tensor]]) -> None:
    """Raise InputError if two tensors share part of their memory; torch's operations refuse that, too."""
    spans.sort(key=lambda span: span[:2])
    for (start, end, x), (other_start, other_end, other) in pairwise(spans):
        if start and other_start < end and (start, end) != (other_start, other_end):
            found = Received(f"a part of that of {_name(own, other)}")
            raise InputError(f"the memory of {_name(own, x)}", "its own", found, "use x.clone() of one of them")


def _misfit(name: str, allowed: str, found: Any) -> InputError:
    return InputError(name, allowed, Received(str(found)), "give it back the shape that it had")
