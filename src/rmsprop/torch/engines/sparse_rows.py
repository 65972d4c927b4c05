"""Sparse gradients: step only the rows that a gradient touches.

A row is what the gradient's sparse dimensions index: in an embedding's table, one vector. In a row without gradient, g
is 0. Without momentum and weight decay, E1 to E9 then leave p unchanged and multiply v and m by β. Hence two modes:

    sparse="exact"   a row catches up when it is next touched: k steps without gradient are v ← βᵏ·v, m ← βᵏ·m.
                     Until then the row lags. A `Lag` holds the last step of each row. With amsgrad, w ← max(w, β·v)
                     first: w starts at 0, below a v that starts above.
    sparse="lazy"    rows without gradient keep their averages: TensorFlow's rule (SparseApplyRMSProp).

The native kernel steps rows in place (kernel/rows.hpp). This module copies rows instead, and writes the stepped copies
to the table, in three cases: on another device, in memory that is not row-major, and when an observer measures.

The time of a step depends on the number of touched rows, not on the length of the table. There are two exceptions. The
first step allocates state. `catch_up` needs all rows: for a state dict, a copy, a dense gradient, a changed alpha or
centered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from rmsprop.errors import InputError, Received, plain
from rmsprop.torch import low_precision
from rmsprop.torch.engines.param_step import ParamStep, scaled
from rmsprop.torch.private import entries
from rmsprop.torch.state import LAGGING, ParamGroup, needed_averages, real

Index: TypeAlias = tuple[Tensor, ...]  # a Tensor for each sparse dimension: one index per row


class Lag(NamedTuple):
    """The last step of each row of a parameter, and how lagging rows decay."""

    state: dict[str, Any]  # of the parameter; held so that no other object gets its id
    row_step: Tensor  # for each row: the last step that its averages include
    alpha: float
    names: tuple[str, ...]  # of the averages that a step without gradient changes
    # The step count before the last sparse gradient. A range test restores lists in tuples, but no other objects.
    previous_step: list[int]

    def current_step(self, state: dict[str, Any]) -> int:
        """Return the step that rows catch up to: the step counter, unless the user has set it.

        The counter is `previous_step` or one more. Any other count was set by the user: rows then catch up to the last
        executed step.
        """
        step = int(state["step"])
        (previous,) = self.previous_step
        return step if step in (previous, previous + 1) else previous + 1

    @torch.no_grad()
    def catch_up(self, state: dict[str, Any]) -> None:
        """Decay the averages of all lagging rows in `state`, the parameter's state or a copy of it."""
        averages = {name: state[name] for name in self.names}
        for name, x in averages.items():
            if x.shape[: self.row_step.dim()] != self.row_step.shape:
                allowed, got = (
                    f"of {tuple(self.row_step.shape)} rows while rows lag",
                    Received(f"shape {tuple(x.shape)}"),
                )
                remedy = "call state_dict(), which catches up with them, before you change the state"
                raise InputError(name, allowed, got, remedy)
        lag = (self.current_step(state) - self.row_step.to(state[self.names[0]].device)).clamp(min=0)
        _catch_up(self.alpha, lag, averages)


Lags: TypeAlias = dict[int, Lag]  # by id(state): a lag stays with its state if another parameter gets the state


class RowCopies(NamedTuple):
    """Copies of the touched rows of a parameter and its averages, with the tables and indices they come from."""

    copies: ParamStep  # complex tensors are not viewed as real
    row_indices: Index
    tables: dict[str, Tensor]  # "p" is the parameter; its averages have their names
    row_step: Tensor | None  # of the whole table; None with sparse="lazy"
    seed: int  # of the noise that rounds a bfloat16 parameter; 0: round to nearest

    def param_step(self, grad_scale: float) -> ParamStep:
        """Return the copies viewed as real, with the gradient divided by `grad_scale`."""
        p, g, step, averages, index = self.copies
        averages = {name: real(x) for name, x in averages.items()}
        return ParamStep(real(p), real(scaled(g, grad_scale)), step, averages, index)

    @torch.no_grad()
    def put(self) -> None:
        """Write the rows to their tables, and record their step."""
        copies = {"p": self._rounded() if self.seed else self.copies.p, **self.copies.averages}
        for name, table in self.tables.items():
            _put(table, self.row_indices, copies[name].to(table.dtype))
        if self.row_step is not None:
            self.row_step[self.row_indices] = int(self.copies.step.item())

    def _rounded(self) -> Tensor:
        """Return the parameter's rows rounded to bfloat16 with the noise that a dense step uses for these elements."""
        table, p = self.tables["p"], self.copies.p
        indices: list[Tensor] = [x.view(-1, *[1] * (p.dim() - 1)) for x in self.row_indices]
        for i, size in enumerate(p.shape[1:]):
            after = p.dim() - 2 - i
            indices.append(torch.arange(size, device=table.device).view(-1, *[1] * after))
        strides = low_precision.order_of(table)
        elements = sum((x * stride for x, stride in zip(indices, strides, strict=True)), torch.zeros_like(indices[0]))
        key = low_precision.noise_keys(self.seed, self.copies.param_index, int(self.copies.step.item()))[0]
        return low_precision.round_bfloat16(p.float(), key, elements)


