"""What a step did to each parameter, in sums and counts, by tensor operations: for all that the kernel does not step.

`rmsprop.statistics` defines every number, in NumPy; symbols here are those of its table. What the step
overwrites is copied before it, and the sums are made after it, in double where the device has it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmsprop.rule import Rule, variance
from rmsprop.statistics import BINS, COLUMNS, FIRST
from rmsprop.torch.distributed import local_shard
from rmsprop.torch.engines import arithmetic
from rmsprop.torch.engines.sparse_rows import Rows, summed
from rmsprop.torch.groups import rule_of
from rmsprop.torch.nonfinite import is_finite
from rmsprop.torch.observer import ParamKey
from rmsprop.torch.state import COMPUTE, Group, Slot, average, kappa_of, real, rows_slot, scaled


class Before(NamedTuple):
    """A parameter before its step: copies of what that overwrites, and where to find the rest after it."""

    place: ParamKey
    group: Group
    rule: Rule
    slot: Slot  # its gradient is as given, divided by the loss scale
    stored: Callable[[], Tensor]  # p
    p: Tensor
    v: Tensor
    m: Tensor | None  # only where what is stored after the step is rounded


def place_of(number: int, firsts: list[int]) -> ParamKey:
    """Return where the parameter of that number among all is; `firsts` are the numbers of the groups' first ones."""
    index = bisect_right(firsts, number) - 1
    return index, number - firsts[index]


def before_step(
    groups: list[Group], firsts: list[int], work: list[Any], tables: list[Rows], scale: float
) -> list[Before]:
    """Return what has to be known of parameters before their step.

    `firsts` are the numbers of the groups' first ones. `work` holds the slots of those that tensor operations step,
    `tables` the rows that sparse gradients touch.
    """
    sparse = {rows.number: rows for rows in tables}
    slots = {own.number: own for _, _, slots in work for own in slots}
    slots |= {number: rows_slot(rows, scale) for number, rows in sparse.items()}
    found = []
    for number, own in slots.items():
        place = place_of(number, firsts)
        group = groups[place[0]]
        found.append(before(place, group, rule_of(group), own, sparse.get(number)))
    return found


@torch.no_grad()
def before(place: ParamKey, group: Group, rule: Rule, slot: Slot, rows: Rows | None = None) -> Before:
    """Return what has to be known of a parameter before its step, or of those of its rows that a gradient touches."""
    here: dict[str, Any] = {k: local_shard(x) for k, x in slot._asdict().items() if isinstance(x, Tensor)}
    slot = slot._replace(**here)
    if rows is None:
        table, where = slot.p, None
    else:
        table, where = rows.tables[0], rows.where

    def stored() -> Tensor:
        return table if where is None else real(table[where])

    v = average({"square_avg": slot.v}, "square_avg", slot.p)
    m = None
    if slot.m is not None and slot.v.dtype in _ROUNDED:
        m = average({"grad_avg": slot.m}, "grad_avg", slot.p).clone()
    return Before(place, group, rule, slot, stored, stored().clone(), v.clone(), m)


_ROUNDED = (torch.bfloat16, torch.uint8)


@torch.no_grad()
def after(known: Before, *, histogram: bool) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
    """Return the sums and, if asked for, the histogram of a parameter that has been stepped."""
    slot, rule = known.slot, known.rule
    v, m = _averages(known)
    g, p0, p1 = slot.g.to(v.dtype), known.p, known.stored()
    power = arithmetic.bias_power(rule, [slot.step], capturable=False)[0] if rule.bias_correction else 0.0
    at_floor = torch.zeros(v.shape, dtype=torch.bool, device=v.device)

    def floored(rest: Tensor, floor: Tensor) -> Tensor:
        at_floor.logical_or_(rest < floor)
        return rest.maximum(floor)

    s, mean = variance(rule, v, m, power, 1 - power, kappa_of(slot.v.dtype), floored)
    # The root as the kernel and NumPy have it; that of torch on the CPU is not always rounded correctly.
    root = _wide(s + rule.eps if rule.eps_inside_sqrt else s).sqrt().to(s.dtype)
    d = root if rule.eps_inside_sqrt else root + rule.eps
    change = _wide(p1) - _wide(p0)
    largest = change.abs().amax() if change.numel() else change.new_zeros(())
    zero = torch.zeros((), dtype=change.dtype, device=change.device)
    row = torch.stack(
        [
            _sum_of_squares(g),
            change.square().sum(),
            _sum_of_squares(p1),
            _wide(known.v).sum(),
            zero if mean is None else _sum_of_squares(mean),
            zero if mean is None else _wide(s).sum(),
            largest,
            (s if rule.eps_inside_sqrt else root).lt(rule.eps).sum().to(change.dtype),
            at_floor.sum().to(change.dtype),
            (~is_finite(g)).sum().to(change.dtype),
            (g == 0).sum().to(change.dtype),
            ((g != 0) & (change == 0)).sum().to(change.dtype),
        ]
    )
    counts = None
    if histogram:
        exponents = torch.frexp(d[(d > 0) & (d < torch.inf)]).exponent - 1  # d = f·2ᵉ with ½ ≤ f < 1
        counts = torch.bincount((exponents - FIRST).clamp(0, BINS - 1), minlength=BINS).cpu().numpy()
    return row.double().cpu().numpy() if row.device.type != "mps" else row.cpu().double().numpy(), counts


