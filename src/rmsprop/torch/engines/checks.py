"""What would make tensor operations fail in mid-step, found before the first change.

The kernel fails before it changes anything. torch's operations look at their own tensors only: an error in one of the
last parameters would leave the first ones moved.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rmsprop.errors import InputError, Received
from rmsprop.torch.distributed import is_sharded, placements
from rmsprop.torch.state import Slot

_PLAIN = (Tensor, torch.nn.Parameter)
_FIELDS = {"p": "", "g": "the gradient of ", "v": "square_avg of ", "m": "grad_avg of ", "b": "momentum_buffer of "}


def check_slot(slot: Slot, *, differentiable: bool) -> None:
    """Raise InputError if tensor operations cannot step `slot`."""
    p, g, step, v, m, b, number = slot
    if step.numel() != 1:
        raise _misfit(f"step of parameter {number}", "one number", f"shape {tuple(step.shape)}")
    if differentiable and p.is_leaf and p.requires_grad:
        found, remedy = Received("a leaf that requires a gradient"), "step a copy: parameter.clone()"
        raise InputError(f"parameter {number}", "computed from others with differentiable=True", found, remedy)
    device, is_plain = p.device, type(p) in _PLAIN and not torch._C._len_torch_dispatch_stack()
    spans = []
    for x in (p, g, v, m, b):
        if x is None:
            continue
        if x.device != device:
            remedy = "optimizer.load_state_dict(optimizer.state_dict()) moves the state"
            raise InputError(_name(slot, x), f"on {device}, as its parameter", Received(str(x.device)), remedy)
        if x.shape != p.shape and x.dtype != torch.uint8:
            raise _misfit(_name(slot, x), f"of shape {tuple(p.shape)}", tuple(x.shape))
        if x is not g and (x.is_inference() or not x.is_contiguous()):
            check_writable(_name(slot, x), x)
        if is_plain and x.is_contiguous():
            try:
                start = x.data_ptr()
            except RuntimeError:  # within a transform of torch.func
                is_plain = False
                continue
            spans.append((start, start + x.nbytes, x))
    if is_plain:
        _check_overlap(slot, spans)
    elif is_sharded(p):
        _check_shards(slot)


def check_writable(name: str, x: Tensor) -> None:
    """Raise InputError if `x` cannot be written in place."""
    if repeats(x):
        found = Received(f"strides {tuple(x.stride())} for shape {tuple(x.shape)}")
        raise InputError(name, "in memory of its own for every element", found, "use x.clone() of an expanded tensor x")
    if x.is_inference() and not torch.is_inference_mode_enabled():
        found, remedy = Received("one made in inference_mode"), "use x.clone(), or make it outside of that mode"
        raise InputError(name, "a tensor that may be changed", found, remedy)


def repeats(x: Tensor) -> bool:
    """Return whether elements of `x` share memory, as those of an expanded tensor do."""
    return not x.is_contiguous() and any(
        stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)
    )


def _name(slot: Slot, x: Tensor) -> str:
    field = next(field for field, value in slot._asdict().items() if value is x)
    return f"{_FIELDS[field]}parameter {slot.number}"


def _check_shards(slot: Slot) -> None:
    """Raise InputError if a tensor of `slot` is spread over ranks (DTensor) in another way than its parameter."""
    expected = placements(slot.p)
    for x in (slot.g, slot.v, slot.m, slot.b):
        if x is not None and placements(x) != expected:
            found = Received(str(placements(x) or "a plain tensor"))
            raise InputError(_name(slot, x), f"spread over ranks as its parameter, {expected}", found, "convert it")


def _check_overlap(slot: Slot, spans: list[tuple[int, int, Tensor]]) -> None:
    """Raise InputError if a tensor shares a part of its memory with another one, as torch's operations do."""
    spans.sort(key=lambda span: span[:2])
    for (start, end, x), (other_start, other_end, other) in pairwise(spans):
        if start and other_start < end and (start, end) != (other_start, other_end):
            found = Received(f"a part of that of {_name(slot, other)}")
            raise InputError(f"the memory of {_name(slot, x)}", "its own", found, "use x.clone() of one of them")


def _misfit(name: str, allowed: str, found: Any) -> InputError:
    return InputError(name, allowed, Received(str(found)), "give it back the shape that it had")
