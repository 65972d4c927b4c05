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


class ParamStep(NamedTuple):
    """The tensors of one parameter for one step; complex tensors are viewed as real."""

    p: Tensor
    g: Tensor
    step: Tensor
    averages: dict[str, Tensor]  # those that the rule keeps, by their names in the state
    param_index: int = 0  # among all parameters; stochastic rounding derives its noise from it

    @property
    def state_dtype(self) -> torch.dtype:
        """Return the dtype in which the averages are stored."""
        return self.averages["square_avg"].dtype

    def written(self) -> list[Tensor]:
        """Return the tensors that the step changes."""
        return [self.p, self.step, *self.averages.values()]

    def local(self) -> ParamStep:
        """Return the step with this rank's shard in place of every DTensor."""
        averages = {name: local_shard(x) for name, x in self.averages.items()}
        return ParamStep(local_shard(self.p), local_shard(self.g), local_shard(self.step), averages, self.param_index)


def scaled(g: Tensor, grad_scale: float) -> Tensor:
    """Return `g` divided by `grad_scale` in the compute dtype (1: in its own dtype), without a pending conjugation."""
    g = g.resolve_conj()
    return g if grad_scale == 1 else g.to(COMPUTE.get(g.dtype, g.dtype)) * (1 / grad_scale)


def check(param_step: ParamStep, *, differentiable: bool) -> None:
    """Raise InputError if tensor operations cannot step `param_step`."""
    p, step = param_step.p, param_step.step
    if step.numel() != 1:
        raise _misfit(f"step of parameter {param_step.param_index}", "one number", f"shape {tuple(step.shape)}")
    if differentiable and p.is_leaf and p.requires_grad:
        found, remedy = Received("a leaf that requires a gradient"), "step a copy: parameter.clone()"
        name, allowed = f"parameter {param_step.param_index}", "computed from others with differentiable=True"
        raise InputError(name, allowed, found, remedy)
    device, is_plain = p.device, type(p) in _PLAIN and not dispatch_modes()
    spans = []
    for x in (p, param_step.g, *param_step.averages.values()):
        if x.device != device:
            remedy = "optimizer.load_state_dict(optimizer.state_dict()) moves the state"
            raise InputError(_name(param_step, x), f"on {device}, as its parameter", Received(str(x.device)), remedy)
        if x.shape != p.shape and x.dtype != torch.uint8:
            raise _misfit(_name(param_step, x), f"of shape {tuple(p.shape)}", tuple(x.shape))
        if x is not param_step.g and (x.is_inference() or not x.is_contiguous()):
            check_writable(_name(param_step, x), x)
        if is_plain and x.is_contiguous():
            try:
                start = x.data_ptr()
            except RuntimeError:  # in a transform of torch.func, tensors have no address
                is_plain = False
                continue
            spans.append((start, start + x.nbytes, x))
    if is_plain:
        _check_overlap(param_step, spans)
    elif is_sharded(p):
        _check_shards(param_step)


def check_writable(name: str, x: Tensor) -> None:
    """Raise InputError if `x` cannot be written in place."""
    if repeats(x):
        found = Received(f"strides {tuple(x.stride())} for shape {tuple(x.shape)}")
        raise InputError(name, "without elements that share memory", found, "use x.clone() of an expanded tensor x")
    if x.is_inference() and not torch.is_inference_mode_enabled():
        found, remedy = Received("a tensor created in inference_mode"), "use x.clone(), or create it outside that mode"
        raise InputError(name, "a tensor that may be changed", found, remedy)


def repeats(x: Tensor) -> bool:
    """Return whether elements of `x` share memory, as in an expanded tensor."""
    return not x.is_contiguous() and any(
        stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)
    )


def _name(param_step: ParamStep, x: Tensor) -> str:
    named = {"the gradient": param_step.g, **param_step.averages}
    prefix = next((f"{name} of " for name, each in named.items() if each is x), "")
    return f"{prefix}parameter {param_step.param_index}"


def _check_shards(param_step: ParamStep) -> None:
    """Raise InputError if a gradient or average has other DTensor placements than its parameter."""
    expected = placements(param_step.p)
    for x in (param_step.g, *param_step.averages.values()):
        if placements(x) != expected:
            found = Received(str(placements(x) or "a plain tensor"))
            allowed = f"with the placements of its parameter, {expected}"
            raise InputError(_name(param_step, x), allowed, found, "convert it")


def _check_overlap(param_step: ParamStep, spans: list[tuple[int, int, Tensor]]) -> None:
    """Raise InputError if two tensors share part of their memory; torch's operations refuse that, too."""
    spans.sort(key=lambda span: span[:2])
    for (start, end, x), (other_start, other_end, other) in pairwise(spans):
        if start and other_start < end and (start, end) != (other_start, other_end):
            name = f"the memory of {_name(param_step, x)}"
            found = Received(f"a part of that of {_name(param_step, other)}")
            raise InputError(name, "separate from the other tensors", found, "use x.clone() of one of them")


def _misfit(name: str, allowed: str, found: Any) -> InputError:
    return InputError(name, allowed, Received(str(found)), "restore its shape")
