"""What a step reads and writes for one parameter, made where it is missing, and the step of it by tensor operations."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from rmsprop.errors import InputError, Received, check_number, plain
from rmsprop.profiles import SHAPE_KEY
from rmsprop.rule import Rule
from rmsprop.torch import low_precision
from rmsprop.torch.distributed import is_sharded, local_shard
from rmsprop.torch.engines import arithmetic, sparse_rows
from rmsprop.torch.engines.arithmetic import TensorList
from rmsprop.torch.private import foreach_is_default

Group: TypeAlias = dict[str, Any]

COMPUTE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}  # else a dtype computes in itself
STATE = ("square_avg", "grad_avg", "momentum_buffer")


class Slot(NamedTuple):
    """One parameter and what a step reads and writes for it; complex tensors are seen as real ones."""

    p: Tensor
    g: Tensor
    step: Tensor
    v: Tensor
    m: Tensor | None
    b: Tensor | None
    number: int = 0  # among all parameters, for the noise of stochastic rounding


def first_numbers(groups: list[Group]) -> list[int]:
    """Return the number of each group's first parameter among those of all groups."""
    numbers, count = [], 0
    for group in groups:
        numbers.append(count)
        count += len(group["params"])
    return numbers


def complete_state(group: Group, number: int, states: defaultdict[Tensor, Any]) -> dict[str, Tensor]:
    """Return the state of a parameter of `group` that has a gradient, with what was missing made."""
    p = group["params"][number]
    sparse_rows.check(group, number)
    state: dict[str, Tensor] = states[p]
    for name in STATE:
        if not isinstance(state.get(name, p), Tensor):
            found, remedy = Received(f"a {type(state[name]).__name__}"), "load the dict that state_dict() gave"
            raise InputError(f"{name} of parameter {number}", "a Tensor", found, remedy)
    check_shapes(group, number, state)
    dtype, fill = state_dtype(group, p), float(plain(group["initial_square_avg"]))
    step = state.get("step", 0)
    if not isinstance(step, Tensor):
        count = check_number(f"step of parameter {number}", step, "it counts the steps that were made")
        state["step"] = step_counter(p, group["capturable"] or group["nonfinite"] == "skip", count)
    elif step.dtype != torch.float64:
        state["step"] = counting(step)
    if "square_avg" in state and state["square_avg"].dtype != dtype:
        own = state["square_avg"].dtype
        if group["state_dtype"] is not None or not own.is_floating_point or torch.promote_types(own, dtype) != own:
            # Asked for, or the model was moved to a wider dtype: its state follows.
            state.update({name: converted(state[name], name, p, dtype) for name in STATE if name in state})
    dtype = state["square_avg"].dtype if "square_avg" in state else dtype
    starts = {"square_avg": complex(fill, fill) if p.is_complex() else fill}
    if group["centered"]:
        starts["grad_avg"] = 0
    if group["momentum"]:
        starts["momentum_buffer"] = 0
    for name, start in starts.items():
        if name not in state:
            state[name] = _state_like(p, name, start, dtype)
    if dtype != torch.uint8:
        state.pop(SHAPE_KEY, None)
    elif SHAPE_KEY not in state:
        state[SHAPE_KEY] = shape_of(p)
    return state


def shape_of(p: Tensor) -> Tensor:
    """Return the sizes of `p`, which the state of packed averages has: their bytes do not tell."""
    return torch.tensor(p.shape, dtype=torch.int64, device="cpu")


def check_shapes(group: Group, number: int, state: dict[str, Tensor]) -> None:
    """Raise if the averages of a parameter of `group` are of another shape than it has now, as after `p.data = …`."""
    p = group["params"][number]
    for name in STATE:
        if (x := state.get(name)) is None:
            continue
        shape = x.shape
        if x.dtype == torch.uint8:
            fits = x.numel() == low_precision.packed_size(p.numel())
            shape = torch.Size(state[SHAPE_KEY].tolist()) if SHAPE_KEY in state else p.shape if fits else x.shape
        if shape != p.shape:
            names = group.get("param_names")
            where = f"{name} of parameter {number}" + (f" ({names[number]})" if names else "")
            remedy = "give the parameter its shape back, or forget its averages: optimizer.state.pop(parameter)"
            raise InputError(where, f"of its shape {tuple(p.shape)}", Received(f"{tuple(shape)}"), remedy)


def state_dtype(group: Group, p: Tensor) -> torch.dtype:
    """Return the dtype that new averages of `p` have."""
    wanted = group["state_dtype"]
    if wanted is None:
        return COMPUTE.get(p.dtype, p.dtype)
    if p.dtype not in (torch.float32, *COMPUTE):
        found = Received(f"{wanted!r} for one of {p.dtype}".replace("torch.", ""))
        raise InputError(
            "state_dtype", "None for parameters that are not float32, bfloat16 or float16", found, "leave it out"
        )
    if wanted == "uint8" and type(p) not in (Tensor, torch.nn.Parameter) and not torch.nn.parameter.is_lazy(p):
        found = Received(f"'uint8' for a {type(p).__name__}")
        raise InputError("state_dtype", "None or 'bfloat16' for a subclass of Tensor", found, "leave it out")
    return low_precision.DTYPES[wanted]


