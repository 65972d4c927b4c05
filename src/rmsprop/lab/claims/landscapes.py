"""Claims on the shape of the loss: ravines, saddles, bowls after steep slopes, curvature, AdaGrad's rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Line, Measured, Picture, Seeds, Source
from rmsprop.lab.claims.simulate import Gradient, normal, run, steps, trajectory, uniform
from rmsprop.rule import Rule, denominator, init, update

_TURN = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
_STRAIGHT = np.eye(2)
_RAVINE = np.array([1.0, 0.01])  # curvatures
_RATES = (0.02, 0.05, 0.08)
_TARGET = 0.05  # of the largest distance at the start, in both directions
_SADDLE = np.array([1.0, -0.2])
_NOISE = np.array([1.0, 0.01])  # of the two directions


def _turned(curvatures: Floats, turn: Floats, noise: Callable[[], Floats] | None = None) -> Gradient:
    """Return the gradient of a quadratic whose axes are the columns of `turn`, with noise along the axes."""

    def gradient(p: Floats, _: int) -> Floats:
        along = (p @ turn) * curvatures
        return np.asarray((along if noise is None else along + noise()) @ turn.T)

    return gradient


def _ravine_steps(path: Iterable[Floats], turn: Floats, start: Floats) -> Floats:
    """Return the step from which on both directions stay within `_TARGET`: the median over the starts of each seed."""
    goal = _TARGET * np.abs(start).max(axis=-1)
    last, count = np.zeros(goal.shape), 0
    for count, p in enumerate(path, start=1):
        last = np.where(np.abs(p @ turn).max(axis=-1) > goal, count, last)
    return np.asarray(np.median(np.where(last == count, np.inf, last + 1), axis=1))


def _gradient_descent(start: Floats, rate: float, count: int) -> Iterable[Floats]:
    p = start
    for _ in range(count):
        p = p - rate * _RAVINE * p
        yield p


def _best(steps_at: Callable[[float], Floats], rates: Iterable[float]) -> Floats:
    return np.asarray(np.min([steps_at(rate) for rate in rates], axis=0))


def _ravine(rule: Rule, seeds: Seeds) -> Measured:
    start = uniform(seeds, 0.5, 1.5, 30, 2) * np.sign(normal(seeds, 30, 2))
    descents = (0.5, 1.0, 1.5, 1.8, 1.9, 1.95, 1.98)
    plain = _best(lambda rate: _ravine_steps(_gradient_descent(start, rate, 1000), _STRAIGHT, start), descents)
    found = {}
    for name, turn in (("along the coordinates", _STRAIGHT), ("turned by 45°", _TURN)):

        def steps_at(rate: float, turn: Floats = turn) -> Floats:
            paths = steps(replace(rule, lr=rate), start @ turn.T, _turned(_RAVINE, turn), 250)
            return _ravine_steps((path.param for path in paths), turn, start)

        found[f"gradient descent's steps / RMSprop's, {name}"] = plain / _best(steps_at, _RATES)
    return found


def _ravine_picture(rule: Rule) -> Picture:
    start = np.array([[1.0, 1.0]])
    loss = (_RAVINE * start**2).sum()
    count = 85  # then both are near 0, and the logarithm shows nothing else
    t = np.arange(1, count + 1)
    lines = []
    for name, turn, rate in (("RMSprop, aligned", _STRAIGHT, 0.02), ("RMSprop, turned by 45°", _TURN, 0.02)):
        path = trajectory(replace(rule, lr=rate), start @ turn.T, _turned(_RAVINE, turn), count)
        lines.append(Line(name, t, (_RAVINE * (path[:, 0] @ turn) ** 2).sum(axis=1) / loss))
    plain = np.array(list(_gradient_descent(start, 1.95, count)))[:, 0]
    lines.append(Line("gradient descent", t, (_RAVINE * plain**2).sum(axis=1) / loss))
    caption = "Loss in a ravine of condition 100, η = 0.02, gradient descent at 1.95."
    return Picture("step", "loss / loss at the start", tuple(lines), caption, log_y=True)


def _exit_time(positions: Iterable[Floats]) -> Floats:
    """Return the median over the replicas of the step at which |y| > 1: seeds × replicas × 2."""
    first: Floats | None = None
    for t, p in enumerate(positions, start=1):
        out = np.abs(p[..., 1]) > 1
        first = np.full(out.shape, np.inf) if first is None else first
        first = np.where(out & np.isinf(first), t, first)
        if (np.isfinite(first).mean(axis=1) > 0.5).all():
            break
    assert first is not None  # noqa: S101
    return np.asarray(np.median(first, axis=1))


def _saddle(rule: Rule, seeds: Seeds) -> Measured:
    count, replicas = 2200, 20
    generators = [np.random.default_rng(seed) for seed in seeds]

    def noise() -> Floats:
        return np.asarray(np.array([each.standard_normal((replicas, 2)) for each in generators]) * _NOISE)

    def descent() -> Iterable[Floats]:
        p = np.zeros((len(seeds), replicas, 2))
        for _ in range(count):
            p = p - rule.lr * (_SADDLE * p + noise())
            yield p

    plain, found = _exit_time(descent()), {}
    for name, turn in (("along the coordinates", _STRAIGHT), ("turned by 45°", _TURN)):
        gradient = _turned(_SADDLE, turn, noise)
        paths = steps(rule, np.zeros((len(seeds), replicas, 2)), gradient, count)
        found[f"SGD's exit time / RMSprop's, {name}"] = plain / _exit_time(path.param @ turn for path in paths)
    return found


def _bowl(rule: Rule, seeds: Seeds) -> Measured:
    """Start in the bowl x²/2 at 1, with v at 0 and with the v of a slope steeper by a factor."""
    start = uniform(seeds, 0.8, 1.2)

    def steps_from(slope: float) -> Floats:
        state = run(rule, start, lambda p, _: np.full_like(p, slope), 300).state if slope else init(rule, start)
        param, first = start, np.full(len(start), np.inf)
        for t in range(1, 801):
            param, state = update(rule, param, param, state)
            first = np.where((np.abs(param) <= 2 * rule.lr) & np.isinf(first), t, first)
        return first

    alone = steps_from(0.0)
    return {
        "steps after a slope of 1000 / without": steps_from(1000.0) / alone,
        "steps after a slope of 2 / without": steps_from(2.0) / alone,
    }


def _curvature(rule: Rule, seeds: Seeds) -> Measured:
    noise = normal(seeds, 600, 2).swapaxes(0, 1)
    curvature = np.array([1.0, 100.0])
    path = run(rule, np.zeros((len(seeds), 2)), lambda p, t: curvature * p + noise[t - 1], 600)
    d = denominator(rule, path.state)
    return {"√v at curvature 100 / at curvature 1": d[:, 1] / d[:, 0]}


def _adagrad_rate(rule: Rule, seeds: Seeds) -> Measured:
    """Step AdaGrad as RMSprop with β = 1 − 1/t and η/√t."""
    start = uniform(seeds, 0.5, 1.5, 1)
    found = {}
    for name, vanish in (("gradients that vanish", True), ("gradients of 1", False)):
        param, state, rates = start, init(rule, start), {}
        for t in range(1, 401):
            now = replace(rule, decay=1 - 1 / t, lr=rule.lr / t**0.5)
            param, state = update(now, param, param if vanish else np.ones_like(param), state)
            rates[t] = now.lr / denominator(now, state)[:, 0]
        found[f"rate at step 400 / at step 40, {name}"] = rates[400] / rates[40]
    return found


CLAIMS = (
    Claim(
        name="ravine",
        sentence="RMSprop damps the oscillation across a ravine and moves faster along it.",
        source=Source(
            "Ng, Improving Deep Neural Networks, RMSprop",
            "https://www.coursera.org/lecture/deep-neural-network/rmsprop-BhJlm",
        ),
        expected="v has an entry for each coordinate. In a ravine that lies across the coordinates both are alike.",
        rule=Rule(decay=0.9, eps=1e-12),
        measure=_ravine,
        says=(
            Bound("gradient descent's steps / RMSprop's, along the coordinates", low=1.2),
            Bound("gradient descent's steps / RMSprop's, turned by 45°", low=1.2),
        ),
        only_if="the ravine lies along the coordinates",
        where=(Bound("gradient descent's steps / RMSprop's, along the coordinates", low=1.2),),
        changed={"eps": 100.0},
        picture=_ravine_picture,
        notes="Steps until both directions are within 5 % of the start, condition 100, each at its best rate of a "
        "grid.",
    ),
    Claim(
        name="saddles",
        sentence="RMSprop escapes saddle points faster than SGD.",
        source=Source(
            "Staib et al., Escaping Saddle Points with Adaptive Gradient Methods", "https://arxiv.org/abs/1901.09149"
        ),
        expected="Dividing by √v makes small noise in the direction of escape as large as the rest, if it has a "
        "coordinate.",
        rule=Rule(lr=0.02, decay=0.99, eps=1e-12, bias_correction=True),
        measure=_saddle,
        says=(
            Bound("SGD's exit time / RMSprop's, along the coordinates", low=2.0),
            Bound("SGD's exit time / RMSprop's, turned by 45°", low=2.0),
        ),
        only_if="the direction of escape lies along a coordinate, and its noise is small",
        where=(Bound("SGD's exit time / RMSprop's, along the coordinates", low=2.0),),
        changed={"eps": 1.0},
        notes="(x² − 0.2 y²)/2, noise of 1 along x and 0.01 along y. √v is about 1 along x: there both have one rate.",
    ),
    Claim(
        name="fast-in-a-bowl",
        sentence="In a convex bowl RMSprop is as fast as if it had been started there, whatever came before.",
        source=Source(
            "Goodfellow, Bengio and Courville, Deep Learning, 8.5.2",
            "https://www.deeplearningbook.org/contents/optimization.html",
        ),
        expected="v forgets by β a step: after gradients r times as large it takes 2·ln r/(1−β) steps.",
        rule=Rule(lr=0.02, decay=0.9, eps=1e-12),
        measure=_bowl,
        says=(
            Bound("steps after a slope of 1000 / without", high=2.0),
            Bound("steps after a slope of 2 / without", high=2.0),
        ),
        only_if="the gradients before were not much larger",
        where=(Bound("steps after a slope of 2 / without", high=2.0),),
        changed={"decay": 0.1},
    ),
    Claim(
        name="curvature",
        sentence="RMSprop adapts to curvature: √v approximates the Hessian's diagonal.",
        source=Source(
            "Contradicted by Kunstner et al., Limitations of the Empirical Fisher Approximation",
            "https://arxiv.org/abs/1905.12558",
        ),
        expected="v is the energy of the gradient. With noise of one size, curvatures 100 apart have the same v.",
        rule=Rule(lr=1e-3, decay=0.99, eps=1e-12),
        measure=_curvature,
        says=(Bound("√v at curvature 100 / at curvature 1", 50, 200),),
        changed={"lr": 100.0},
        notes="With η so large that the iterate oscillates, the curvature outweighs the noise and does enter v.",
    ),
    Claim(
        name="adagrad-vanishes",
        sentence="AdaGrad's learning rate falls towards 0 until it stops learning; RMSprop repairs this.",
        source=Source(
            "Ruder, An overview of gradient descent optimization algorithms",
            "https://www.ruder.io/optimizing-gradient-descent/",
        ),
        expected="The rate falls as 1/√t while gradients persist. If they vanish, the sum of squares is bounded, "
        "and the rate stays.",
        rule=Rule(lr=0.1, eps=0.0),
        measure=_adagrad_rate,
        says=(
            Bound("rate at step 400 / at step 40, gradients that vanish", high=0.5),
            Bound("rate at step 400 / at step 40, gradients of 1", high=0.5),
        ),
        only_if="the gradients persist",
        where=(Bound("rate at step 400 / at step 40, gradients of 1", high=0.5),),
        changed={"eps": 1e6},
        notes="On a quadratic without noise AdaGrad reaches the minimum, RMSprop at a constant rate does not "
        "(two-cycle).",
    ),
)
