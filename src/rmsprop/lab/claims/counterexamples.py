"""Claims on convex problems where RMSprop fails: exact thresholds of β, and what repairs it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import brentq

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Line, Measured, Picture, Seeds, Source, near
from rmsprop.lab.claims.simulate import move, normal, scheduled
from rmsprop.rule import Rule, denominator, init, update

REDDI = Source("Reddi, Kale and Kumar, On the Convergence of Adam and Beyond", "https://arxiv.org/abs/1904.09237")
SHI = Source("Shi, Li, Hong and Sun, RMSprop converges with proper hyper-parameter", "ICLR 2021")
SIZES = (3, 4, 5, 8, 10, 16, 20, 32, 50, 100)
PRECISION = 1e-5


def drift(decay: float, size: int) -> float:
    """Return the sum of the updates g/√v over a period of one gradient `size` and size − 1 gradients of −1.

    Below 0, RMSprop moves away from the minimum of the sum, whose gradient is +1.
    """
    a = (1 - decay) * (size**2 - 1) / (1 - decay**size)
    return float(size / np.sqrt(1 + a) - (1 / np.sqrt(1 + a * decay ** np.arange(1, size))).sum())


def threshold(size: int) -> float:
    """Return the β* at which the drift of a period is 0: RMSprop fails below it."""
    return float(brentq(drift, 1e-3, 1 - 1e-9, args=(size,), xtol=1e-14))


def simulated_drift(rule: Rule, decay: float, size: int) -> float:
    """Return the drift over a period by stepping the rule, from the v that the period repeats."""
    a = (1 - decay) * (size**2 - 1) / (1 - decay**size)
    periodic = replace(rule, decay=decay, initial_square_avg=1 + a * decay ** (size - 1))
    grads = np.full((size, 1), -1.0)
    grads[0] = size
    return float(-move(periodic, grads)[-1, 0] / rule.lr)


def changes_sign(rule: Rule, size: int) -> bool:
    """Return whether the simulated drift changes its sign within `PRECISION` of the threshold."""
    exact = threshold(size)
    return simulated_drift(rule, exact - PRECISION, size) < 0 < simulated_drift(rule, exact + PRECISION, size)


def _thresholds(rule: Rule, _: Seeds) -> Measured:
    return {
        "share of C whose simulated drift changes sign within 1e-5 of β*": np.mean(
            [changes_sign(rule, c) for c in SIZES]
        ),
        "(1−β*)·C² at C = 100": (1 - threshold(100)) * 100**2,
    }


def _threshold_picture(rule: Rule) -> Picture:
    sizes = np.arange(3, 101)
    exact = np.array([1 - threshold(int(c)) for c in sizes])
    lines = (Line("1 − β*, exact", sizes, exact), Line("4/C²", sizes, 4 / sizes**2))
    caption = "RMSprop fails above the line. One gradient of C, then C − 1 of −1, again and again."
    return Picture("C", "1 − β", lines, caption, log_x=True, log_y=True)


def _cyclic(size: int) -> np.ndarray:
    grads = np.full(size, -1.0)
    grads[0] = size
    return grads


def _ends(rule: Rule, seeds: Seeds, count: int = 3000) -> Floats:
    """Return where x ends in [−1, 1] from a random start, C = 10, at a rate that falls as 1/√t."""
    grads = _cyclic(10)
    start = np.clip(0.3 * normal(seeds), -1, 1)
    path = scheduled(
        rule,
        start,
        lambda p, t: np.full_like(p, grads[(t - 1) % 10]),
        count,
        lambda t: t**-0.5,
        lambda p: np.clip(p, -1, 1),
    )
    return np.asarray(path[-200:].mean(axis=0))


def _convex(rule: Rule, seeds: Seeds) -> Measured:
    return {"mean x at the end, minimum at −1": _ends(rule, seeds)}


def _convex_picture(rule: Rule) -> Picture:
    grads, lines = _cyclic(10), []
    for label, each in (
        ("β = 0.9", rule),
        ("β = 0.99", replace(rule, decay=0.99)),
        ("β = 0.9, maximum of v", replace(rule, amsgrad=True)),
    ):
        path = scheduled(
            each,
            np.zeros(1),
            lambda p, t: np.full_like(p, grads[(t - 1) % 10]),
            3000,
            lambda t: t**-0.5,
            lambda p: np.clip(p, -1, 1),
        )
        lines.append(Line(label, np.arange(1, 3001, 25), path[::25, 0]))
    caption = "One gradient of 10, then nine of −1; the minimum is at x = −1, the worst point at x = +1."
    return Picture("step", "x", tuple(lines), caption)


def _random_order(rule: Rule, seeds: Seeds) -> Measured:
    order = np.array([np.random.default_rng(seed).random((2400, 150)) < 0.1 for seed in seeds]).swapaxes(0, 1)
    grads = np.where(order, 10.0, -1.0)
    return {
        "drift per step, random order": -(move(rule, grads)[-1] - move(rule, grads[:400])[-1]).mean(axis=1)
        / rule.lr
        / 2000,
        "drift per step, fixed order": drift(rule.decay, 10) / 10,
    }


def _repairs(rule: Rule, seeds: Seeds) -> Measured:
    grads = _cyclic(10)
    state, x = init(rule, np.zeros(len(seeds))), np.clip(0.3 * normal(seeds), -1, 1)
    for t in range(1, 3001):
        g = np.full_like(x, grads[(t - 1) % 10])
        if t > 1:
            x = np.clip(x - rule.lr * t**-0.5 * g / denominator(rule, state), -1, 1)
        _, state = update(rule, x, g, state)
    return {"mean x at the end, maximum of v": _ends(rule, seeds), "x at the end, divided by the v before": x}


def _increasing(rule: Rule, seeds: Seeds) -> Measured:
    """Let β rise as 1 − 1/t and η fall as 1/√t."""
    grads, x = _cyclic(10), np.clip(0.3 * normal(seeds), -1, 1)
    state = init(rule, x)
    for t in range(1, 2001):
        now = replace(rule, decay=1 - 1 / t, lr=rule.lr / t**0.5)
        moved, state = update(now, x, np.full_like(x, grads[(t - 1) % 10]), state)
        x = np.clip(moved, -1, 1)
    return {"x at the end, minimum at −1": x}


def _unbounded(rule: Rule, seeds: Seeds) -> Measured:
    n = 10
    a = 1 / (n - 1) ** 2

    def gradient(p: Floats, t: int) -> Floats:
        slope = 1 + (n - 1) * a if (t - 1) % n == 0 else -a
        return slope * np.where(p >= -1, 1.0, p + 2)

    start = 1 + 0.1 * normal(seeds)
    return {
        f"x at the end, β = {decay}": scheduled(replace(rule, decay=decay), start, gradient, 4000, lambda t: t**-0.5)[
            -1
        ]
        for decay in (0.4, 0.6)
    }


CLAIMS = (
    Claim(
        name="convex-convergence",
        sentence="RMSprop converges on convex problems if the rate falls as 1/√t.",
        source=Source("Contradicted by Reddi, Kale and Kumar, theorem 1", REDDI.where),
        expected="A gradient of 10 and nine of −1: RMSprop shortens the rare large step and goes to the worst point.",
        rule=Rule(lr=1.0, decay=0.9, eps=0.0),
        measure=_convex,
        says=(near("mean x at the end, minimum at −1", -1.0, 0.1),),
        changed={"decay": 0.99},
        picture=_convex_picture,
    ),
    Claim(
        name="decay-threshold",
        sentence="For a gradient of C and C − 1 of −1 in a fixed order, RMSprop fails below an exact β*, and "
        "(1−β*)C² → 4.",
        source=Source("Derived; compare Reddi, Kale and Kumar, theorem 2", REDDI.where),
        expected="The drift of a period has a closed form with one root. Stepping the rule changes sign at this root.",
        rule=Rule(lr=1.0, eps=0.0),
        measure=_thresholds,
        says=(
            near("share of C whose simulated drift changes sign within 1e-5 of β*", 1.0, 1e-9),
            near("(1−β*)·C² at C = 100", 4.05, 0.01),
        ),
        changed={"eps": 0.1},
        picture=_threshold_picture,
    ),
    Claim(
        name="random-order",
        sentence="In random order the counterexample of Reddi et al. needs a larger β than in a fixed order.",
        source=Source("Reddi, Kale and Kumar, theorem 3, and simulation", REDDI.where),
        expected="(1−β*)C² tends to 2 instead of 4. Between the two thresholds only the fixed order converges.",
        rule=Rule(lr=1.0, decay=0.967, eps=0.0),
        measure=_random_order,
        says=(Bound("drift per step, random order", high=-1e-4), Bound("drift per step, fixed order", low=1e-3)),
        changed={"decay": 0.99},
    ),
    Claim(
        name="repairs",
        sentence="The counterexample of Reddi et al. converges with the maximum of v, and also with the v of the step "
        "before.",
        source=Source(
            "Reddi et al.; Zhou et al., AdaShift; Taniguchi et al., ADOPT", "arXiv 1904.09237, 1810.00143, 2411.02853"
        ),
        expected="Either way the large gradient is no longer divided by a root that it has raised itself.",
        rule=Rule(lr=1.0, decay=0.9, eps=0.0, amsgrad=True),
        measure=_repairs,
        says=(
            near("mean x at the end, maximum of v", -1.0, 0.1),
            near("x at the end, divided by the v before", -1.0, 0.1),
        ),
        changed={"amsgrad": False},
    ),
    Claim(
        name="increasing-decay",
        sentence="The counterexample of Reddi et al. converges with a β that rises as 1 − 1/t.",
        source=Source(
            "Zou et al., A Sufficient Condition for Convergences of Adam and RMSProp",
            "https://arxiv.org/abs/1811.09358",
        ),
        expected="v is then the mean of all squares, which one gradient hardly raises: the rule is AdaGrad.",
        rule=Rule(lr=1.0, eps=0.0),
        measure=_increasing,
        says=(near("x at the end, minimum at −1", -1.0, 0.1),),
        changed={"maximize": True},
    ),
    Claim(
        name="phase-transition",
        sentence="On an unbounded convex problem RMSprop diverges below a β, and converges above it.",
        source=SHI,
        expected="The example of the paper with n = 10 has the threshold 0.466: at 0.4 x runs away, at 0.6 it goes "
        "to −2.",
        rule=Rule(lr=1.0, eps=0.0),
        measure=_unbounded,
        says=(Bound("x at the end, β = 0.4", low=4.0), near("x at the end, β = 0.6", -2.0, 0.1)),
        changed={"amsgrad": True},
    ),
)
