"""Measure parameters that the native kernel does not measure: copy before the step, sum after it.

`rmsprop.statistics` defines every number and symbol. Sums are in double, on MPS in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rmsprop.rule import Rule, variance
from rmsprop.statistics import BINS, COLUMNS, FIRST
from rmsprop.torch.engines import arithmetic
from rmsprop.torch.engines.arithmetic import StepNumbers
from rmsprop.torch.engines.engine import Measured
from rmsprop.torch.engines.param_step import ParamStep
from rmsprop.torch.engines.sparse_rows import RowCopies
from rmsprop.torch.nonfinite import cleaned, is_finite
from rmsprop.torch.state import ParamGroup, average, kappa_of, real

_ROUNDED = (torch.bfloat16, torch.uint8)  # dtypes of averages that are rounded when stored


class Before(NamedTuple):
    """A parameter before its step: copies of what the step overwrites, and access to what it leaves."""

    group: ParamGroup
    rule: Rule
    param_step: ParamStep  # its gradient is not cleaned, but divided by the loss scale
    current: Callable[[], Tensor]  # returns the current p
    p: Tensor
    averages: dict[str, Tensor]  # in the compute dtype; all if they are stored in a dtype of _ROUNDED, else v alone


@torch.no_grad()
def copy_before(group: ParamGroup, rule: Rule, param_step: ParamStep, rows: RowCopies | None = None) -> Before:
    """Copy what a step will overwrite of a parameter, or of the rows that a sparse gradient touches."""
    param_step = param_step.local()
    stored = param_step.averages
    names = list(stored) if param_step.state_dtype in _ROUNDED else ["square_avg"]
    averages = {name: average(stored, name, param_step.p).clone() for name in names}

    def current() -> Tensor:
        return param_step.p if rows is None else real(rows.tables["p"][rows.row_indices])

    return Before(group, rule, param_step, current, current().clone(), averages)


def measure(befores: list[Before], level: int) -> Measured:
    """Measure what the step did to parameters: sums, and at level 2 histograms (else zeros)."""
    sums = np.empty((len(befores), len(COLUMNS)))
    histograms = np.zeros((len(befores), BINS), np.int64)
    for row, histogram, before in zip(sums, histograms, befores, strict=True):
        values, d = _sums(before)
        row[:] = values.double().cpu().numpy() if values.device.type != "mps" else values.cpu().double().numpy()
        if level > 1:
            histogram[:] = _histogram(d)
    indices = np.array([before.param_step.param_index for before in befores], np.uint32)
    return Measured(indices.tobytes(), sums, histograms)


@torch.no_grad()
def _sums(before: Before) -> tuple[Tensor, Tensor]:
    """Return a value for each of COLUMNS, and d of E6."""
    param_step, rule, averages = before.param_step, before.rule, _averages_after(before)
    v = averages["square_avg"]
    g, p0, p1 = param_step.g.to(v.dtype), before.p, before.current()
    power = arithmetic.step_numbers(rule, [param_step.step], capturable=False)[0].power
    at_floor = torch.zeros(v.shape, dtype=torch.bool, device=v.device)

    def maximum(x: Tensor, floor: Tensor) -> Tensor:
        at_floor.logical_or_(x < floor)
        return x.maximum(floor)

    s, mean = variance(rule, averages, power, 1 - power, kappa_of(param_step.state_dtype), maximum)
    # In double: torch's float32 root on the CPU is not always correctly rounded, the kernel's and NumPy's are.
    root = _wide(s + rule.eps if rule.eps_inside_sqrt else s).sqrt().to(s.dtype)
    d = root if rule.eps_inside_sqrt else root + rule.eps
    change = _wide(p1) - _wide(p0)
    zero = torch.zeros((), dtype=change.dtype, device=change.device)
    values = {
        "gradient_sq": _sum_of_squares(g),
        "update_sq": change.square().sum(),
        "parameter_sq": _sum_of_squares(p1),
        "history_sq": _wide(before.averages["square_avg"]).sum(),
        "signal_sq": zero if mean is None else _sum_of_squares(mean),
        "noise_sq": zero if mean is None else _wide(s).sum(),
        "largest_update": change.abs().amax() if change.numel() else zero,
        "eps": (s if rule.eps_inside_sqrt else root).lt(rule.eps).sum(),
        "floor": at_floor.sum(),
        "nonfinite": (~is_finite(g)).sum(),
        "zero": (g == 0).sum(),
        "unchanged": ((g != 0) & (change == 0)).sum(),
    }
    return torch.stack([values[name].to(change.dtype) for name in COLUMNS]), d


def _histogram(d: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return how many elements of `d` are in each binade."""
    exponents = torch.frexp(d[(d > 0) & (d < torch.inf)]).exponent - 1  # d = f·2ᵉ with ½ ≤ f < 1
    counts: np.ndarray[tuple[int], np.dtype[np.int64]]
    counts = torch.bincount((exponents - FIRST).clamp(0, BINS - 1), minlength=BINS).cpu().numpy()
    return counts


def _averages_after(before: Before) -> dict[str, Tensor]:
    """Return the averages after the step in the compute dtype, before they are rounded to the stored dtype."""
    param_step = before.param_step
    if param_step.state_dtype not in _ROUNDED:
        return param_step.averages
    averages = {name: x.clone() for name, x in before.averages.items()}
    dtype = averages["square_avg"].dtype
    g = param_step.g.to(dtype)
    g = cleaned(g) if before.group["nonfinite"] == "zero" else g
    # p is a copy, and lr is 0: only the averages of this step are used.
    kappa = kappa_of(param_step.state_dtype)
    arithmetic.step(
        before.rule, 0.0, before.p.to(dtype, copy=True), g, averages, StepNumbers(0.5, 1.0, 0.0), kappa, exact=True
    )
    return averages


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.device.type == "mps" else x.double()


def _sum_of_squares(x: Tensor) -> Tensor:
    return _wide(x).square().sum()
