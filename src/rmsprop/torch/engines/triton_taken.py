"""Decide which tensors the Triton kernel can step, and find their addresses.

A parameter that was taken in the step before is taken again if its tensors have stayed where they were and have the
same layout. This costs a tenth of all checks: the host of a GPU steps thousands of parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from rmsprop.rule import AVERAGES
from rmsprop.torch.distributed import is_sharded, local_shard, placements
from rmsprop.torch.engines.triton_tables import TensorRow
from rmsprop.torch.low_precision import order_of, packed_size
from rmsprop.torch.state import COMPUTE, ParamGroup, check_gradient

REASONS = {
    "class": "it is of a subclass of Tensor, which may compute in its own way",
    "dtype": "its dtype is not float32, float64, bfloat16, float16, complex64 or complex128",
    "flag": "it is a conjugated or negated view",
    "inference": "it was created in inference_mode",
    "memory": "it has no memory of its own",
    "strides": "its memory has gaps or repeats",
    "gradient class": "its gradient is of a subclass of Tensor",
    "gradient layout": "its gradient is sparse",
    "gradient device": "its gradient is on another device",
    "gradient dtype": "its gradient has another dtype",
    "gradient flag": "its gradient is a conjugated or negated view",
    "gradient strides": "its gradient has other strides",
    "placements": "its gradient or state is spread over ranks in another way",
    "state": "its state has another device, dtype or other strides than the Triton kernel uses",
    "row-major": "its 8-bit state is in row-major order, which its memory is not",
    "step": "its step counter is not one float64 number on the CPU or its device",
    "overlap": "its memory overlaps that of another tensor",
}
PLAIN = (Tensor, torch.nn.Parameter)


@dataclass(eq=False, slots=True, frozen=True)
class Taken:
    """A parameter taken for one step, with its state and where its tensors lie in memory. Compared by identity.

    Layouts and addresses of DTensors are those of this rank's shards.
    """

    index: int  # among all parameters
    p: Tensor
    state: dict[str, Tensor]
    counter: Tensor
    averages: dict[str, Tensor]
    layout: tuple[Any, ...]  # of p and its gradient: see `_layout`
    state_layout: tuple[Any, ...]  # of the averages
    row: TensorRow

    @property
    def lengths(self) -> tuple[int, int]:
        """Return the bytes of the parameter, and of each of its averages."""
        own, stored = [prod(shape) * dtype.itemsize for dtype, _, shape, _ in (self.layout, self.state_layout)]
        return own, stored

    @property
    def state_dtype(self) -> torch.dtype:
        """Return the dtype in which the averages are stored."""
        return self.state_layout[0]  # type: ignore[no-any-return]


def take(
    group: ParamGroup, i: int, index: int, state: dict[str, Tensor], names: list[str], dtype: torch.dtype
) -> Taken | str:
    """Take a parameter, with the averages `names` in `dtype`; return the reason if the kernel cannot step it."""
    p = group["params"][i]
    if reason := _state_refusal(p, state, names, dtype):
        return reason
    averages = {name: state[name] for name in names}
    try:
        row = _row(p, averages)
    except RuntimeError:  # in a transform of torch.func, tensors have no address
        return REASONS["memory"]
    layouts = _layout(_local(p)), _layout(_local(averages["square_avg"]))
    return Taken(index, p, state, state["step"], averages, *layouts, row)


def take_again(
    known: Taken, p: Tensor, state: dict[str, Tensor], names: list[str], wanted: torch.dtype | None
) -> Taken | None:
    """Take a parameter as in the step before, perhaps at new addresses; None if anything else has changed.

    `wanted` is the dtype that the group asks for; None: that of the parameter's computation.
    """
    if known.p is not p or known.state is not state or known.counter is not state.get("step"):
        return None
    averages, g = known.averages, p.grad
    if len(averages) != len(names) or g is None:
        return None
    own, is_plain = p, type(p) in PLAIN
    if not is_plain:
        if not _same_placements(p, g, *averages.values()):
            return None
        own, g = local_shard(p), _local(g)
    if type(g) is not Tensor or g.layout is not torch.strided or g.is_conj() or g.is_neg():
        return None
    # Written out: calls of `_layout` and `_row` would take half of the time.
    layout, stored, row = known.layout, known.state_layout, known.row
    if (own.dtype, own.device, own.shape, own.stride()) != layout:
        return None
    if (g.dtype, g.device, g.shape, g.stride()) != layout or stored[0] != (wanted or COMPUTE.get(p.dtype, p.dtype)):
        return None
    has_moved = own.data_ptr() != row.p or g.data_ptr() != row.g
    for name in names:
        x = state.get(name)
        if x is None or x is not averages.get(name):
            return None
        x = x if is_plain else local_shard(x)
        if (x.dtype, x.device, x.shape, x.stride()) != stored:
            return None
        has_moved = has_moved or x.data_ptr() != getattr(row, name)
    return replace(known, row=_row(p, averages)) if has_moved else known


def _local(x: Tensor) -> Tensor:
    return x if type(x) in PLAIN else local_shard(x)


def _same_placements(p: Tensor, *others: Tensor) -> bool:
    """Return whether `others` are spread over ranks as `p` is."""
    expected = placements(p)
    return all(placements(x) == expected for x in others)


def _layout(x: Tensor) -> tuple[Any, ...]:
    return x.dtype, x.device, x.shape, x.stride()


def tensor_refusal(group: ParamGroup, index: int) -> str | None:
    """Return why the layout of a parameter or its gradient keeps the kernel from stepping it; else None."""
    p, g = group["params"][index], group["params"][index].grad
    if type(g) not in PLAIN and not is_sharded(g):
        return REASONS["gradient class"]
    check_gradient(group, index)
    if not _same_placements(p, g):
        return REASONS["placements"]
    p, g = _local(p), _local(g)
    if type(p) not in PLAIN or type(g) not in PLAIN:
        return REASONS["class" if type(p) not in PLAIN else "gradient class"]
    if g.layout != torch.strided:
        return REASONS["gradient layout"]
    if g.device != p.device:
        return REASONS["gradient device"]
    if g.dtype != p.dtype:
        return REASONS["gradient dtype"]
    if p.is_conj() or p.is_neg():
        return REASONS["flag"]
    if g.is_conj() or g.is_neg():
        return REASONS["gradient flag"]
    if p.is_inference():
        return REASONS["inference"]
    if not p.is_contiguous() and order_of(p) != p.stride():
        return REASONS["strides"]
    return None if _same_layout(p, g) else REASONS["gradient strides"]


def _state_refusal(p: Tensor, state: dict[str, Tensor], names: list[str], dtype: torch.dtype) -> str | None:
    """Return why the state of a parameter keeps the kernel from stepping it; else None."""
    step = state.get("step")
    if not isinstance(step, Tensor) or is_sharded(step) or step.dtype != torch.float64 or step.numel() != 1:
        return REASONS["step"]
    if step.device.type != "cpu" and step.device != p.device:
        return REASONS["step"]
    averages = [state[name] for name in names if isinstance(state.get(name), Tensor)]
    if len(averages) < len(names):
        return REASONS["state"]
    if not _same_placements(p, *averages):
        return REASONS["placements"]
    p = _local(p)
    if dtype == torch.uint8 and not p.is_contiguous():
        return REASONS["row-major"]
    for x in map(_local, averages):
        if dtype == torch.uint8:
            fits = x.is_contiguous() and x.shape == (packed_size(p.numel()),)
        else:
            fits = _same_layout(p, x)
        if x.dtype != dtype or x.device != p.device or not fits:
            return REASONS["state"]
    return None


def _same_layout(p: Tensor, x: Tensor) -> bool:
    """Return whether each element of `x` has the offset of that of `p`. Strides of dimensions of size 1 are unused."""
    if x.shape != p.shape:
        return False
    if x.stride() == p.stride():
        return True
    return all(a == b for a, b, size in zip(x.stride(), p.stride(), p.shape, strict=True) if size > 1)


def _row(p: Tensor, averages: dict[str, Tensor]) -> TensorRow:
    v, m, b, w = [_local(averages[name]).data_ptr() if name in averages else 0 for name in AVERAGES]
    g: Any = p.grad
    p, g = _local(p), _local(g)
    return TensorRow(p.data_ptr(), g.data_ptr(), v, m, b, w, p.numel() * (2 if p.is_complex() else 1))
