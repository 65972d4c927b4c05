"""Remedies of findings: their spelling, and none that undoes a graver finding's."""

from __future__ import annotations

from typing import Any

import torch

from rmsprop.monitor import Monitor
from rmsprop.monitor.findings import Finding, consistent, find
from rmsprop.torch import RMSprop


def finding(kind: str, *changes: dict[str, Any]) -> Finding:
    return Finding(kind, None, 1, "s", "c", {}, "t", "", changes)


def test_a_change_of_decay_is_alpha_in_python() -> None:
    assert finding("memory", {"decay": 0.9}).remedy == "RMSprop(..., alpha=0.9)"


def test_no_remedy_undoes_that_of_a_graver_finding() -> None:
    options = {"lr": 0.01, "eps": 1e-8, "centered": True, "nonfinite": "propagate"}
    down, up = finding("a", {"lr": 0.001}), finding("b", {"lr": 0.1})
    assert consistent([down, up], options) == [down]
    assert consistent([up, down], options) == [up]
    assert consistent([finding("no remedy by options"), up], options)[0].changes == ()
    either = finding("c", {"lr": 0.1}, {"eps": 1e-6})
    assert consistent([down, either], options) == [down, finding("c", {"eps": 1e-6})]
    others = [finding("d", {"centered": False}), finding("e", {"clip": 3.0}), finding("f", {"nonfinite": "skip"})]
    assert consistent([down, *others], options) == [down, *others]
    again = finding("g", {"centered": True, "lr": 0.001})  # the options of the run: no change
    assert consistent([down, again], options) == [down, again]
    assert consistent([finding("d", {"eps": 1.0}), finding("e", {"eps": 0.0})], options) == [finding("d", {"eps": 1.0})]


def test_of_two_tensors_that_want_other_rates_the_graver_finding_is_told() -> None:
    """One tensor is far too small for lr, the other far too large."""
    torch.manual_seed(0)
    params = [torch.full((2, 2), size, dtype=torch.float64) for size in (1e-3, 1e9)]
    optimizer = RMSprop(params, lr=1e-3, bias_correction=True)
    monitor = Monitor(optimizer, every=1)
    for _ in range(12):
        for p in params:
            p.grad = torch.randn(2, 2, dtype=torch.float64)
        optimizer.step()
    assert [f.kind for f in find(monitor.records)] == ["long steps"]
