"""Complete and check the state of one parameter before a step: its averages and step counter."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rmsprop.errors import InputError, Received, check_number, plain
from rmsprop.hyperparameters import HYPERPARAMETERS
from rmsprop.profiles import SHAPE_KEY
from rmsprop.rule import AVERAGES, SQUARES
from rmsprop.torch import low_precision

ParamGroup: TypeAlias = dict[str, Any]  # torch's type; keys: FIELDS and EXECUTION of `groups`, and those of wrappers

# {average: the key of a group that needs it}. All groups need square_avg.
NEEDED_BY = {each.average: each.name_in("torch") for each in HYPERPARAMETERS.values() if each.average}
LAGGING = ("square_avg", "grad_avg", "max_square_avg")  # a row without gradient can catch up with these later
COMPUTE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}  # compute dtypes; others: the same dtype


def complete_state(group: ParamGroup, index: int, states: defaultdict[Tensor, Any]) -> dict[str, Tensor]:
    """Check the state of a parameter with a gradient, allocate the missing parts, and return the state."""
    p = group["params"][index]
    check_gradient(group, index)
    state: dict[str, Tensor] = states[p]
    for name in AVERAGES:
        if not isinstance(state.get(name, p), Tensor):
            found, remedy = Received(f"a {type(state[name]).__name__}"), "load the dict that state_dict() gave"
            raise InputError(f"{name} of parameter {index}", "a Tensor", found, remedy)
    check_shapes(group, index, state)
    dtype = state_dtype(group, p)
    step = state.get("step", 0)
    if not isinstance(step, Tensor):
        count = check_number(f"step of parameter {index}", step, "it counts executed steps")
        state["step"] = step_counter(p, group["capturable"] or group["nonfinite"] == "skip", count)
    elif step.dtype != torch.float64 and not step.is_shared():  # type: ignore[no-untyped-call]  # others count in it
        state["step"] = as_counter(step)
    if "square_avg" in state and state["square_avg"].dtype != dtype:
        stored = state["square_avg"].dtype
        is_wider = stored.is_floating_point and torch.promote_types(stored, dtype) == stored
        if group["state_dtype"] is not None or not is_wider:
            # Convert packed averages, on request, or to a wider dtype after the model was moved. A wider one stays.
            state.update({name: converted(state[name], name, p, dtype) for name in AVERAGES if name in state})
    dtype = state["square_avg"].dtype if "square_avg" in state else dtype
    for name in needed_averages(group):
        if name not in state:
            start = float(plain(group["initial_square_avg"])) if name == "square_avg" else 0.0
            state[name] = _new_average(p, name, start, dtype)
    if dtype != torch.uint8:
        state.pop(SHAPE_KEY, None)
    elif SHAPE_KEY not in state:
        state[SHAPE_KEY] = shape_of(p)
    return state


def needed_averages(group: ParamGroup) -> list[str]:
    """Return the names of the averages that the rule of `group` keeps, in the order of AVERAGES."""
    return [name for name in AVERAGES if name == "square_avg" or group.get(NEEDED_BY[name])]


def check_gradient(group: ParamGroup, index: int) -> None:
    """Raise if a gradient has another shape than its parameter, or is sparse and `group` cannot step it."""
    p = group["params"][index]
    if p.grad.shape != p.shape:
        found, remedy = Received(str(tuple(p.grad.shape))), "restore its shape"
        raise InputError(f"the gradient of parameter {index}", f"of its shape {tuple(p.shape)}", found, remedy)
    if p.grad.layout == torch.strided:
        return
    where = f"for parameter {index} of shape {tuple(p.shape)}"
    if p.layout != torch.strided or p.grad.layout != torch.sparse_coo:
        raise RuntimeError(
            f"RMSprop needs dense parameters with dense or sparse_coo gradients, got {p.layout} with {p.grad.layout} "
            f"{where}; make it dense: p.to_dense()"
        )
    for name, off in (("capturable", False), ("differentiable", False), ("state_dtype", None)):
        if group[name]:
            remedy = f"omit {name}, or make the gradients dense"
            raise InputError(name, f"{off} with sparse gradients {where}", group[name], remedy)
    if group["sparse"] == "exact":
        # With these, a row without gradient would move at every step, or its averages could not catch up later.
        names = [NEEDED_BY[average] for average in AVERAGES if average not in LAGGING]
        for name in (*names, "weight_decay"):
            if group.get(name):
                remedy = f"pass sparse='lazy' or dense gradients, or switch {name} off for this group"
                raise InputError(name, f"0 with sparse gradients and sparse='exact' {where}", group[name], remedy)
    elif group["bias_correction"]:  # rows have no step counters
        allowed, remedy = "False with sparse gradients and sparse='lazy'", "pass sparse='exact', or dense gradients"
        raise InputError("bias_correction", f"{allowed} {where}", True, remedy)


def shape_of(p: Tensor) -> Tensor:
    """Return the shape of `p` as a Tensor, for the state: packed averages lose the shape."""
    return torch.tensor(p.shape, dtype=torch.int64, device="cpu")


def check_shapes(group: ParamGroup, index: int, state: dict[str, Tensor]) -> None:
    """Raise if a parameter and its averages differ in shape, as after `p.data = …`."""
    p = group["params"][index]
    for name in AVERAGES:
        if (x := state.get(name)) is None:
            continue
        shape = x.shape
        if x.dtype == torch.uint8:
            fits = x.numel() == low_precision.packed_size(p.numel())
            shape = torch.Size(state[SHAPE_KEY].tolist()) if SHAPE_KEY in state else p.shape if fits else x.shape
        if shape != p.shape:
            names = group.get("param_names")
            where = f"{name} of parameter {index}" + (f" ({names[index]})" if names else "")
            remedy = "give the parameter its shape back, or forget its averages: optimizer.state.pop(parameter)"
            raise InputError(where, f"of its shape {tuple(p.shape)}", Received(f"{tuple(shape)}"), remedy)


def state_dtype(group: ParamGroup, p: Tensor) -> torch.dtype:
    """Return the dtype of new averages of `p`; raise if `group` asks for one that `p` cannot have."""
    wanted = group["state_dtype"]
    if wanted is None:
        return COMPUTE.get(p.dtype, p.dtype)
    if p.dtype not in (torch.float32, *COMPUTE):
        found = Received(f"{wanted!r} for one of {p.dtype}".replace("torch.", ""))
        raise InputError(
            "state_dtype", "None for parameters that are not float32, bfloat16 or float16", found, "omit it"
        )
    if wanted == "uint8" and type(p) not in (Tensor, torch.nn.Parameter) and not torch.nn.parameter.is_lazy(p):
        found = Received(f"'uint8' for a {type(p).__name__}")
        raise InputError("state_dtype", "None or 'bfloat16' for a subclass of Tensor", found, "omit it")
    return low_precision.DTYPES[wanted]


def average(state: dict[str, Tensor], name: str, p: Tensor) -> Tensor:
    """Return an average of `p` in its compute dtype, a complex one viewed as real."""
    x = state[name]
    if x.dtype == torch.uint8:
        return low_precision.unpack(x, p, signed=name not in SQUARES)
    return x.float() if x.dtype == torch.bfloat16 else real(x)


def kappa_of(stored: torch.dtype) -> float:
    """Return κ of E5 for averages of dtype `stored`: 8 × unit roundoff."""
    return low_precision.KAPPA[stored] if stored in low_precision.KAPPA else 4 * torch.finfo(stored).eps


def converted(x: Tensor, name: str, p: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an average of `p` in another dtype, rounded to nearest."""
    signed = name not in SQUARES
    if x.dtype == torch.uint8:
        x = low_precision.unpack(x, p, signed=signed)
    return low_precision.pack(x, signed=signed, key=None) if dtype == torch.uint8 else x.to(dtype)


def real(x: Tensor) -> Tensor:
    """View a complex tensor as a real one with a last dimension of 2; return other tensors unchanged."""
    return torch.view_as_real(x) if x.is_complex() else x


def step_counter(p: Tensor, capturable: bool, value: float = 0.0) -> Tensor:
    """Return a new step counter for `p`: on its device if `capturable`, else on the CPU."""
    return as_counter(torch.tensor(float(value), dtype=torch.float64, device="cpu"), p.device if capturable else None)


def as_counter(step: Tensor, device: torch.device | None = None) -> Tensor:
    """Return a step counter in float64 on `device` or its own device. A float32 counter would stop at 2²⁴."""
    device = step.device if device is None else device
    return step.to(device, torch.float32 if device.type == "mps" else torch.float64)  # MPS has no float64


def _new_average(p: Tensor, name: str, start: float, dtype: torch.dtype) -> Tensor:
    """Return a new average of `p` in `dtype`, filled with `start`; both parts of a complex average have it."""
    if dtype == torch.uint8:
        return low_precision.packed_full(p.numel(), start, signed=name not in SQUARES, device=p.device)
    value = complex(start, start) if p.is_complex() else start
    return torch.full_like(p, value, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)
