"""The tables that the Triton kernel reads: addresses, blocks and scalars, built on the host and copied when changed.

A table on the device never changes: a captured CUDA graph may read it again. New addresses make a new table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmsprop.rule import Rule

BLOCK = 1024  # elements per program
_SIZE = 6  # the column of `TensorRow.size`


class TensorRow(NamedTuple):
    """Where a parameter lies in memory: addresses (0: the rule lacks the average), and the number of elements."""

    p: int
    g: int
    square_avg: int
    grad_avg: int
    momentum_buffer: int
    max_square_avg: int
    size: int


class Scalars(NamedTuple):
    """The rule's numbers in double, which are rounded once to the compute dtype; named as in kernel/sweep.hpp."""

    sign: float  # E1: 1, or −1 to maximize; divided by the loss scale
    lam: float  # E2: λ, or η·λ when decoupled
    beta: float  # E3, E4
    one_minus_beta: float
    decayed_v0: float  # E5: βᵗ·v₀
    one_minus_power: float  # 1 − βᵗ
    kappa: float
    eps_inside: float  # E6
    eps_outside: float
    one_minus_mu: float  # E7
    a: float
    c: float
    mu: float  # E8, E9
    lr_inside: float
    lr_outside: float


def scalars_of(rule: Rule, lr: float, power: float, a: float, c: float, *, grad_scale: float, kappa: float) -> Scalars:
    """Return the scalars of a step with `lr`; `power` is βᵗ, `a` and `c` are the weights of E7."""
    return Scalars(
        sign=(-1.0 if rule.maximize else 1.0) / grad_scale,
        lam=lr * rule.weight_decay if rule.decoupled_weight_decay else rule.weight_decay,
        beta=rule.decay,
        one_minus_beta=1 - rule.decay,
        decayed_v0=power * rule.initial_square_avg,
        one_minus_power=1 - power,
        kappa=kappa,
        eps_inside=rule.eps if rule.eps_inside_sqrt else 0.0,
        eps_outside=0.0 if rule.eps_inside_sqrt else rule.eps,
        one_minus_mu=1 - rule.momentum,
        a=a,
        c=c,
        mu=rule.momentum,
        lr_inside=lr if rule.lr_in_momentum else 1.0,
        lr_outside=1.0 if rule.lr_in_momentum else lr,
    )


class Table(NamedTuple):
    """A table on a device, and the lists on the host that it holds."""

    lists: tuple[list[Any], ...]
    tensors: tuple[Tensor, ...]  # on the device
    sources: tuple[Tensor, ...]  # on the host: a captured graph copies them again


def tensor_table(old: Table | None, rows: list[TensorRow], indices: list[int], device: torch.device) -> Table:
    """Return a table of `rows`, of the `indices` of their scalars, and of the blocks of their tensors.

    Returns `old` if it holds the same.
    """
    if _holds(old, rows, indices):
        return old
    tensors = np.empty((len(rows), _SIZE + 2), np.int64)
    tensors[:, : _SIZE + 1], tensors[:, _SIZE + 1] = rows, indices
    counts = -(-tensors[:, _SIZE] // BLOCK)
    owners = np.repeat(np.arange(len(rows)), counts)
    starts = np.cumsum(counts) - counts
    blocks = np.stack([owners, np.arange(len(owners)) - starts[owners]], 1).astype(np.int32)
    return _table((rows, indices), device, tensors, blocks)


def scalar_table(old: Table | None, rows: list[Scalars], dtype: torch.dtype, device: torch.device) -> Table:
    """Return a table of `rows` rounded to `dtype`; `old` if it has the same rows."""
    if _holds(old, rows):
        return old
    with np.errstate(over="ignore"):  # a number above the largest float32 becomes infinite, as in the CPU kernel
        numbers = np.array(rows, np.float64).astype(np.float64 if dtype == torch.float64 else np.float32)
    return _table((rows,), device, numbers)


def _holds(table: Table | None, *lists: list[Any]) -> TypeGuard[Table]:
    return table is not None and table.lists == lists


def _table(lists: tuple[list[Any], ...], device: torch.device, *arrays: NDArray[Any]) -> Table:
    sources = tuple(map(torch.from_numpy, arrays))
    if device.type != "cpu":
        sources = tuple(x.pin_memory() if x.numel() else x for x in sources)  # else the copy would wait
    return Table(lists, tuple(x.to(device, non_blocking=True) for x in sources), sources)


def overlapping(rows: Sequence[TensorRow], lengths: Sequence[tuple[int, int]]) -> set[int]:
    """Return the indices of `rows` whose memory overlaps other memory, if one of the two is written.

    `lengths` has two numbers of bytes for each row: of the parameter and its gradient, and of each of its averages.
    """
    addresses = np.array([row[:_SIZE] for row in rows], np.int64).reshape(len(rows), _SIZE)
    sizes = np.array(lengths, np.int64).reshape(len(rows), 2)[:, (0, 0, 1, 1, 1, 1)]
    used = (addresses != 0) & (sizes > 0)
    starts, owners = addresses[used], np.nonzero(used)[0]
    ends, written = starts + sizes[used], np.nonzero(used)[1] != 1  # gradients are only read
    order = np.argsort(starts, kind="stable")
    starts, ends, owners, written = starts[order], ends[order], owners[order], written[order]
    if not (starts[1:] < ends[:-1]).any():
        return set()
    return _overlapping(zip(starts.tolist(), ends.tolist(), owners.tolist(), written.tolist(), strict=True))


def _overlapping(pieces: Iterable[tuple[int, int, int, bool]]) -> set[int]:
    """Return the owners of sorted pieces of memory that overlap, if one of the two is written."""
    result: set[int] = set()
    active: list[tuple[int, int, bool]] = []
    for start, end, owner, written in pieces:
        active = [each for each in active if each[0] > start]
        for _, other, other_written in active:
            if written or other_written:
                result |= {owner, other}
        active.append((end, owner, written))
    return result
