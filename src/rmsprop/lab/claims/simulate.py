"""Run the rule on small problems, a row of the arrays for each seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from rmsprop.lab.claims.claim import Floats, Seeds
from rmsprop.rule import Rule, State, init, update

Gradient = Callable[[Floats, int], Floats]  # of the parameters at step t = 1, 2, …


class Path(NamedTuple):
    """Where a run ended."""

    param: Floats
    state: State


def steps(rule: Rule, param: Floats, gradient: Gradient, count: int) -> Iterator[Path]:
    """Yield parameters and state after each of `count` steps."""
    state = init(rule, param)
    for t in range(1, count + 1):
        param, state = update(rule, param, gradient(param, t), state)
        yield Path(param, state)


def run(rule: Rule, param: Floats, gradient: Gradient, count: int) -> Path:
    """Return parameters and state after `count` steps."""
    path = Path(param, init(rule, param))
    for path in steps(rule, param, gradient, count):  # noqa: B007
        pass
    return path


def trajectory(rule: Rule, param: Floats, gradient: Gradient, count: int) -> Floats:
    """Return the parameters after each step: steps × shape of `param`."""
    return np.array([path.param for path in steps(rule, param, gradient, count)])


def move(rule: Rule, grads: Floats) -> Floats:
    """Return the parameters after each gradient of `grads` (steps × shape), from 0 on."""
    return trajectory(rule, np.zeros_like(grads[0]), lambda _, t: grads[t - 1], len(grads))


def state_after(rule: Rule, grads: Floats) -> State:
    """Return the state after the gradients `grads` (steps × shape)."""
    return run(rule, np.zeros_like(grads[0]), lambda _, t: grads[t - 1], len(grads)).state


def normal(seeds: Seeds, *shape: int) -> Floats:
    """Return standard normal numbers, a row of `shape` for each seed."""
    return np.array([np.random.default_rng(seed).standard_normal(shape) for seed in seeds])


def with_mean(seeds: Seeds, count: int) -> Floats:
    """Return gradients that have a mean and noise of its size: steps × seeds × 4."""
    return normal(seeds, count, 4).swapaxes(0, 1) + normal(seeds, 4)


def uniform(seeds: Seeds, low: float, high: float, *shape: int) -> Floats:
    """Return uniform numbers, a row of `shape` for each seed."""
    return np.array([np.random.default_rng(seed).uniform(low, high, shape) for seed in seeds])


def scheduled(
    rule: Rule,
    param: Floats,
    gradient: Gradient,
    count: int,
    rate: Callable[[int], float],
    limit: Callable[[Floats], Floats] = lambda p: p,
) -> Floats:
    """Return the parameters after each step at the rate η·rate(t), each put through `limit`.

    A step is proportional to η, as long as momentum has no η inside.
    """
    state, path = init(rule, param), []
    for t in range(1, count + 1):
        moved, state = update(rule, param, gradient(param, t), state)
        param = limit(param + (moved - param) * rate(t))
        path.append(param)
    return np.array(path)
