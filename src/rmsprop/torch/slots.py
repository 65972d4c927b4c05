"""What a step reads and writes for one parameter, made where it is missing, and the step of it by tensor operations."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.optim.optimizer import _default_to_fused_or_foreach, _get_scalar_dtype

from rmsprop.rule import Rule
from rmsprop.torch import tensors
from rmsprop.torch.tensors import TensorList

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


def complete_state(group: Group, number: int, states: defaultdict[Tensor, Any]) -> dict[str, Tensor]:
    """Return the state of a parameter of `group` that has a gradient, with what was missing made."""
    p = group["params"][number]
    if p.grad.layout != torch.strided:
        raise RuntimeError(
            f"RMSprop needs dense gradients, got {p.grad.layout} for parameter {number} of shape {tuple(p.shape)}; "
            "make the layer dense, for example nn.Embedding(..., sparse=False)"
        )
    state: dict[str, Tensor] = states[p]
    fill = group["initial_square_avg"]
    if "step" not in state:
        state["step"] = step_counter(p, group["capturable"])
    if "square_avg" not in state:
        state["square_avg"] = _state_like(p, complex(fill, fill) if p.is_complex() else fill)
    own = state["square_avg"].dtype
    dtype = own if own == p.dtype else torch.promote_types(own, COMPUTE.get(p.dtype, p.dtype))
    if dtype != own:  # the model was moved to a wider dtype: its state follows
        state.update({name: state[name].to(dtype) for name in STATE if name in state})
    if group["centered"] and "grad_avg" not in state:
        state["grad_avg"] = _state_like(p, 0).to(dtype)
    if group["momentum"] and "momentum_buffer" not in state:
        state["momentum_buffer"] = _state_like(p, 0).to(dtype)
    return state


def slot(group: Group, number: int, states: defaultdict[Tensor, Any], grad_scale: float = 1.0) -> Slot:
    """Return the slot of a parameter that has a gradient, the gradient divided by `grad_scale`."""
    state, p = complete_state(group, number, states), group["params"][number]
    return Slot(
        real(p),
        real(scaled(p.grad, grad_scale)),
        state["step"],
        real(state["square_avg"]),
        real(state["grad_avg"]) if group["centered"] else None,
        real(state["momentum_buffer"]) if group["momentum"] else None,
    )


def scaled(g: Tensor, grad_scale: float) -> Tensor:
    """Return `g` divided by `grad_scale`, in the dtype that computes, and in memory as its numbers are."""
    g = g.resolve_conj()
    return g if grad_scale == 1 else g.to(COMPUTE.get(g.dtype, g.dtype)) * (1 / grad_scale)


def step_slots(group: Group, rule: Rule, slots: list[Slot]) -> None:
    """Update the parameters and state of `slots`, one by one or in lists, as `group` wants it."""
    for together in _together(group, slots):
        _step_together(group, rule, together)


def _together(group: Group, slots: list[Slot]) -> list[list[Slot]]:
    """Return the slots in lists that one call can update: by device and dtype with foreach, else one by one."""
    foreach = group["foreach"]
    if foreach is None:
        params = [slot.p for slot in slots]
        foreach = _default_to_fused_or_foreach(params, group["differentiable"], use_fused=False)[1]
    if not foreach:
        return [[slot] for slot in slots]
    lists: dict[tuple[torch.device, torch.dtype, torch.dtype], list[Slot]] = {}
    for slot in slots:
        lists.setdefault((slot.p.device, slot.p.dtype, slot.v.dtype), []).append(slot)
    return list(lists.values())


def _step_together(group: Group, rule: Rule, slots: list[Slot]) -> None:
    """Update the parameters and state of `slots`, which share device and dtype."""
    for slot in slots:
        slot.step.add_(1)
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if not (group["capturable"] or group["differentiable"]):
            lr = lr.item()
        elif lr.dim():
            lr = lr.squeeze()
    else:
        lr = float(lr)
    given, dtype = slots[0].p.dtype, slots[0].v.dtype
    work = slots
    if given != dtype:  # half precision computes in that of its state
        work = [slot._replace(p=slot.p.to(dtype), g=slot.g.to(dtype)) for slot in slots]
    power: Any = None
    if rule.bias_correction:
        power = tensors.bias_power(rule, [slot.step for slot in slots], capturable=group["capturable"])
    if len(work) == 1:
        p, g, _, v, m, b = work[0]
        tensors.step(rule, lr, p, g, v, m, b, power and power[0], dtype)
    else:
        lists: list[Any] = [None if column[0] is None else TensorList(column) for column in zip(*work, strict=True)]
        p, g, _, v, m, b = lists
        tensors.step(rule, lr, p, g, v, m, b, power, dtype)
    if given != dtype:
        for slot, computed in zip(slots, work, strict=True):
            slot.p.copy_(computed.p)


def real(x: Tensor) -> Tensor:
    """Return a complex tensor as a real one with a last dimension of 2."""
    return torch.view_as_real(x) if x.is_complex() else x


def step_counter(p: Tensor, capturable: bool, value: float = 0.0) -> Tensor:
    """Return a new step counter for `p`; on the CPU unless a graph is to be captured."""
    dtype = _get_scalar_dtype()  # type: ignore[no-untyped-call]
    return torch.tensor(value, dtype=dtype, device=p.device if capturable else "cpu")


def _state_like(p: Tensor, value: complex) -> Tensor:
    dtype = COMPUTE.get(p.dtype, p.dtype)
    return torch.full_like(p, value, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)
