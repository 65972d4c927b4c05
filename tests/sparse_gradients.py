"""Sparse gradients for tests: rules by mode, entries that add up to a gradient, comparisons of state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cases
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmsprop import State
from rmsprop.rule import AVERAGES
from rmsprop.torch import RMSprop
from rmsprop.torch.engines import sparse_rows

EXACT = {name: rule for name, rule in cases.ALL_RULES.items() if not rule.momentum and not rule.weight_decay}
LAZY = {name: rule for name, rule in cases.ALL_RULES.items() if not rule.bias_correction}
EXECUTIONS: dict[str, dict[str, Any]] = {
    "native kernel": {},
    "one by one": {"fused": False},
    "foreach": {"foreach": True},
}
ROWS, WIDTH = 12, 5
Array = NDArray[Any]


def coo(shape: Iterable[int], index: Array, values: Array | Tensor) -> Tensor:
    """Return a sparse gradient; `index` has a row for each sparse dimension and a column for each entry."""
    size, values = tuple(shape), torch.as_tensor(values)
    return torch.sparse_coo_tensor(torch.from_numpy(index), values, size, check_invariants=True)


def entries(gradient: Array, touched: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    """Return rows and values in random order that add up to `gradient` at `touched`; some rows have two entries."""
    split = generator.random((len(touched), 1)) * (generator.random((len(touched), 1)) < 0.5)
    rows = np.concatenate([touched, touched])
    values = np.concatenate([gradient[touched] * split, gradient[touched] * (1 - split)])
    order = generator.permutation(len(rows))
    return rows[order][None], values[order]


def problem(seed: int = 0) -> tuple[Array, list[Array], list[Array]]:
    """Return a table, dense gradients, and the rows that each touches: row 0 once, the last row in each step."""
    generator = np.random.default_rng(seed)
    start, gradients = cases.problem(np.float64, ROWS * WIDTH)
    often = np.linspace(0.0, 1.0, ROWS)
    touched = [np.flatnonzero(generator.random(ROWS) < often) for _ in gradients]
    touched[0], touched[-1] = np.arange(ROWS), np.arange(1, ROWS)  # row 0 lags at the end
    shuffle = generator.permutation(ROWS * WIDTH)  # each row has gradients of all sizes
    return start.reshape(ROWS, WIDTH), [g[shuffle].reshape(ROWS, WIDTH) for g in gradients], touched


def only(gradient: Array, touched: Array) -> Array:
    """Return the gradient with zeros in all rows but `touched`."""
    result = np.zeros_like(gradient)
    result[touched] = gradient[touched]
    return result


def assert_state(mine: dict[str, Any], state: State, rows: Any = slice(None), rtol: float = 1e-12) -> None:
    for name in AVERAGES:
        value = getattr(state, name)
        if value is not None:
            np.testing.assert_allclose(mine[name].numpy()[rows], value[rows], rtol=rtol, atol=1e-14)
    assert mine["step"].item() == state.step


def lag_of(optimizer: RMSprop, p: Tensor) -> sparse_rows.Lag:
    return optimizer.step_state.lags[id(optimizer.state[p])]
