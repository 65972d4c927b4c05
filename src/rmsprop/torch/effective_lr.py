"""Compute η/d, the effective learning rate of every element of a parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from rmsprop.errors import InputError, Received
from rmsprop.hyperparameters import HYPERPARAMETERS
from rmsprop.rule import AVERAGES, Rule
from rmsprop.torch.engines import arithmetic
from rmsprop.torch.engines.sparse_rows import Lags, catch_up
from rmsprop.torch.groups import rule_of
from rmsprop.torch.state import ParamGroup, average, check_shapes, kappa_of


def effective_lr(groups: list[ParamGroup], states: Mapping[Tensor, Any], lags: Lags, param: Tensor) -> Tensor:
    """Return η/d of `param` as of its last step (see `RMSprop.effective_lr`)."""
    state = states.get(param, {})
    keys = ((group, i) for group in groups for i, p in enumerate(group["params"]) if p is param)
    group, index = next(keys, ({}, 0))
    if not group or not state.get("step"):
        found = Received("one without state")
        raise InputError("param", "a parameter that this optimizer has stepped", found, "call step() first")
    catch_up(state, lags)
    check_shapes(group, index, state)
    averages = {name: average(state, name, param) for name in AVERAGES if name in state}
    # An option switched on after the last step has no average yet.
    lacking = [each for each in HYPERPARAMETERS.values() if each.average and each.average not in averages]
    unused = {each.name: getattr(Rule, each.name) for each in lacking}
    rule = dataclasses.replace(rule_of(group), nesterov=False, momentum_decay=0.0, **unused)
    power = arithmetic.step_numbers(rule, [state["step"]], capturable=False)[0].power
    d = arithmetic.denominator(rule, averages, power, kappa_of(state["square_avg"].dtype))
    lr = group["lr"]
    return cast("Tensor", (lr if isinstance(lr, Tensor) else float(lr)) / d)
