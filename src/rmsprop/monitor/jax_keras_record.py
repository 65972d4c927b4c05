"""Build the record of one step from arrays, for `from_optax` and `from_keras`.

The gradients must be those that reached RMSprop, after clipping, scaling and accumulation. Other gradients would make
the record of a step that was not executed. So gradients are checked by the square averages: v₁ = β·v₀ + (1−β)·g² (E3).
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
_ROUNDINGS = 4  # error of v in units of its last place: rounding of β and 1−β, of g² and products, and of their sum
_NORM = 2.0**-17  # relative error of g²: a clipping norm may be summed in another order


class Tensor(NamedTuple):
    """A parameter with its gradient and averages, before and after a step."""

    name: str
    before: Array
    after: Array
    gradient: Array  # as passed
    square_avg_before: Array
    square_avg: Array
    grad_avg: Array | None
    previous: Array | None  # the gradient of the step before
    decays: bool = True  # whether the rule's weight decay applies to it
    processed_gradient: Array | None = None  # the gradient that reached RMSprop, if it was changed before
    max_square_avg: Array | None = None

    @property
    def reached(self) -> Array:
        """The gradient that reached RMSprop."""
        return self.gradient if self.processed_gradient is None else self.processed_gradient


def make(rule: Rule, step: int, tensors: Sequence[Tensor], *, state_dtype: str | None) -> Record:
    """Build the record of a step, in the form of `rmsprop.monitor.Monitor`'s."""
    described: dict[str, TensorRecord] = {}
    rows, was_skipped = [], skipped(tensors)
    for x in tensors:
        row, histogram = sums(
            rule,
            before=x.before,
            after=x.after,
            gradient=x.reached,
            square_avg_before=x.square_avg_before,
            square_avg=x.square_avg,
            grad_avg=x.grad_avg,
            max_square_avg=x.max_square_avg,
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
            "dead_rows": record.dead_rows(x.reached, x.square_avg) if has_rows else None,
            "rows": len(x.before) if has_rows else None,
        }
    group: Any = {
        **dataclasses.asdict(rule),
        "state_dtype": state_dtype,
        "param_dtype": dtypes(x.after for x in tensors),
        "stochastic_rounding": False,
        "nonfinite": "skip" if was_skipped else "propagate",
    }
    table = np.array(rows).reshape(len(rows), len(COLUMNS))
    nonfinite_steps = int(bool((table[:, _NONFINITE] > 0).any()))
    return record.assemble(step, [cast("GroupRecord", group)], described, table, nonfinite_steps, int(was_skipped))


def skipped(tensors: Sequence[Tensor]) -> bool:
    """Return whether the step was skipped, as by `optax.apply_if_finite`: a non-finite gradient, and no v changed."""
    return any(not np.isfinite(record.reals(x.gradient)).all() for x in tensors) and all(
        np.array_equal(x.square_avg_before, x.square_avg) for x in tensors
    )


@np.errstate(over="ignore", invalid="ignore")
def check_reached(rule: Rule, x: Tensor, argument: str, remedy: str) -> None:
    """Raise InputError unless E3 with this gradient takes the old v to the new v, up to rounding."""
    v0, v1, gradient = (record.reals(a) for a in (x.square_avg_before, x.square_avg, x.reached))
    decays = x.decays and not rule.decoupled_weight_decay
    decay = rule.weight_decay * record.reals(x.before) if decays and rule.weight_decay else 0.0
    g = (-gradient if rule.maximize else gradient) + decay  # by E1 and E2
    size = np.maximum(np.maximum(v0, v1), (1 - rule.decay) * np.square(decay))  # g and λ·p may cancel
    eps, tiny = (2.0**-7, 2.0**-126) if x.square_avg.dtype.name == "bfloat16" else _limits(x.square_avg)
    margin = (_ROUNDINGS * eps + _NORM) * size + tiny  # subnormal numbers may be flushed to 0
    differs = np.abs(v1 - rule.decay * v0 - (1 - rule.decay) * g * g) > margin  # NaN is not checked
    if differs.any():
        found = Received(f"others in {x.name!r}, by its square averages")
        raise InputError(argument, "the gradients that reached RMSprop", found, remedy)


def check_shape(argument: str, name: str, x: Array, param: Array) -> None:
    """Raise InputError unless `x` has floating-point numbers and the shape of `param`."""
    if x.dtype.kind not in "fc" and x.dtype.name != "bfloat16":
        found = Received(f"{x.dtype} in {name!r}")
        raise InputError(argument, "arrays of floating-point numbers", found, "pass None where there is no gradient")
    if x.shape != param.shape or np.iscomplexobj(x) != np.iscomplexobj(param):
        allowed = f"of the shapes of the parameters, {param.shape} {param.dtype} in {name!r}"
        raise InputError(argument, allowed, Received(f"{x.shape} {x.dtype}"), "pass the arrays of one step")


def dtypes(arrays: Iterable[Array]) -> str | None:
    """Return the names of the arrays' dtypes, joined; None without arrays."""
    return ", ".join(dict.fromkeys(str(x.dtype) for x in arrays)) or None


def _limits(stored: Array) -> tuple[float, float]:
    info = np.finfo(stored.dtype)
    return float(info.eps), float(info.tiny)


def _change(x: Tensor) -> Change:
    if x.previous is None or x.previous.shape != x.gradient.shape or not x.gradient.size:
        return record.UNKNOWN
    return record.changes(record.sample(x.gradient), record.sample(x.previous), [0])[0]
