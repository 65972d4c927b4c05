"""Helpers of test_state*.py: state dicts, whole and broken."""

from __future__ import annotations

import io
from typing import Any

import cases
import torch
from test_torch import step
from torch import Tensor

from rmsprop.torch import RMSprop

HALF = cases.STEPS // 2
ALL = cases.RULES["all of it"]
WEIGHT = "parameter 0 in group 0 of the state dict"
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16 state": {"state_dtype": "bfloat16"},
    "8-bit state": {"state_dtype": "uint8"},
    "8-bit state, seed 7": {"state_dtype": "uint8", "stochastic_rounding": 7},
}


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def saved(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def same_state(a: RMSprop, b: RMSprop) -> None:
    """Assert that groups and state agree bit for bit, with dtypes."""
    for x, y in zip(a.param_groups, b.param_groups, strict=True):
        assert {k: v for k, v in x.items() if k != "params"} == {k: v for k, v in y.items() if k != "params"}
        for p, q in zip(x["params"], y["params"], strict=True):
            assert a.state[p].keys() == b.state[q].keys()
            for name, value in a.state[p].items():
                assert value.dtype == b.state[q][name].dtype
                assert torch.equal(value, b.state[q][name]), name


def broken(**changes: Any) -> dict[str, Any]:
    """Return a state dict for weight (2, 3) and bias (2,) with `changes` in the state of the weight."""
    params = [torch.ones(2, 3), torch.ones(2)]
    optimizer = RMSprop(params)
    step(optimizer, params, [torch.ones(2, 3), torch.ones(2)])
    made = saved(optimizer)
    made["state"][0] |= changes
    made["state"][0] = {name: value for name, value in made["state"][0].items() if value is not None}
    return made