@torch.no_grad()
def lag_of(group: ParamGroup, i: int, state: dict[str, Any], lags: Lags) -> Lag | None:
    """Return the lag of parameter `i` of a group for a step with its gradient; None with sparse="lazy".

    `lags` is updated. If the lag no longer fits the group or the gradient, all rows catch up first.
    """
    param, exact, step = group["params"][i], group["sparse"] == "exact", int(state["step"].item())
    shape = param.shape[: param.grad.sparse_dim()]
    decay = float(plain(group["alpha"])), tuple(name for name in needed_averages(group) if name in LAGGING)
    lag = lags.get(id(state))
    if lag is not None and not (
        exact and lag.row_step.shape == shape and (lag.alpha, lag.names) == decay and lag.current_step(state) == step
    ):
        catch_up(state, lags)
        lag = None
    if exact and lag is None:
        row_step = torch.full(shape, step, dtype=torch.int64, device=param.device)
        lag = lags[id(state)] = Lag(state, row_step, *decay, [step])
    if lag is not None:
        lag.previous_step[0] = step
    return lag


@torch.no_grad()
def gather(group: ParamGroup, i: int, state: dict[str, Any], lag: Lag | None, *, index: int) -> RowCopies:
    """Copy the rows that the gradient of parameter `i` of a group touches; the copies have caught up.

    `index` is the parameter's index among all parameters. `state` must be complete. The gradient of a row is the sum of
    its entries, not divided by the loss scale.
    """
    param = group["params"][i]
    grad, step = param.grad, int(state["step"].item())
    dtype = state["square_avg"].dtype
    row_indices, g = summed(grad, dtype)
    tables = {"p": _table(param.detach(), grad)}
    tables |= {name: _table(state[name], grad) for name in needed_averages(group)}
    copies = {name: _take(table, row_indices).to(dtype) for name, table in tables.items()}
    p, row_step = copies.pop("p"), None
    if lag is not None:
        row_step = _table(lag.row_step, grad)
        steps = (step - _take(row_step, row_indices)).clamp(min=0)
        _catch_up(lag.alpha, steps, {name: copies[name] for name in lag.names})
    seed = int(group["stochastic_rounding"]) if param.dtype == torch.bfloat16 else 0
    return RowCopies(ParamStep(p, g, state["step"], copies, index), row_indices, tables, row_step, seed)


def catch_up(state: dict[str, Any], lags: Lags) -> None:
    """Let all lagging rows of one parameter catch up, and forget their lag."""
    if lag := lags.get(id(state)):
        lag.catch_up(state)
        del lags[id(state)]


def catch_up_all(states: Mapping[Tensor, Any], lags: Lags, *, of_dense_gradients: bool = False) -> None:
    """Let lagging rows catch up: of all parameters, or only of those that now have a dense gradient."""
    for p, state in states.items() if lags else ():
        if id(state) in lags and not (of_dense_gradients and (p.grad is None or p.grad.layout != torch.strided)):
            catch_up(state, lags)  # lags of states that are not in `states` stay: such a state may be restored


