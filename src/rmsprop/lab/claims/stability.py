"""Claims on a constant rate: cycles, the edge of stability, spikes, flat minima."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Line, Measured, Picture, Seeds, Source, near
from rmsprop.lab.claims.simulate import normal, steps, trajectory, uniform
from rmsprop.rule import Rule, denominator

COHEN = Source("Cohen et al., Adaptive Gradient Methods at the Edge of Stability", "https://arxiv.org/abs/2207.14484")
CURVATURES = np.array([1e-3, 1.0, 1e3])
_HIDDEN = 8
_X = np.linspace(-1, 1, 20)
_Y = np.sin(4 * _X)


def _cycle(rule: Rule, seeds: Seeds, curvatures: Floats = CURVATURES) -> Floats:
    """Return |x|/η at the end of runs on quadratics."""
    start = uniform(seeds, 0.1, 0.2, len(curvatures))
    path = trajectory(rule, start, lambda p, _: curvatures * p, 1500)
    return np.asarray(np.abs(path[-40:]) / rule.lr)


def _two_cycle(rule: Rule, seeds: Seeds) -> Measured:
    sizes = _cycle(rule, seeds)
    return {"smallest |x|/η at the end": sizes.min(axis=(0, 2)), "largest |x|/η at the end": sizes.max(axis=(0, 2))}


def _mean_cycle(rule: Rule, seeds: Seeds) -> Measured:
    return {"|x|/η at the end": _cycle(rule, seeds).mean(axis=(0, 2))}


def _reaches(rule: Rule, seeds: Seeds) -> Measured:
    return {"distance to the minimum / η": _cycle(rule, seeds, np.ones(1)).mean(axis=(0, 2))}


def _cycle_picture(rule: Rule) -> Picture:
    t = np.arange(1, 201)

    def distances(curvature: float) -> Floats:
        return np.abs(trajectory(rule, np.full(1, 0.15), lambda p, _: curvature * p, 200)[:, 0]) / rule.lr

    lines = [Line(f"curvature {curvature:g}", t, distances(curvature)) for curvature in CURVATURES]
    caption = "Distance to the minimum of a quadratic in learning rates: it ends at ½ at any curvature."
    return Picture("step", "|x|/η", tuple(lines), caption, log_y=True)


def _network_gradient(p: Floats) -> Floats:
    """Return the gradient of the squared error of networks 1-8-1 with tanh: … × 25."""
    w, b, v, c = p[..., :8], p[..., 8:16], p[..., 16:24], p[..., 24:]
    h = np.tanh(w[..., None, :] * _X[:, None] + b[..., None, :])
    error = ((h * v[..., None, :]).sum(axis=-1) + c - _Y) / len(_X)
    back = error[..., None] * v[..., None, :] * (1 - h * h)
    parts = ((back * _X[:, None]).sum(axis=-2), back.sum(axis=-2), (error[..., None] * h).sum(axis=-2))
    return np.concatenate([*parts, error.sum(axis=-1, keepdims=True)], axis=-1)


def _sharpness(p: Floats, d: Floats) -> Floats:
    """Return the largest eigenvalue of the Hessian divided by the denominators `d`, for each row of `p`."""
    shift = 1e-5 * np.eye(p.shape[-1])
    hessian = (_network_gradient(p[:, None] + shift) - _network_gradient(p[:, None] - shift)) / 2e-5
    root = np.sqrt(d)
    scaled = (hessian + hessian.swapaxes(1, 2)) / 2 / root[:, :, None] / root[:, None, :]
    return np.asarray(np.linalg.eigvalsh(scaled)[:, -1])


def _edge_series(rule: Rule, seeds: Seeds, count: int, every: int) -> tuple[np.ndarray, Floats]:
    start = normal(seeds, 25)
    before, at, series = start, [], []
    for t, path in enumerate(steps(rule, start, lambda p, _: _network_gradient(p), count), start=1):
        if t % every == 0:
            at.append(t)
            series.append(rule.lr * _sharpness((before + path.param) / 2, denominator(rule, path.state)))
        before = path.param
    return np.array(at), np.array(series)


def edge_quartiles(rule: Rule, seeds: Seeds, count: int = 1800) -> tuple[Floats, Floats, Floats]:
    """Return the quartiles of η × largest preconditioned curvature in the second half of a training, for each seed."""
    _, series = _edge_series(rule, seeds, count, count // 30)
    low, middle, high = np.quantile(series[15:], (0.25, 0.5, 0.75), axis=0)
    return low, middle, high


def _edge(rule: Rule, seeds: Seeds) -> Measured:
    low, middle, high = edge_quartiles(rule, seeds)
    return {
        "η × largest preconditioned curvature": middle,
        "middle half of a run, lower end": low,
        "middle half of a run, upper end": high,
    }


def _edge_picture(rule: Rule) -> Picture:
    lines = []
    for label, each in (("μ = 0", rule), ("μ = 0.5", replace(rule, momentum=0.5))):
        at, series = _edge_series(each, (0,), 2400, 30)
        lines.append(Line(label, at, series[:, 0]))
    lines += [Line("2", [0, 2400], [2, 2]), Line("2(1+μ) = 3", [0, 2400], [3, 3])]
    caption = "η × the largest eigenvalue of the Hessian divided by √v, full batches, a network of 25 weights."
    return Picture("step", "η·λmax", tuple(lines), caption)


def _power_slopes(rule: Rule, seeds: Seeds) -> Measured:
    powers = np.array([3.0, 4.0, 6.0])
    start = uniform(seeds, 0.5, 1.0, 3)
    path = trajectory(rule, start, lambda p, _: np.sign(p) * np.abs(p) ** (powers - 1), 1200)
    loss = powers * np.log(np.abs(path))
    slope = (loss[-1] - loss[-401]) / 400
    ratio = slope / (math.log(rule.decay) * powers / (2 * (powers - 2)))
    return {f"slope / predicted, |x|^{k:g}": ratio[:, i] for i, k in enumerate(powers)}


def _quiet(rule: Rule, seeds: Seeds) -> Measured:
    start = uniform(seeds, 0.5, 2.0)
    path = np.abs(trajectory(rule, start, lambda p, _: p, 1500))
    depth = np.log(path).min(axis=0)
    lowest = path.argmin(axis=0)
    after = np.array([path[at:, i].max() for i, at in enumerate(lowest)])
    return {
        "log of the smallest |x| / predicted": depth / (-(math.pi**2) / (2 * (1 - rule.decay))),
        "largest |x|/η afterwards": after / rule.lr,
    }


CLAIMS = (
    Claim(
        name="reaches-the-minimum",
        sentence="At a constant rate RMSprop converges to the minimum of a quadratic.",
        source=Source("Said of adaptive methods in general; compare Ma, Wu and E", "https://arxiv.org/abs/2009.06125"),
        expected="As g and √v shrink together, the step keeps its length: it ends in a cycle between ±η/2.",
        rule=Rule(lr=0.01, decay=0.9, eps=0.0),
        measure=_reaches,
        says=(Bound("distance to the minimum / η", high=0.01),),
        changed={"eps": 0.02},
        picture=_cycle_picture,
    ),
    Claim(
        name="two-cycle",
        sentence="On a quadratic RMSprop at a constant rate ends in a cycle between +η/2 and −η/2, at any curvature.",
        source=Source("Derived; compare Cohen et al.", COHEN.where),
        expected="The preconditioned curvature λ/√v is 2/η when |x| = η/2, so the cycle neither grows nor shrinks.",
        rule=Rule(lr=0.01, decay=0.9, eps=0.0),
        measure=_two_cycle,
        says=(near("smallest |x|/η at the end", 0.5, 1e-5), near("largest |x|/η at the end", 0.5, 1e-5)),
        changed={"eps": 1e4},
    ),
    Claim(
        name="nesterov-cycle",
        sentence="With Nesterov momentum the cycle is (1+2μ)/(2(1+μ)) η: 0.737 η at μ = 0.9.",
        source=Source("Derived", "docs/theory.md#edge-of-stability"),
        expected="Nesterov's edge is 2(1+μ)/((1+2μ)η).",
        rule=Rule(lr=0.01, decay=0.9, eps=0.0, momentum=0.9, nesterov=True),
        measure=_mean_cycle,
        says=(near("|x|/η at the end", 2.8 / 3.8, 1e-4),),
        changed={"nesterov": False},
    ),
    Claim(
        name="centered-cycle",
        sentence="With centered=True the cycle is (1+β)/(4√β) η: 0.530 η at β = 0.5, 0.5007 η at 0.9.",
        source=Source("Derived", "docs/theory.md#edge-of-stability"),
        expected="Gradients of alternating sign have a mean m of (1−β)/(1+β) of their size, so v − m² is a little "
        "smaller than v.",
        rule=Rule(lr=0.01, decay=0.5, eps=0.0, centered=True),
        measure=_mean_cycle,
        says=(near("|x|/η at the end", 1.5 / (4 * 0.5**0.5), 1e-4),),
        changed={"centered": False},
    ),
    Claim(
        name="edge-of-stability",
        sentence="With full batches, the largest eigenvalue of the Hessian divided by √v hovers at 2/η.",
        source=COHEN,
        expected="Above 2/η steps grow, g and v grow with them, and the preconditioned curvature falls.",
        rule=Rule(lr=0.01, decay=0.99, eps=1e-12),
        measure=_edge,
        says=(Bound("η × largest preconditioned curvature", 1.9, 2.3),),
        changed={"momentum": 0.5},
        picture=_edge_picture,
    ),
    Claim(
        name="edge-with-momentum",
        sentence="Heavy-ball momentum raises the edge of stability to 2(1+μ)/η.",
        source=Source("Derived; for Adam's average, 38/η: Cohen et al.", COHEN.where),
        expected="3/η at μ = 0.5. The buffer sums, so that the rate is not multiplied by 1 − μ.",
        rule=Rule(lr=0.01, decay=0.99, eps=1e-12, momentum=0.5),
        measure=_edge,
        says=(Bound("η × largest preconditioned curvature", 2.85, 3.35),),
        changed={"momentum": 0.0},
    ),
    Claim(
        name="flat-minima",
        sentence="Near |x|ᵏ with k > 2 RMSprop converges at a geometric rate: the log of the loss changes by "
        "k/(2(k−2))·ln β a step.",
        source=Source(
            "Derived; on Adam: Bai et al., Towards Understanding Adam Convergence on Highly Degenerate Polynomials",
            "https://arxiv.org/abs/2603.09581",
        ),
        expected="The step is as long as v allows, and v falls by β a step. Gradient descent is slower than "
        "geometric there.",
        rule=Rule(lr=0.01, decay=0.9, eps=0.0),
        measure=_power_slopes,
        says=tuple(near(f"slope / predicted, |x|^{k}", 1.0, 1e-3) for k in (3, 4, 6)),
        changed={"eps": 1e-3},
    ),
    Claim(
        name="quiet-before-spike",
        sentence="On a quadratic |x| first shrinks to exp(−π²/(2(1−β))), then grows back and overshoots the cycle.",
        source=Source(
            "Derived; spikes: Ma, Wu and E, adaptive gradient algorithms", "https://arxiv.org/abs/2009.06125"
        ),
        expected="Each step multiplies x by 1 − r, r = η/√v. While r grows from 0 to 2, x shrinks; v falls on, and "
        "above 2 x grows.",
        rule=Rule(lr=0.01, decay=0.97, eps=0.0),
        measure=_quiet,
        says=(Bound("log of the smallest |x| / predicted", 0.93, 1.03), Bound("largest |x|/η afterwards", low=2.0)),
        changed={"eps": 1.0},
    ),
)
