"""Claims on what v remembers: its window, its half-life, its precision."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Measured, Seeds, Source, near
from rmsprop.lab.claims.simulate import move, normal, state_after, trajectory
from rmsprop.rule import Rule, State, denominator, init, update

DERIVED = Source("Derived from the average", "docs/theory.md#memory")
RULE = Rule(lr=1.0, decay=0.99, eps=0.0)


def _window(rule: Rule, seeds: Seeds) -> Measured:
    gradient = np.exp(normal(seeds))
    count = round(1 / (1 - rule.decay))
    d = denominator(rule, state_after(rule, np.repeat(gradient[None], count, axis=0)))
    return {"weight of the last 1/(1−β) gradients": (d / gradient) ** 2}


def _half_life(rule: Rule, seeds: Seeds) -> Measured:
    gradient = np.exp(normal(seeds))
    half = round(math.log(0.5) / math.log(rule.decay))
    grads = np.zeros((500 + half, len(seeds)))
    grads[:500] = gradient
    ratio = denominator(rule, state_after(rule, grads)) / denominator(rule, state_after(rule, grads[:500]))
    return {"v after one half-life / before": ratio**2}


def _sample_size(rule: Rule, seeds: Seeds) -> Measured:
    d = denominator(rule, state_after(rule, normal(seeds, 600, 800).swapaxes(0, 1))) ** 2
    relative = d.std(axis=1) / d.mean(axis=1)
    return {"gradients that v is worth": 2 / relative**2, "the same × (1−β)": 2 / relative**2 * (1 - rule.decay)}


def _recovery(rule: Rule, seeds: Seeds) -> Measured:
    """Let the scale of the gradient change by 100, and count the steps until steps have 0.9 to 1.1 of their length."""
    small = np.repeat(np.exp(0.1 * normal(seeds))[None], 500, axis=0)
    found = {}
    for name, factor in (("grow", 100.0), ("shrink", 0.01)):
        grads = np.concatenate([small, small[:1].repeat(2500, axis=0) * factor])
        lengths = np.abs(np.diff(move(rule, grads), axis=0))[len(small) - 1 :] / rule.lr
        settled = np.abs(grads[-1]) / (np.abs(grads[-1]) + rule.eps)
        off = np.abs(lengths / settled - 1) > 0.5
        last = np.where(off.any(axis=0), len(off) - off[::-1].argmax(axis=0), 0)
        found[f"steps × (1−β) until within 50 %, gradients {name} by 100"] = last * (1 - rule.decay)
        found[f"longest step / η, gradients {name}"] = lengths.max(axis=0)
    return found


def _infrequent(rule: Rule, seeds: Seeds) -> Measured:
    gradient = np.exp(normal(seeds))
    grads = np.zeros((1001, len(seeds)))
    grads[::100] = gradient
    dense = np.abs(np.diff(move(rule, grads), axis=0))[-1] / rule.lr
    lazy = np.abs(np.diff(move(rule, np.repeat(gradient[None], 400, axis=0)), axis=0))[-1] / rule.lr
    return {"step / η of a row touched every 100 steps": dense, "the same, if idle rows keep v": lazy}


def _caught_up(rule: Rule, param: Floats, state: State, idle: int) -> tuple[Floats, State]:
    """Return parameters and state after idle steps at a constant rate, without computing the steps."""
    decayed = rule.decay**idle
    grad_avg, buffer = state.grad_avg, state.momentum_buffer
    if grad_avg is not None:
        grad_avg = grad_avg * decayed
    if buffer is not None:  # it moves the parameter by μ + μ² + … of itself
        mu = rule.momentum
        rate = 1.0 if rule.lr_in_momentum else rule.lr
        param, buffer = param - rate * buffer * mu * (1 - mu**idle) / (1 - mu), buffer * mu**idle
    return param, State(state.step + idle, state.square_avg * decayed, grad_avg, buffer)


def _catch_up(rule: Rule, seeds: Seeds) -> Measured:
    grads = normal(seeds, 300, 20).swapaxes(0, 1)
    grads[40:200] = 0
    start = np.ones(grads[0].shape)
    rules = {
        "plain": rule,
        "centered": replace(rule, centered=True),
        "momentum": replace(rule, momentum=0.9),
        "η in the momentum": replace(rule, momentum=0.9, lr_in_momentum=True),
    }
    found = {}
    for name, each in rules.items():
        dense = trajectory(each, start, lambda _, t: grads[t - 1], len(grads))[-1]
        state, param = init(each, start), start
        for t, grad in enumerate(grads):
            if t == 200:
                param, state = _caught_up(each, param, state, 160)
            if not 40 <= t < 200:
                param, state = update(each, param, grad, state)
        found[f"difference after 160 idle steps at once, {name}"] = np.abs(dense - param).mean(axis=1)
    return found


def _scale(rule: Rule, seeds: Seeds) -> Measured:
    grads = normal(seeds, 200, 20).swapaxes(0, 1)

    def difference(each: Rule) -> np.ndarray:
        return np.asarray(np.abs(move(each, 1000 * grads) - move(each, grads)).max(axis=(0, 2)) / each.lr)

    return {
        "difference / η with v₀ = 1": difference(replace(rule, initial_square_avg=1.0)),
        "difference / η": difference(rule),
    }


CLAIMS = (
    Claim(
        name="window",
        sentence="v is an average over the last 1/(1−β) gradients.",
        source=Source("Ng, Improving Deep Neural Networks, exponentially weighted averages", "Coursera, week 2"),
        expected="The last 1/(1−β) gradients have 1 − 1/e of the weight, 63 %. For 99 % it takes 4.6/(1−β).",
        rule=RULE,
        measure=_window,
        says=(Bound("weight of the last 1/(1−β) gradients", low=0.95),),
        changed={"bias_correction": True},
    ),
    Claim(
        name="half-life",
        sentence="Without gradients, v halves every ln 2/−ln β steps: 69 at β = 0.99.",
        source=DERIVED,
        expected="Each idle step multiplies v by β.",
        rule=RULE,
        measure=_half_life,
        says=(near("v after one half-life / before", 0.5, 0.002),),
        changed={"amsgrad": True},
    ),
    Claim(
        name="sample-size",
        sentence="v is as precise as the mean of (1+β)/(1−β) squares, twice the usual 1/(1−β).",
        source=DERIVED,
        expected="The weights (1−β)βᵏ have a sum of squares of (1−β)/(1+β): 199 gradients at β = 0.99.",
        rule=RULE,
        measure=_sample_size,
        says=(Bound("gradients that v is worth", 170, 230),),
        changed={"amsgrad": True},
    ),
    Claim(
        name="non-stationary",
        sentence="RMSprop adapts within its window when the scale of the gradients changes.",
        source=Source("Cruxible, RMSprop", "https://cruxible.dev/learn/ml2x-rmsprop-optimizer"),
        expected="Growth: one long step, then the window. Shrinkage by r: steps stay short for about 2·ln r/(1−β) "
        "steps.",
        rule=RULE,
        measure=_recovery,
        says=(
            Bound("steps × (1−β) until within 50 %, gradients grow by 100", high=1.0),
            Bound("steps × (1−β) until within 50 %, gradients shrink by 100", high=1.0),
        ),
        only_if="the gradients grow",
        where=(Bound("steps × (1−β) until within 50 %, gradients grow by 100", high=1.0),),
        changed={"eps": 1e6},
    ),
    Claim(
        name="infrequent-features",
        sentence="Infrequent features get larger updates.",
        source=Source("Infinite Lexicon, RMSprop", "https://infinitelexicon.pages.dev/RMSprop"),
        expected="Each idle step shrinks v: the step is √((1−βᵏ)/(1−β)) η, 8 η for k = 100, and at most η/√(1−β). Lazy "
        "implementations leave v of idle rows alone, and the step stays at η.",
        rule=RULE,
        measure=_infrequent,
        says=(
            Bound("the same, if idle rows keep v", low=2.0),
            Bound("step / η of a row touched every 100 steps", low=2.0),
        ),
        only_if='v of idle rows decays as well (sparse="exact", not lazy)',
        where=(near("step / η of a row touched every 100 steps", math.sqrt((1 - 0.99**100) / 0.01), 1e-3),),
        changed={"decay": 0.0},
    ),
    Claim(
        name="catch-up",
        sentence="k steps without a gradient need not be computed one by one: βᵏ and μᵏ give the same result.",
        source=Source("Derived", "docs/sparse.md"),
        expected="With g = 0 the parameter stays and v is multiplied by β. Coupled weight decay breaks it: its "
        "gradient is not 0.",
        rule=RULE,
        measure=_catch_up,
        says=tuple(
            Bound(f"difference after 160 idle steps at once, {name}", high=1e-10)
            for name in ("plain", "centered", "momentum", "η in the momentum")
        ),
        changed={"weight_decay": 0.01},
    ),
    Claim(
        name="gradient-scale",
        sentence="RMSprop is invariant to the scale of the gradients.",
        source=Source("Derived; compare Kingma and Ba, Adam, section 2.1", "https://arxiv.org/abs/1412.6980"),
        expected="g/√v does not change if all gradients grow a thousandfold; with v₀ = 1 or a large ε it does.",
        rule=RULE,
        measure=_scale,
        says=(Bound("difference / η", high=1e-9), Bound("difference / η with v₀ = 1", high=1e-9)),
        only_if="v starts at 0 and ε is far below the gradients",
        where=(Bound("difference / η", high=1e-9),),
        changed={"eps": 1.0},
    ),
)