def summed(grad: Tensor, dtype: torch.dtype) -> tuple[Index, Tensor]:
    """Return the index of every row that `grad` touches, once, and the row's gradient: the sum of its entries."""
    (indices, values), sizes = entries(grad), grad.shape[: grad.sparse_dim()]
    values = values.to(dtype)
    if not len(sizes):
        indices, sizes = indices.new_zeros(1, len(values)), torch.Size([1])
    elif grad.is_coalesced():
        return indices.unbind(0), values.contiguous()
    bits = len(values).bit_length()
    if values.device.type != "cpu" or math.prod(sizes) >= 2 ** (63 - bits):
        shape = (*sizes, *values.shape[1:])
        whole = torch.sparse_coo_tensor(indices, values, shape, device=values.device, check_invariants=False).coalesce()
        return whole.indices().unbind(0), whole.values()
    # NumPy sorts integers that pack row and position in a tenth of the time of torch's sort with positions.
    packed = np.sort((_row_numbers(indices, sizes) << bits | torch.arange(len(values), device="cpu")).numpy())
    rows, places = packed >> bits, torch.from_numpy(packed & ((1 << bits) - 1))
    is_new = np.ones(len(rows), dtype=bool)
    np.not_equal(rows[1:], rows[:-1], out=is_new[1:])
    first = places[torch.from_numpy(np.flatnonzero(is_new))]
    total = values.index_select(0, first)
    if len(first) < len(places):
        repeats = np.flatnonzero(~is_new)
        row = torch.from_numpy(repeats - np.arange(1, len(repeats) + 1))  # repeats up to and including this one
        # As real numbers: torch may multiply complex ones by 1 first, which makes NaN beside infinity.
        real(total).index_add_(0, row, real(values.index_select(0, places[torch.from_numpy(repeats)])))
    return indices.index_select(1, first).unbind(0), total


def _row_numbers(indices: Tensor, sizes: torch.Size) -> Tensor:
    """Return the row-major index of each row from its indices in the sparse dimensions."""
    result = indices[0]
    for index, size in zip(indices[1:], sizes[1:], strict=False):
        result = result * size + index
    return result


_CHUNK = 1 << 20  # numbers per chunk, to bound memory


def _powers(alpha: float, lag: Tensor) -> Tensor:
    """Return αᵏ for every lag k. On the CPU, Python's power has the kernel's bits; torch's last bit may differ."""
    if lag.device.type != "cpu":
        return torch.pow(alpha, lag.double())
    lags, indices = np.unique(lag.numpy(), return_inverse=True)
    powers = np.array([alpha**k for k in lags.tolist()], np.float64)
    return torch.from_numpy(np.asarray(powers[indices]).reshape(lag.shape))


def _catch_up(alpha: float, lag: Tensor, averages: Mapping[str, Tensor]) -> None:
    """Multiply each row of v and m by αᵏ, where k is the row's lag in steps; w becomes at least α·v if k > 0."""
    power = _powers(alpha, lag)
    averages = {name: real(x) for name, x in averages.items()}
    w, maximum = averages.pop("max_square_avg", None), None
    if w is not None:
        v = averages["square_avg"]
        is_behind = (lag > 0).view(*lag.shape, *[1] * (v.dim() - lag.dim()))
        maximum = torch.where(is_behind, w.maximum(v * alpha), w)
    work = []  # filled before the first change: an error leaves the averages as they were
    for rows in averages.values():
        weight = power.to(rows.dtype)
        underflowed = (weight == 0).nonzero() if alpha else lag.new_empty(0, lag.dim())
        if len(underflowed):  # ∞·0 is NaN, but ∞ stays ∞ if multiplied by α k times
            weight[underflowed.unbind(1)] = 1
        work.append((rows, weight.view(*lag.shape, *[1] * (rows.dim() - lag.dim())), underflowed))
    if w is not None and maximum is not None:
        w.copy_(maximum)
    for rows, weight, underflowed in work:
        rows.mul_(weight)
        count = max(1, _CHUNK // max(1, math.prod(rows.shape[lag.dim() :])))
        for start in range(0, len(underflowed), count):
            index = underflowed[start : start + count].unbind(1)
            chunk = rows[index]
            rows[index] = torch.where(chunk.isinf(), chunk, chunk * 0)


def _table(x: Tensor, grad: Tensor) -> Tensor:
    """Return `x` as the table whose rows `grad` indexes; without a sparse dimension, `x` is one row."""
    return x if grad.sparse_dim() else x.unsqueeze(0)


def _take(table: Tensor, index: Index) -> Tensor:
    return table.index_select(0, index[0]) if len(index) == 1 else table[index].contiguous()


def _put(table: Tensor, index: Index, rows: Tensor) -> None:
    """Copy `rows` into `table`, if possible as 16-byte numbers: torch copies rows number by number."""
    ratio = 16 // table.element_size()
    if (
        table.device.type == "cpu"
        and table.is_contiguous()
        and table.data_ptr() % 16 == 0
        and table.dim() > len(index)
        and all(size % ratio == 0 for size in (table.shape[-1], table.storage_offset(), *table.stride()[:-1]))
    ):
        table, rows = table.view(torch.complex128), rows.view(torch.complex128)
    if len(index) == 1:
        table.index_copy_(0, index[0], rows)
    else:
        table.index_put_(index, rows)
