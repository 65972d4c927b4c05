"""The native kernel's caller: gathers what it can step, and says of everything else why not.

Nothing is cached from one step to the next that could go stale: the kernel reads each parameter's, gradient's and
state's address, dtype and layout anew, through functions that torch publishes in C (some 0.1 µs each).
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rmsprop import native
from rmsprop.errors import InputError
from rmsprop.torch.engines.sparse_rows import Lag, Rows
from rmsprop.torch.groups import check_constant, check_lr, check_storage, lr_number, rule_from, rule_of, rule_values
from rmsprop.torch.private import connect_kernel, dispatch_modes
from rmsprop.torch.state import COMPUTE, STATE, Group, complete_state

REASONS = {
    "class": "it is of a subclass of Tensor, which may compute in its own way",
    "layout": "it has no memory of its own",
    "device": "it is not on the CPU",
    "dtype": "its dtype is not float32, float64, bfloat16, float16, complex64 or complex128",
    "flag": "it is a conjugated or negated view",
    "strides": "its memory has gaps or repeats",
    "overlap": "its memory overlaps that of its gradient or state",
    "gradient class": "its gradient is of a subclass of Tensor",
    "gradient layout": "its gradient is sparse or has no memory of its own",
    "gradient device": "its gradient is not on the CPU",
    "gradient dtype": "its gradient has another dtype",
    "gradient flag": "its gradient is a conjugated or negated view",
    "gradient strides": "its gradient has other strides",
    "state": "its state has another dtype or other strides than the kernel uses",
    "row-major": "its 8-bit state is in row-major order, which its memory is not",
    "step": "its step counter is not a CPU tensor of one float64 number",
}


class Refused(NamedTuple):
    """What is left to tensor operations: parameters by number, or None for all of the group, and why."""

    group: int
    numbers: list[int] | None
    reason: str


UNAVAILABLE = connect_kernel()


def new_batch() -> Any:
    """Return a new batch of the kernel, None where the kernel cannot read tensors."""
    return None if UNAVAILABLE is not None else native.kernel.Batch()  # type: ignore[union-attr]


def set_aside(group: Group) -> str | None:
    """Return None if `group` is to be stepped by the kernel, else why not."""
    off = group["fused"] is not None and not group["fused"]
    if off or group["foreach"] is not None or group["capturable"] or group["differentiable"]:
        defaults = {"fused": None, "foreach": None, "capturable": False, "differentiable": False}
        return ", ".join(f"{name}={group[name]}" for name, value in defaults.items() if group[name] is not value)
    if dispatch_modes():
        return "a torch dispatch mode watches tensor operations"
    return UNAVAILABLE


@lru_cache(maxsize=256, typed=True)
def _kernel_rule(*values: Any) -> Any:
    check_constant(values)
    return native.kernel_rule(rule_from(*values))


def kernel_rule_of(group: Group) -> Any:
    """Return the rule of `group` as the kernel takes it, checked."""
    lr = group["lr"]
    if type(lr) is not float or not 0 <= lr < math.inf:
        check_lr(group)
    try:
        return _kernel_rule(*rule_values(group))
    except TypeError:  # something unhashable, such as a list, which Rule will name
        return native.kernel_rule(rule_of(group))


def _precision(state_dtype: str | None, stochastic_rounding: int, nonfinite: str) -> Any:
    bits = {None: 0, "bfloat16": 16, "uint8": 8}[state_dtype]
    mode = getattr(native.kernel.Nonfinite, nonfinite)  # type: ignore[union-attr]
    seed = int(stochastic_rounding)
    return native.kernel.Precision(state=bits, stochastic=seed > 0, seed=seed or 1, nonfinite=mode)  # type: ignore[union-attr]


@lru_cache(maxsize=256)
def _kernel_precision(*values: Any) -> Any:
    check_constant(values)
    return _precision(*values)


def kernel_precision_of(group: Group) -> Any:
    """Return how the parameters of `group` are stored and rounded, as the kernel takes it."""
    values = group["state_dtype"], group["stochastic_rounding"], group["nonfinite"]
    try:
        return _kernel_precision(*values)
    except TypeError:  # a seed that may change in place
        return _precision(*values)


def gather(
    batch: Any, groups: list[Group], states: defaultdict[Tensor, Any], firsts: list[int], *, sparse: bool = False
) -> list[Refused]:
    """Put every parameter with a gradient that the kernel can step into `batch`, its state made; return the others.

    `firsts` are the numbers of the groups' first parameters. `sparse` says that some gradients may be sparse. The
    kernel finds that out, too, but torch takes milliseconds to tell it that a tensor has no memory of its own.
    """
    refused: list[Refused] = []
    for again in (True, False):
        if batch is not None:
            batch.clear()
        refused.clear()
        incomplete = False
        for index, group in enumerate(groups):
            check_storage(group)
            why = set_aside(group)
            if why:
                refused.append(Refused(index, None, why))
                continue
            rule, lr = kernel_rule_of(group), group["lr"]
            lr = lr if type(lr) is float else lr_number(lr)
            params = group["params"] if isinstance(group["params"], list) else list(group["params"])
            precision, first = kernel_precision_of(group), firsts[index]
            apart = [i for i, p in enumerate(params) if p.grad is not None and p.grad.is_sparse] if sparse else []
            refused += [Refused(index, [number], REASONS["gradient layout"]) for number in apart]
            for start, stop in zip([0, *(number + 1 for number in apart)], [*apart, len(params)], strict=True):
                piece = params[start:stop] if apart else params
                for place, word in batch.add(rule, precision, lr, piece, states, first + start) or ():
                    if word in ("state", "step") and again:
                        complete_state(group, start + place, states)
                        incomplete = True
                    refused.append(Refused(index, [start + place], REASONS[word]))
        if not incomplete:
            break
    for index, numbers, reason in refused:
        if groups[index]["fused"]:
            raise InputError("fused", f"None or False for {_where(index, numbers)}", True, f"{reason}; leave fused out")
    return refused


def add_rows(
    batch: Any, group: Group, number: int, state: dict[str, Tensor], lag: Lag | None, *, first: int = 0
) -> bool:
    """Put the rows that the gradient of a parameter touches into `batch`; return whether the kernel can step them."""
    p = group["params"][number]
    grad = p.grad
    if batch is None or set_aside(group) or not grad.sparse_dim() or p.device.type != "cpu":
        return False
    rule, precision, lr = kernel_rule_of(group), kernel_precision_of(group), lr_number(group["lr"])
    averages = [state.get(name) for name in STATE]
    row_step = None if lag is None else lag.row_step.numpy()
    index, values = grad._indices().numpy(), grad._values().contiguous()
    why = batch.add_rows(rule, precision, lr, p, index, values, state["step"], *averages, row_step, first + number)
    return why is None


def add_copies(batch: Any, group: Group, rows: Rows) -> bool:
    """Put copies of touched rows into `batch`, for what `add_rows` does not take; return as it does."""
    if batch is None or set_aside(group):
        return False
    rule, precision, lr = kernel_rule_of(group), kernel_precision_of(group), lr_number(group["lr"])
    lists = [[x] for x in (rows.p, rows.g, rows.step, rows.v, rows.m, rows.b)]
    return batch.add_lists(rule, precision, lr, *lists, [rows.number]) is None


@lru_cache(maxsize=8)
def say_once(reason: str) -> None:
    """Warn that steps on the CPU run without the kernel, the first time in this process."""
    warnings.warn(f"rmsprop: {reason}", stacklevel=2)


def expected(groups: list[Group]) -> list[Refused]:
    """Return what will be refused as far as the parameters alone tell, before there are gradients and state."""
    refused = []
    for index, group in enumerate(groups):
        if why := set_aside(group):
            refused.append(Refused(index, None, why))
            continue
        for number, p in enumerate(group["params"]):
            known = (
                ("class", type(p) in (Tensor, torch.nn.Parameter) or torch.nn.parameter.is_lazy(p)),
                ("device", p.device.type == "cpu"),
                ("dtype", COMPUTE.get(p.dtype, p.dtype).to_real() in (torch.float32, torch.float64)),
            )
            refused += [Refused(index, [number], REASONS[word]) for word, good in known if not good][:1]
    return refused


def describe(groups: list[Group], stepped: int, refused: list[Refused]) -> str:
    """Return in words how a step ran: `stepped` parameters by the kernel, `refused` by tensor operations."""
    kernel = f"native kernel ({native.kernel.instruction_set()})" if native.kernel else ""
    left = [
        (reason, _where(index, numbers))
        for index, numbers, reason in refused
        if numbers is not None or groups[index]["params"]
    ]
    if not left:
        return kernel
    places: dict[str, list[str]] = {}
    for reason, where in left:
        places.setdefault(reason, []).append(where)
    told = "; ".join(
        f"{where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {reason}"
        for reason, where in places.items()
    )
    if stepped:
        return f"{kernel}, but tensor operations for some ({told})"
    return f"tensor operations ({told if len(places) > 1 else next(iter(places))})"


def _where(group: int, numbers: list[int] | None) -> str:
    return f"group {group}" if numbers is None else f"parameter {numbers[0]} of group {group}"