def average(state: dict[str, Tensor], name: str, p: Tensor) -> Tensor:
    """Return an average of `p` as numbers to compute with, complex ones seen as real."""
    x = state[name]
    if x.dtype == torch.uint8:
        return low_precision.unpack(x, p, signed=name != "square_avg")
    return x.float() if x.dtype == torch.bfloat16 else real(x)


def kappa_of(stored: torch.dtype) -> float:
    """Return κ of E5 for averages of dtype `stored`: 8 × unit roundoff."""
    return low_precision.KAPPA[stored] if stored in low_precision.KAPPA else 4 * torch.finfo(stored).eps


def converted(x: Tensor, name: str, p: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an average of `p` in another dtype, rounded to nearest."""
    signed = name != "square_avg"
    if x.dtype == torch.uint8:
        x = low_precision.unpack(x, p, signed=signed)
    return low_precision.pack(x, signed=signed, key=None) if dtype == torch.uint8 else x.to(dtype)


def slot(
    group: Group, number: int, states: defaultdict[Tensor, Any], grad_scale: float = 1.0, *, first: int = 0
) -> Slot:
    """Return the slot of a parameter that has a gradient, the gradient divided by `grad_scale`.

    `first` is the number of the group's first parameter among all.
    """
    state, p = complete_state(group, number, states), group["params"][number]
    return Slot(
        real(p),
        real(scaled(p.grad, grad_scale)),
        state["step"],
        real(state["square_avg"]),
        real(state["grad_avg"]) if group["centered"] else None,
        real(state["momentum_buffer"]) if group["momentum"] else None,
        first + number,
    )


def rows_slot(rows: sparse_rows.Rows, grad_scale: float = 1.0) -> Slot:
    """Return the slot of the rows that a sparse gradient touches, the gradient divided by `grad_scale`."""
    m, b = (None if x is None else real(x) for x in (rows.m, rows.b))
    return Slot(real(rows.p), real(scaled(rows.g, grad_scale)), rows.step, real(rows.v), m, b, rows.number)


def scaled(g: Tensor, grad_scale: float) -> Tensor:
    """Return `g` divided by `grad_scale`, in the dtype that computes, and in memory as its numbers are."""
    g = g.resolve_conj()
    return g if grad_scale == 1 else g.to(COMPUTE.get(g.dtype, g.dtype)) * (1 / grad_scale)


def step_slots(group: Group, rule: Rule, slots: list[Slot], skip: Tensor | None = None) -> None:
    """Update the parameters and state of `slots`, one by one or in lists, as `group` wants it.

    Where `skip` is true, everything stays as it is; it is not read by the host, so that no device is waited for.
    """
    if skip is not None:
        slots = [_local(slot) for slot in slots]
    for together in _together(group, slots):
        if skip is None:
            _step_together(group, rule, together)
            continue
        written = [x for slot in together for x in (slot.p, *slot[2:6]) if x is not None]
        before = [x.clone() for x in written]
        _step_together(group, rule, together)
        for x, old in zip(written, before, strict=True):
            x.copy_(torch.where(skip.to(x.device), old, x))


def _together(group: Group, slots: list[Slot]) -> list[list[Slot]]:
    """Return the slots in lists that one call can update: by device and dtype with foreach, else one by one."""
    foreach = group["foreach"]
    if foreach is None:
        params = [slot.p for slot in slots]
        foreach = foreach_is_default(params, group["differentiable"])
    if not foreach:
        return [[slot] for slot in slots]
    lists: dict[tuple[Any, ...], list[Slot]] = {}
    for slot in slots:  # foreach takes no DTensors beside plain tensors
        key = slot.p.device, slot.p.dtype, slot.v.dtype, is_sharded(slot.p)
        lists.setdefault(key, []).append(slot)
    return list(lists.values())


def _step_together(group: Group, rule: Rule, slots: list[Slot]) -> None:
    """Update the parameters and state of `slots`, which share device and dtype."""
    # A compiled graph loses what `add_` does to a float64 tensor of no dimension on the CPU (torch 2.13).
    torch._foreach_add_([slot.step for slot in slots], 1)
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if not (group["capturable"] or group["differentiable"]):
            lr = lr.item()
        elif lr.dim():
            lr = lr.squeeze()
    else:
        lr = float(lr)
    on_device = group["capturable"] or slots[0].step.device.type != "cpu"
    power: Any = [None] * len(slots)
    if rule.bias_correction:
        power = arithmetic.bias_power(rule, [slot.step for slot in slots], capturable=on_device)
    if _is_rounded(group, slots):
        for slot, own in zip(slots, power, strict=True):
            _step_rounded(group, rule, lr, _local(slot), own, on_device)
        return
    given, dtype = slots[0].p.dtype, slots[0].v.dtype
    if given != dtype or any(slot.g.dtype != dtype for slot in slots):
        work = [slot._replace(p=slot.p.to(dtype), g=slot.g.to(dtype)) for slot in slots]
    else:
        work = slots
    if len(work) == 1:
        p, g, _, v, m, b, _ = work[0]
        arithmetic.step(rule, lr, p, g, v, m, b, power[0], kappa_of(dtype))
    else:
        columns = list(zip(*work, strict=True))[:6]
        lists: list[Any] = [None if column[0] is None else TensorList(column) for column in columns]
        p, g, _, v, m, b = lists
        arithmetic.step(rule, lr, p, g, v, m, b, power, kappa_of(dtype))
    if given != dtype:
        for slot, computed in zip(slots, work, strict=True):
            slot.p.copy_(computed.p)


def _is_rounded(group: Group, slots: list[Slot]) -> bool:
    """Return whether something of `slots`, which share dtypes, is rounded by noise."""
    stochastic = bool(group["stochastic_rounding"]) and slots[0].p.dtype == torch.bfloat16
    return stochastic or slots[0].v.dtype in low_precision.KAPPA


def _local(slot: Slot) -> Slot:
    """Return the slot of what this rank holds, if its tensors are spread over ranks (DTensor)."""
    shards: dict[str, Any] = {name: local_shard(x) for name, x in slot._asdict().items() if isinstance(x, Tensor)}
    return slot._replace(**shards)


def _step_rounded(group: Group, rule: Rule, lr: Any, slot: Slot, power: Any, on_device: bool) -> None:
    """Step one parameter, rounding by noise what is stored in fewer bits; in pieces, which bounds the memory for it.

    The operations are those of the kernel, one by one, so that what is rounded is the same bits, too.
    """
    stored = slot.v.dtype
    dtype = torch.float32 if stored in low_precision.KAPPA else stored
    seed = int(group["stochastic_rounding"])
    stochastic = seed > 0 and slot.p.dtype == torch.bfloat16
    keys = low_precision.noise_keys(seed or 1, slot.number, slot.step.long() if on_device else int(slot.step.item()))
    size = slot.p.numel()
    whole = size <= _PIECE or not all(x is None or x.is_contiguous() for x in (slot.p, slot.g, *slot[3:6]))
    for at in (0,) if whole else range(0, size, _PIECE):
        piece = slot if whole else _piece(slot, at, min(at + _PIECE, size))
        own = {"square_avg": piece.v, "grad_avg": piece.m, "momentum_buffer": piece.b}
        p = piece.p.to(dtype)
        v, m, b = (None if x is None else average({name: x}, name, piece.p).to(dtype) for name, x in own.items())
        arithmetic.step(rule, lr, p, piece.g.to(dtype), v, m, b, power, kappa_of(stored), exact=True)
        if stochastic or stored == torch.bfloat16:
            numbers = low_precision.positions(piece.p) + at
        piece.p.copy_(low_precision.round_bfloat16(p.float(), keys[0], numbers) if stochastic else p)
        for i, (into, part, x) in enumerate(zip((slot.v, slot.m, slot.b), own.values(), (v, m, b), strict=True)):
            if into is None or part is None or x is None or stored == dtype:
                continue
            if stored == torch.uint8:
                codes = low_precision.pack(x, signed=i > 0, key=keys[1 + i] + at)
                low_precision.put(codes, into, at, x.numel(), size)
            else:
                part.copy_(low_precision.round_bfloat16(x, keys[1 + i], numbers))


_PIECE = 1 << 20  # elements; whole blocks of eight bits


def _piece(slot: Slot, start: int, stop: int) -> Slot:
    """Return the slot of some elements; averages in eight bits are copies."""
    size = slot.p.numel()

    def cut(x: Tensor | None) -> Tensor | None:
        if x is None or x.dtype != torch.uint8:
            return None if x is None else x.view(-1)[start:stop]
        return low_precision.take(x, start, stop, size)

    v, m, b = map(cut, slot[3:6])
    return slot._replace(p=slot.p.view(-1)[start:stop], g=slot.g.reshape(-1)[start:stop], v=v, m=m, b=b)  # type: ignore[arg-type]


def real(x: Tensor) -> Tensor:
    """Return a complex tensor as a real one with a last dimension of 2."""
    return torch.view_as_real(x) if x.is_complex() else x


def step_counter(p: Tensor, capturable: bool, value: float = 0.0) -> Tensor:
    """Return a new step counter for `p`; on the CPU unless a graph is to be captured."""
    return counting(torch.tensor(float(value), dtype=torch.float64, device="cpu"), p.device if capturable else None)


def counting(step: Tensor, device: torch.device | None = None) -> Tensor:
    """Return a step counter in float64, on `device` or where it is: in float32, it would stand still from 2²⁴ on."""
    device = step.device if device is None else device
    return step.to(device, torch.float32 if device.type == "mps" else torch.float64)  # MPS has no float64


def _state_like(p: Tensor, name: str, value: complex, dtype: torch.dtype) -> Tensor:
    if dtype == torch.uint8:
        return low_precision.packed_full(p.numel(), value.real, signed=name != "square_avg", device=p.device)
    return torch.full_like(p, value, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)
