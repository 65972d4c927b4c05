"""Claims on ε: what it is for, where it stands, and what a large one does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Line, Measured, Picture, Seeds, Source, near
from rmsprop.lab.claims.simulate import move, normal, trajectory, uniform
from rmsprop.rule import Rule, State, denominator
from rmsprop.scaling import convert_eps

CHOI = Source(
    "Choi et al., On Empirical Comparisons of Optimizers for Deep Learning", "https://arxiv.org/abs/1910.05446"
)
INCEPTION = Rule(lr=0.01, decay=0.9, eps=1.0, momentum=0.9, eps_inside_sqrt=True, initial_square_avg=1.0)
CURVATURES = np.array([1e-3, 1e-2, 1e-1])


def _heavy_ball(lr: float, momentum: float, start: Floats, noise: Floats) -> Floats:
    """Return the path of SGD with momentum on the noisy quadratic."""
    param, buffer, path = start, np.zeros_like(start), []
    for each in noise:
        buffer = momentum * buffer + CURVATURES * param + each
        param = param - lr * buffer
        path.append(param)
    return np.array(path)


def _distance_to_momentum(rule: Rule, seeds: Seeds) -> Measured:
    noise = 1e-3 * normal(seeds, 300, 3).swapaxes(0, 1)
    start = normal(seeds, 3) * 0.01
    path = trajectory(rule, start, lambda p, t: CURVATURES * p + noise[t - 1], 300)
    other = _heavy_ball(rule.lr / (1.0 if rule.eps_inside_sqrt else rule.eps), rule.momentum, start, noise)
    size = np.abs(other - start).max(axis=(0, 2))
    return {"distance to momentum's path / its length": np.abs(path - other)[100:].max(axis=(0, 2)) / size}


def _large_eps(rule: Rule, seeds: Seeds) -> Measured:
    """Keep η/ε at 0.01 with the ε of the rule."""
    return _distance_to_momentum(replace(rule, lr=0.01 * rule.eps), seeds)


def _eps_picture(rule: Rule) -> Picture:
    noise = 1e-3 * normal((0,), 300, 3).swapaxes(0, 1)
    start = normal((0,), 3) * 0.01
    lines = []
    for eps in (1e-4, 1e-3, 1e-2, 1.0):
        each = replace(rule, eps=eps, lr=0.01 * eps)
        path = trajectory(each, start, lambda p, t: CURVATURES * p + noise[t - 1], 300)
        other = _heavy_ball(0.01, rule.momentum, start, noise)
        lines.append(Line(f"ε = {eps:g}", np.arange(1, 301), np.abs(path - other).max(axis=(1, 2)) + 1e-12))
    caption = "Distance of the parameters to SGD with momentum, η/ε = 0.01. Gradients are about 0.001."
    return Picture("step", "distance", tuple(lines), caption, log_y=True)


def _place(rule: Rule, seeds: Seeds) -> Measured:
    scale = np.exp(0.3 * normal(seeds))
    v = State(1, (scale * 1e-5) ** 2)
    outside = denominator(rule, v)
    inside = denominator(replace(rule, eps_inside_sqrt=True), v)
    return {"denominator with ε inside / outside": inside / outside}


def _converted(rule: Rule, seeds: Seeds) -> Measured:
    v = State(1, rule.eps**2 * 10 ** (uniform(seeds, -0.01, 0.01, 1) + np.linspace(-8, 8, 401)))
    inside = replace(rule, eps=convert_eps(rule.eps, "inside").eps, eps_inside_sqrt=True)
    ratio = denominator(rule, v) / denominator(inside, v)
    at = State(1, np.full(len(seeds), rule.eps**2))
    return {
        "largest ratio of the denominators": ratio.max(axis=1),
        "ratio at √v = ε": denominator(rule, at) / denominator(inside, at),
    }


def _equal_steps(rule: Rule, seeds: Seeds) -> Measured:
    gradient = np.exp(normal(seeds))
    path = np.abs(np.diff(move(rule, np.repeat(np.stack([gradient, 1e-3 * gradient])[None], 200, axis=0)), axis=0))[-1]
    return {"step of a gradient of 1 / of 0.001": path[0] / path[1]}


def _half_precision(rule: Rule, seeds: Seeds) -> Measured:
    idle = State(1, np.zeros(len(seeds), dtype=np.float16))
    return {"denominator of an element without gradient": denominator(rule, idle).astype(np.float64)}


CLAIMS = (
    Claim(
        name="eps-for-safety",
        sentence="ε only prevents a division by zero; its value does not change the method.",
        source=Source(
            "Keras, RMSprop: epsilon, small constant for numerical stability", "https://keras.io/api/optimizers/rmsprop"
        ),
        expected="Published trainings (Inception, NASNet) use ε = 1. Their path is that of SGD with momentum.",
        rule=INCEPTION,
        measure=_distance_to_momentum,
        says=(Bound("distance to momentum's path / its length", low=0.1),),
        changed={"eps": 1e-8},
        picture=lambda rule: _eps_picture(replace(rule, eps_inside_sqrt=False, initial_square_avg=0.0)),
        notes="If ε only prevented a division by zero, the path would stay far from momentum's.",
    ),
    Claim(
        name="contains-momentum",
        sentence="With a large ε and the same η/ε, RMSprop with momentum takes the path of SGD with momentum.",
        source=CHOI,
        expected="With ε far above √v the denominator is constant, and the heavy-ball buffer sums gradients.",
        rule=Rule(lr=1.0, decay=0.99, eps=1e3, momentum=0.9),
        measure=_large_eps,
        says=(Bound("distance to momentum's path / its length", high=1e-3),),
        changed={"eps": 1e-6},
        notes="Choi et al. conclude that a tuned RMSprop never loses to momentum. The path shows that momentum is one "
        "of its settings, not that a search of limited budget finds it.",
    ),
    Claim(
        name="eps-place",
        sentence="Whether ε stands inside the root or outside makes no difference.",
        source=Source(
            "Ruder writes it inside, PyTorch computes it outside", "https://www.ruder.io/optimizing-gradient-descent/"
        ),
        expected="Inside, the floor of the denominator is √ε: with ε = 1e-5 and gradients of 1e-5, 0.0032 against "
        "2e-5.",
        rule=Rule(eps=1e-5),
        measure=_place,
        says=(Bound("denominator with ε inside / outside", 0.9, 1.1),),
        changed={"eps": 0.0},
    ),
    Claim(
        name="eps-converted",
        sentence="ε outside the root and ε² inside give denominators that differ by a factor of √2 at most, at √v = ε.",
        source=Source("Derived", "docs/conventions.md"),
        expected="(√v + ε)/√(v + ε²) is largest where √v = ε.",
        rule=Rule(eps=1e-3),
        measure=_converted,
        says=(near("largest ratio of the denominators", 2**0.5, 1e-3), near("ratio at √v = ε", 2**0.5, 1e-12)),
        changed={"eps_inside_sqrt": True},
    ),
    Claim(
        name="hintons-eps",
        sentence="Hinton suggests ε = 0.9.",
        source=Source("Peltarion documentation, RMSprop", "peltarion.com, archived"),
        expected="0.9 is the lecture's decay. What the lecture shows, equal steps for small and large gradients, "
        "fails with ε = 0.9.",
        rule=Rule(lr=1e-3, decay=0.9, eps=0.9),
        measure=_equal_steps,
        says=(near("step of a gradient of 1 / of 0.001", 1.0, 0.05),),
        changed={"eps": 1e-8},
    ),
    Claim(
        name="float16-eps",
        sentence="The usual ε = 1e-8 keeps float16 from dividing by zero.",
        source=Source(
            "PyTorch's default, and pure float16 training",
            "https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html",
        ),
        expected="The smallest positive float16 is 6e-8: 1e-8 rounds to 0, and 0/0 is NaN.",
        rule=Rule(),
        measure=_half_precision,
        says=(Bound("denominator of an element without gradient", low=1e-12),),
        changed={"eps": 1e-7},
    ),
)
