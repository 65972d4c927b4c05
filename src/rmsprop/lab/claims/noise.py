"""Claims on noise: what a step is worth, where a constant rate stops, heavy tails, and averaged weights."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Line, Measured, Picture, Seeds, Source, near
from rmsprop.lab.claims.simulate import move, normal, steps, trajectory, uniform
from rmsprop.rule import Rule, init, update

DEFOSSEZ = Source("Défossez et al., A Simple Convergence Proof of Adam and Adagrad", "https://arxiv.org/abs/2003.02395")
_HORIZONS = (100, 400, 1600)


def _updates(rule: Rule, mean: float, seeds: Seeds) -> Floats:
    """Return the updates u of settled steps: steps × seeds × replicas."""
    grads = mean + normal(seeds, 1000, 100).swapaxes(0, 1)
    return np.asarray(-np.diff(move(rule, grads), axis=0)[500:] / rule.lr)


def _normalised(rule: Rule, seeds: Seeds) -> Measured:
    found = {}
    for mean in (0.2, 0.5, 1.0):
        expected = mean / math.sqrt(1 + mean**2)
        found[f"mean update / formula, mean {mean:g} σ"] = _updates(rule, mean, seeds).mean(axis=(0, 2)) / expected
    return found


def _rms(rule: Rule, seeds: Seeds) -> Measured:
    return {"rms of the update": np.sqrt((_updates(rule, 0.0, seeds) ** 2).mean(axis=(0, 2)))}


def _floor(rule: Rule, seeds: Seeds) -> Measured:
    noise = normal(seeds, 1500, 60).swapaxes(0, 1)
    path = trajectory(rule, np.zeros_like(noise[0]), lambda p, t: p + noise[t - 1], 1500)
    return {"mean x² / (ησ/2)": (path[400:] ** 2).mean(axis=(0, 2)) / (rule.lr / 2)}


def _heavy_tails(rule: Rule, seeds: Seeds) -> Measured:
    tails = np.array([np.random.default_rng(seed).standard_t(1.1, (1000, 40)) for seed in seeds]).swapaxes(0, 1)
    path = trajectory(rule, np.zeros_like(tails[0]), lambda p, t: p + tails[t - 1], 1000)
    x, farthest = np.zeros_like(tails[0]), np.zeros_like(tails[0])
    for noise in tails:
        x = x - 0.01 * (x + noise)
        farthest = np.maximum(farthest, np.abs(x))
    return {
        "farthest |x|": np.median(np.abs(path).max(axis=0), axis=1),
        "farthest |x| of SGD at the same rate": np.median(farthest, axis=1),
    }


def _mean_square(rule: Rule, seeds: Seeds, horizon: int) -> Floats:
    """Return x² averaged over a run of `horizon` steps with η = 1/√N, β = 1 − 1/N, on x²/2 with noise of 1."""
    each = replace(rule, lr=rule.lr / math.sqrt(horizon), decay=1 - 1 / horizon)
    generators = [np.random.default_rng(seed) for seed in seeds]
    total = np.zeros(len(seeds))

    def gradient(p: Floats, _: int) -> Floats:
        return np.asarray(p + np.array([generator.standard_normal(60) for generator in generators]))

    for path in steps(each, np.ones((len(seeds), 60)), gradient, horizon):
        total = total + (path.param**2).mean(axis=1)
    return np.asarray(total / horizon)


def _horizon_slope(rule: Rule, seeds: Seeds) -> Measured:
    means = np.array([_mean_square(rule, seeds, horizon) for horizon in _HORIZONS])
    slope = np.log(means[-1] / means[0]) / math.log(_HORIZONS[-1] / _HORIZONS[0])
    return {"exponent of N in the mean of x²": slope}


def _horizon_picture(rule: Rule) -> Picture:
    horizons = np.array([50, 100, 200, 400, 800, 1600])
    means = np.array([_mean_square(rule, (0, 1), int(each)).mean() for each in horizons])

    def with_fixed(horizon: int) -> float:
        generator = np.random.default_rng(0)
        fixed = replace(rule, lr=0.1, decay=0.9)
        run = steps(fixed, np.ones(400), lambda p, _: p + generator.standard_normal(400), horizon)
        return float(np.mean([(path.param**2).mean() for path in run]))

    flat = [with_fixed(int(horizon)) for horizon in horizons]
    lines = (
        Line("η = 1/√N, β = 1 − 1/N", horizons, means),
        Line("η = 0.1, β = 0.9", horizons, np.array(flat)),
        Line("1/√N", horizons, means[0] * np.sqrt(horizons[0] / horizons)),
    )
    return Picture("steps N", "mean x² over the run", lines, "x²/2 with noise of 1.", log_x=True, log_y=True)


def _no_root(rule: Rule, seeds: Seeds) -> Measured:
    """Step with and without the root on (x − ξ)²/2, ξ normal, with β = 1 − 0.9/t."""
    generators = [np.random.default_rng(seed) for seed in seeds]
    start = np.ones((len(seeds), 200))
    x = {"without the root": start, "with the root": start}
    states = dict.fromkeys(x, init(rule, start))
    squares: dict[str, list[Floats]] = {name: [] for name in x}
    for t in range(1, 1601):
        noise = np.array([generator.standard_normal(200) for generator in generators])
        now = replace(rule, decay=1 - 0.9 / t)
        for name in x:
            grad = x[name] - noise
            _, states[name] = update(now, x[name], grad, states[name])
            total = t * states[name].square_avg
            down = total + 0.1 * np.exp(-0.1 * total) if name == "without the root" else np.sqrt(total) + 0.1
            x[name] = x[name] - rule.lr * grad / down
            squares[name].append((x[name] ** 2).mean(axis=1))
    found = {}
    for name, each in squares.items():
        early, late = np.mean(each[50:100], axis=0), np.mean(each[800:1600], axis=0)
        found[f"exponent of t in x², {name}"] = np.log(late / early) / math.log(16)
    return found


def _averaged(rule: Rule, seeds: Seeds) -> Measured:
    path = trajectory(rule, uniform(seeds, 0.05, 0.1), lambda p, _: p, 1500)
    average, sizes = np.zeros(len(seeds)), []
    for x in path:
        average = 0.99 * average + 0.01 * x
        sizes.append(np.abs(average))
    return {
        "|average of the weights| / |weights|": np.array(sizes)[-100:].max(axis=0) / np.abs(path[-100:]).max(axis=0)
    }


CLAIMS = (
    Claim(
        name="sign-and-noise",
        sentence="A step is on average η·s/√(1+s²), with s the mean of the gradient in standard deviations.",
        source=Source("Balles and Hennig, Dissecting Adam", "https://arxiv.org/abs/1705.07774"),
        expected="√v tends to √(mean² + σ²) for β near 1, so that noisy coordinates move less.",
        rule=Rule(lr=1.0, decay=0.99, eps=0.0),
        measure=_normalised,
        says=tuple(near(f"mean update / formula, mean {mean} σ", 1.0, 0.06) for mean in ("0.2", "0.5", "1")),
        changed={"decay": 0.2},
    ),
    Claim(
        name="update-rms",
        sentence="Once v has settled, the rms of a step is 0.96 to 1 learning rates, for normal gradients and β ≥ 0.9.",
        source=Source("Derived: 1 − 2β(1−β)/(1+β) for Gaussian gradients", "docs/theory.md#noise-and-batches"),
        expected="0.96 at β = 0.9, 0.995 at 0.99.",
        rule=Rule(lr=1.0, decay=0.9, eps=0.0),
        measure=_rms,
        says=(Bound("rms of the update", 0.945, 1.005),),
        changed={"eps": 1.0},
    ),
    Claim(
        name="noise-floor",
        sentence="At a constant rate, curvature 1 and noise σ, RMSprop stops at a mean square distance of ησ/2.",
        source=Source("Derived; constant rates do not converge: Défossez et al.", DEFOSSEZ.where),
        expected="Each step adds η² of noise, and the gradient removes 2η/σ of the square; at curvature h, 2ηh/σ.",
        rule=Rule(lr=0.02, decay=0.99, eps=0.0),
        measure=_floor,
        says=(near("mean x² / (ησ/2)", 1.0, 0.15),),
        changed={"momentum": 0.9},
    ),
    Claim(
        name="horizon",
        sentence="With η = 1/√N and β = 1 − 1/N, the mean of |∇f|² over a run of N steps falls as 1/√N.",
        source=DEFOSSEZ,
        expected="An exponent of −0.5. Defaults that ignore the length of the run have a floor.",
        rule=Rule(lr=1.0, eps=0.0, bias_correction=True),
        measure=_horizon_slope,
        says=(near("exponent of N in the mean of x²", -0.5, 0.1),),
        changed={"eps": 1e3},
        picture=_horizon_picture,
    ),
    Claim(
        name="no-root",
        sentence="On strongly convex problems x² falls as 1/t if the root is left out, and as 1/√t with it.",
        source=Source(
            "Mukkamala and Hein, Variants of RMSProp and Adagrad with Logarithmic Regret Bounds",
            "https://arxiv.org/abs/1706.05507",
        ),
        expected="With β = 1 − 0.9/t, t·v grows as t: without the root the rate falls as 1/t, which averages the "
        "noise away. It must not be too small: the exponent is −1 only for η above about v/2.",
        rule=Rule(lr=1.0, eps=0.0),
        measure=_no_root,
        says=(
            near("exponent of t in x², without the root", -1.0, 0.2),
            near("exponent of t in x², with the root", -0.5, 0.15),
        ),
        changed={"lr": 0.1},
    ),
    Claim(
        name="heavy-tails",
        sentence="RMSprop withstands gradient noise of infinite variance.",
        source=Source("Derived from the longest step", "docs/theory.md#start-up"),
        expected="A gradient of any size moves a parameter by η/√(1−β) at most. SGD moves by η times the gradient.",
        rule=Rule(lr=0.01, decay=0.99, eps=0.0),
        measure=_heavy_tails,
        says=(Bound("farthest |x|", high=0.5), Bound("farthest |x| of SGD at the same rate", low=0.5)),
        changed={"eps": 1e6, "lr": 1e4},
    ),
    Claim(
        name="averaged-weights",
        sentence="A running average of the weights removes the two-cycle: a decay of r leaves (1−r)/(1+r) of it.",
        source=Source("Derived", "docs/theory.md#edge-of-stability"),
        expected="An average with r = 0.99 leaves 0.5 %.",
        rule=Rule(lr=0.01, decay=0.9, eps=0.0),
        measure=_averaged,
        says=(near("|average of the weights| / |weights|", 0.01 / 1.99, 1e-4),),
        changed={"eps": 1.0},
    ),
)
