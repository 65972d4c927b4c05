"""The record of one step, from arrays: what `from_optax` and `from_keras` have in common.

Gradients may be clipped, scaled or gathered before they reach RMSprop, and only those given are at hand. What reached
it is in its state: by E3 its square is (v₁ − β·v₀)/(1 − β), as exactly as v is stored. Where a given gradient is none
that v can have met, the nearest one that it can is measured, with the sign of the given one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received
from rmsprop.monitor import record
from rmsprop.monitor.record import Change, GroupRecord, Record, TensorRecord
from rmsprop.monitor.statistics import describe
from rmsprop.rule import Rule
from rmsprop.statistics import COLUMNS, sums

Array = npt.NDArray[Any]

_NONFINITE = COLUMNS.index("nonfinite")
_ROUNDINGS = 4  # of v in units of its last place: of β and 1−β, g² and products, and their sum, in v's own dtype


class Tensor(NamedTuple):
    """A parameter, and what belongs to it, before and after a step."""

    name: str
    before: Array
    after: Array
    gradient: Array  # as given
    square_avg_before: Array
    square_avg: Array
    grad_avg: Array | None
    previous: Array | None  # the gradient of the step before
    decays: bool = True  # whether the rule's weight decay reaches it


def make(rule: Rule, step: int, tensors: Sequence[Tensor], *, state_dtype: str | None) -> Record:
    """Return the record of a step, in the form of `rmsprop.monitor.Monitor`."""
    described: dict[str, TensorRecord] = {}
    rows, was_left_out = [], left_out(tensors)
    for x in tensors:
        gradient = x.gradient if was_left_out else _reached(rule, x)
        row, histogram = sums(
            rule,
            before=x.before,
            after=x.after,
            gradient=gradient,
            square_avg_before=x.square_avg_before,
            square_avg=x.square_avg,
            grad_avg=x.grad_avg,
            step=step,
        )
        rows.append(row)
        elements, has_rows = x.before.size * (2 if np.iscomplexobj(x.before) else 1), x.before.ndim > 1
        described[x.name] = {
            "group": 0,
            "shape": list(x.before.shape),
            "dtype": str(x.after.dtype),
            "state_dtype": str(x.square_avg.dtype),
            "age": step - 1,
            **describe(elements, row, histogram, rule.lr, rule.centered),
            **_change(x),
            "dead_rows": record.dead_rows(gradient, x.square_avg) if has_rows else None,
            "rows": len(x.before) if has_rows else None,
        }
    group: Any = {
        **dataclasses.asdict(rule),
        "state_dtype": state_dtype,
        "param_dtype": dtypes(x.after for x in tensors),
        "stochastic_rounding": False,
        "nonfinite": "skip" if was_left_out else "zero" if any(map(_zeroed, tensors)) else "propagate",
    }
    table = np.array(rows).reshape(len(rows), len(COLUMNS))
    nonfinite_steps = int(bool((table[:, _NONFINITE] > 0).any()))
    return record.assemble(step, [cast("GroupRecord", group)], described, table, nonfinite_steps, int(was_left_out))


def left_out(tensors: Sequence[Tensor]) -> bool:
    """Return whether a gradient was not finite and no v has changed, as in what `optax.apply_if_finite` leaves out."""
    return any(not np.isfinite(record.reals(x.gradient)).all() for x in tensors) and all(
        np.array_equal(x.square_avg_before, x.square_avg) for x in tensors
    )


def fell_too_far(rule: Rule, x: Tensor) -> bool:
    """Return whether v has fallen below β·v₀, which it does in no step of this rule, whatever the gradient."""
    v0, v1 = record.reals(x.square_avg_before), record.reals(x.square_avg)
    return bool((v1 < rule.decay * v0 - _rounding(x.square_avg, v0, v1)).any())  # of NaN nothing is said


def check_shape(argument: str, name: str, x: Array, param: Array) -> None:
    """Raise InputError unless an array that belongs to a parameter is of numbers, as many as it has."""
    if x.dtype.kind not in "fc" and x.dtype.name != "bfloat16":
        found = Received(f"{x.dtype} in {name!r}")
        raise InputError(argument, "arrays of floating-point numbers", found, "pass None where there is no gradient")
    if x.shape != param.shape or np.iscomplexobj(x) != np.iscomplexobj(param):
        allowed = f"of the shapes of the parameters, {param.shape} {param.dtype} in {name!r}"
        raise InputError(argument, allowed, Received(f"{x.shape} {x.dtype}"), "pass what belongs to one step")


def dtypes(arrays: Iterable[Array]) -> str | None:
    """Return the names of the arrays' dtypes."""
    return ", ".join(dict.fromkeys(str(x.dtype) for x in arrays)) or None


@np.errstate(over="ignore", invalid="ignore")
def _reached(rule: Rule, x: Tensor) -> Array:
    """Return the gradient before E1 and E2 that reached RMSprop: the given one, unless v says otherwise."""
    v0, v1, given = (record.reals(a) for a in (x.square_avg_before, x.square_avg, x.gradient))
    sign = -1 if rule.maximize else 1
    decays = x.decays and not rule.decoupled_weight_decay
    decay = rule.weight_decay * record.reals(x.before) if decays and rule.weight_decay else 0.0
    met = sign * given + decay  # by E3
    margin = _rounding(x.square_avg, v0, v1 + (1 - rule.decay) * np.square(decay))  # g and λ·p may cancel
    low, high = ((v1 - rule.decay * v0 + m) / (1 - rule.decay) for m in (-margin, margin))
    differs = ((met * met < low) | (met * met > high)) & np.isfinite(v1) & np.isfinite(v0)
    if not differs.any():
        return x.gradient
    size = np.sqrt(np.clip(met * met, np.maximum(low, 0), np.maximum(high, 0)))
    # A smaller sum than its term λ·p has the sign of that, unless the gradient is larger than both.
    nearest = np.copysign(size, np.where(size < np.abs(decay), decay, sign * given))
    numbers: Array = np.where(differs, sign * (nearest - decay), given)
    return numbers[..., 0] + 1j * numbers[..., 1] if np.iscomplexobj(x.gradient) else numbers


def _rounding(stored: Array, v0: Array, v1: Array) -> Array:
    """Return how far v may be off after a step, for each element."""
    is_bfloat16 = stored.dtype.name == "bfloat16"
    eps, tiny = (2.0**-7, 2.0**-126) if is_bfloat16 else map(float, _limits(stored))
    margin: Array = _ROUNDINGS * eps * np.maximum(v0, v1) + tiny  # numbers below tiny may count as 0
    return margin


def _limits(stored: Array) -> tuple[Any, Any]:
    info = np.finfo(stored.dtype)
    return info.eps, info.tiny


def _zeroed(x: Tensor) -> bool:
    """Return whether NaN was given and v has met none, as after `optax.zero_nans`."""
    return bool((np.isnan(record.reals(x.gradient)) & np.isfinite(record.reals(x.square_avg))).any())


def _change(x: Tensor) -> Change:
    if x.previous is None or x.previous.shape != x.gradient.shape or not x.gradient.size:
        return record.UNKNOWN
    return record.changes(record.sample(x.gradient), record.sample(x.previous), [0])[0]