class Found:
    """What an observer takes of a step, put together; places are kept from one step to the next."""

    def __init__(self) -> None:
        self._kept: tuple[Any, list[int], tuple[ParamKey, ...]] = (None, [], ())

    def join(
        self, firsts: list[int], by_kernel: Any, known: list[Before], level: int
    ) -> tuple[tuple[ParamKey, ...], NDArray[np.float64], NDArray[np.int64] | None]:
        """Return places, sums and histograms of what the kernel has measured, and of what was `known` before.

        Where the kernel has measured the same parameters as in the step before, and nothing else was, the places are
        the same object.
        """
        places, sums, histograms = _NONE
        if by_kernel is not None:
            numbers, sums, histograms = by_kernel
            of, under, places = self._kept  # at once: another thread may step, too
            if of is not numbers or under != firsts:
                places = tuple(place_of(number, firsts) for number in np.frombuffer(numbers, np.uint32).tolist())
                self._kept = numbers, firsts, places
        if known:
            rows = [after(each, histogram=level > 1) for each in known]
            places = (*places, *(each.place for each in known))
            sums = np.concatenate([sums, np.array([row for row, _ in rows], np.float64)])
            if level > 1:
                histograms = np.concatenate([histograms, np.array([counts for _, counts in rows], np.int64)])
        return places, sums, histograms if level > 1 else None


_NONE: tuple[tuple[ParamKey, ...], NDArray[np.float64], NDArray[np.int64]] = (
    (),
    np.empty((0, len(COLUMNS))),
    np.empty((0, BINS), np.int64),
)
NOTHING = (*_NONE[:2], None)  # where nothing was measured


def nonfinite_counts(groups: list[Group], scale: float) -> tuple[list[ParamKey], list[int]]:
    """Return which parameters' gradients have elements that are not finite, and how many."""
    places, counts = [], []
    for index, group in enumerate(groups):
        for number, p in enumerate(group["params"]):
            if p.grad is None:
                continue
            g = summed(p.grad, COMPUTE.get(p.dtype, p.dtype))[1] if p.grad.is_sparse else local_shard(p.grad.detach())
            if count := int((~is_finite(real(scaled(g, scale)))).sum()):
                places.append((index, number))
                counts.append(count)
    return places, counts


def _averages(known: Before) -> tuple[Tensor, Tensor | None]:
    """Return v and m after E3 and E4, in the dtype that computes and before they are rounded to what is stored."""
    slot, rule = known.slot, known.rule
    if slot.v.dtype not in _ROUNDED:
        return slot.v, slot.m
    v, m, p = known.v.clone(), None if known.m is None else known.m.clone(), known.p.to(known.v.dtype)
    g = slot.g.to(v.dtype)
    g = g.masked_fill(~is_finite(g), 0) if known.group["nonfinite"] == "zero" else g
    arithmetic.step(
        rule, 0.0, p, g, v, m, None, 0.5, kappa_of(slot.v.dtype), exact=True
    )  # p, a copy, is of no interest
    return v, m


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.device.type == "mps" else x.double()


def _sum_of_squares(x: Tensor) -> Tensor:
    return _wide(x).square().sum()
