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
from rmsprop.torch.engines.engine import Measured
from rmsprop.torch.engines.param_step import ParamStep
from rmsprop.torch.engines.sparse_rows import Rows
from rmsprop.torch.nonfinite import cleaned, is_finite
from rmsprop.torch.state import ParamGroup, average, kappa_of, real

_ROUNDED = (torch.bfloat16, torch.uint8)  # dtypes of averages that are rounded when stored


class Before(NamedTuple):
    """A parameter before its step: copies of what the step overwrites, and access to what it leaves."""

    group: ParamGroup
    rule: Rule
    own: ParamStep  # its gradient is not cleaned, but divided by the loss scale
    stored: Callable[[], Tensor]  # returns the current p
    p: Tensor
    v: Tensor
    m: Tensor | None  # only if the averages are stored in a dtype of _ROUNDED


@torch.no_grad()
def before(group: ParamGroup, rule: Rule, own: ParamStep, rows: Rows | None = None) -> Before:
    """Copy what a step will overwrite of a parameter, or of the rows that a sparse gradient touches."""
    own = own.local()
    if rows is None:
        table, where = own.p, None
    else:
        table, where = rows.tables[0], rows.where

    def stored() -> Tensor:
        return table if where is None else real(table[where])

    v = average({"square_avg": own.v}, "square_avg", own.p)
    m = None
    if own.m is not None and own.v.dtype in _ROUNDED:
        m = average({"grad_avg": own.m}, "grad_avg", own.p).clone()
    return Before(group, rule, own, stored, stored().clone(), v.clone(), m)


def after(befores: list[Before], level: int) -> Measured:
    """Measure what the step did to parameters: sums, and at level 2 histograms (else zeros)."""
    sums = np.empty((len(befores), len(COLUMNS)))
    histograms = np.zeros((len(befores), BINS), np.int64)
    for row, histogram, each in zip(sums, histograms, befores, strict=True):
        values, d = _sums(each)
        row[:] = values.double().cpu().numpy() if values.device.type != "mps" else values.cpu().double().numpy()
        if level > 1:
            histogram[:] = _histogram(d)
    return Measured(np.array([each.own.param_index for each in befores], np.uint32).tobytes(), sums, histograms)


@torch.no_grad()
def _sums(known: Before) -> tuple[Tensor, Tensor]:
    """Return a value for each of COLUMNS, and d of E6."""
    own, rule = known.own, known.rule
    v, m = _averages(known)
    g, p0, p1 = own.g.to(v.dtype), known.p, known.stored()
    power = arithmetic.bias_power(rule, [own.step], capturable=False)[0] if rule.bias_correction else 0.0
    at_floor = torch.zeros(v.shape, dtype=torch.bool, device=v.device)

    def maximum(x: Tensor, floor: Tensor) -> Tensor:
        at_floor.logical_or_(x < floor)
        return x.maximum(floor)

    s, mean = variance(rule, v, m, power, 1 - power, kappa_of(own.v.dtype), maximum)
    # In double: torch's float32 root on the CPU is not always correctly rounded, the kernel's and NumPy's are.
    root = _wide(s + rule.eps if rule.eps_inside_sqrt else s).sqrt().to(s.dtype)
    d = root if rule.eps_inside_sqrt else root + rule.eps
    change = _wide(p1) - _wide(p0)
    zero = torch.zeros((), dtype=change.dtype, device=change.device)
    values = {
        "gradient_sq": _sum_of_squares(g),
        "update_sq": change.square().sum(),
        "parameter_sq": _sum_of_squares(p1),
        "history_sq": _wide(known.v).sum(),
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


def _averages(known: Before) -> tuple[Tensor, Tensor | None]:
    """Return v and m after E3 and E4 in the compute dtype, before they are rounded to the stored dtype."""
    own, rule = known.own, known.rule
    if own.v.dtype not in _ROUNDED:
        return own.v, own.m
    v, m, p = known.v.clone(), None if known.m is None else known.m.clone(), known.p.to(known.v.dtype)
    g = own.g.to(v.dtype)
    g = cleaned(g) if known.group["nonfinite"] == "zero" else g
    # p is a copy: only v and m of this step are used.
    arithmetic.step(rule, 0.0, p, g, v, m, None, 0.5, kappa_of(own.v.dtype), exact=True)
    return v, m


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.device.type == "mps" else x.double()


def _sum_of_squares(x: Tensor) -> Tensor:
    return _wide(x).square().sum()
