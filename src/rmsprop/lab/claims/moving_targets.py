"""Claims on learning with a target that moves: values of states, by bootstrapping from a copy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Measured, Seeds, Source
from rmsprop.rule import Rule, init, update

_STATES, _DISCOUNT, _UPDATES = 10, 0.9, 10  # updates between two target updates
_RATES = 10 ** np.arange(-3.0, 0.01, 0.25)


def _chain() -> tuple[Floats, Floats, Floats]:
    """Return rewards, transitions and values of a ring of states: forwards with 0.7, backwards with 0.3."""
    forwards = np.roll(np.eye(_STATES), 1, axis=1)
    transitions = 0.7 * forwards + 0.3 * forwards.T
    rewards = np.zeros(_STATES)
    rewards[0] = 10.0
    values = np.linalg.solve(np.eye(_STATES) - _DISCOUNT * transitions, rewards)
    return rewards, transitions, np.asarray(values, dtype=np.float64)


def _error(rule: Rule, seeds: Seeds, *, reset: bool) -> Floats:
    """Return the rms error of the values in the second half of a run, at the best of the rates."""
    rewards, transitions, exact = _chain()
    generators = [np.random.default_rng(seed) for seed in seeds]
    values = target = np.zeros((len(_RATES), len(seeds), _STATES))
    state, errors, count = init(rule, values), [], 2000
    for t in range(count):
        if t % _UPDATES == 0:
            target = rewards + _DISCOUNT * values @ transitions.T
            state = init(rule, values) if reset else state
        noise = np.array([generator.standard_normal(_STATES) for generator in generators])
        moved, state = update(rule, values, values - target + noise, state)
        values = values + (moved - values) * _RATES[:, None, None]
        if t >= count // 2:
            errors.append(np.sqrt(((values - exact) ** 2).mean(axis=2)))
    return np.asarray(np.mean(errors, axis=0).min(axis=0))


def _reset(rule: Rule, seeds: Seeds) -> Measured:
    def ratio(each: Rule) -> Floats:
        return _error(each, seeds, reset=True) / _error(each, seeds, reset=False)

    return {
        "error with resets / without, as the rule is": ratio(rule),
        "error with resets / without, μ = 0.99": ratio(replace(rule, momentum=0.99)),
    }


CLAIMS = (
    Claim(
        name="reset-at-target-update",
        sentence="Resetting the optimizer's state whenever the target network is updated improves value learning.",
        source=Source(
            "Asadi, Fakoor and Sabach, Resetting the Optimizer in Deep RL, on Rainbow with Adam and others",
            "https://arxiv.org/abs/2306.17833",
        ),
        expected="Momentum that remembers 100 steps still pulls towards the last ten targets: a reset helps. v is "
        "only a scale, which hardly changes with the target: a reset makes it noisy and helps nothing.",
        rule=Rule(lr=1.0, decay=0.99, bias_correction=True),
        measure=_reset,
        says=(
            Bound("error with resets / without, as the rule is", high=0.95),
            Bound("error with resets / without, μ = 0.99", high=0.95),
        ),
        only_if="momentum remembers more steps than lie between two target updates",
        where=(Bound("error with resets / without, μ = 0.99", high=0.95),),
        changed={"momentum": 0.99},
        notes="Values of ten states on a ring, noise of 1, a new target every ten steps, each at its best rate of a "
        "grid. Deep networks are another matter.",
    ),
)
