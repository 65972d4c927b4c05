"""Claims on the batch size: how rate, decay and ε change with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Measured, Seeds, Source, near
from rmsprop.lab.claims.simulate import run
from rmsprop.rule import Rule
from rmsprop.scaling import scale_batch_size

MALLADI = Source(
    "Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", "https://arxiv.org/abs/2205.10287"
)
_SIGMA = 10.0  # noise of one example
_EXAMPLES = 2048
_FACTOR = 16  # of the batch size
BASE = Rule(lr=4e-3, decay=0.996, eps=1.0, initial_square_avg=_SIGMA**2)


def _mean_after(rule: Rule, seeds: Seeds, batch: int) -> Floats:
    """Return the mean of x over 600 replicas after `_EXAMPLES` examples of x²/2, from x = 1."""
    generators = [np.random.default_rng([seed, batch]) for seed in seeds]

    def gradient(p: Floats, _: int) -> Floats:
        noise = np.array([generator.standard_normal(600) for generator in generators])
        return np.asarray(p + _SIGMA / batch**0.5 * noise)

    return np.asarray(run(rule, np.ones((len(seeds), 600)), gradient, _EXAMPLES // batch).param.mean(axis=1))


def _square_root(rule: Rule, seeds: Seeds) -> Measured:
    base = _mean_after(rule, seeds, 1)
    scaled = scale_batch_size(rule, 1, _FACTOR).rule
    return {
        "mean x, batch 1": base,
        "square-root rule at 16 − batch 1": _mean_after(scaled, seeds, _FACTOR) - base,
    }


def _linear(rule: Rule, seeds: Seeds) -> Measured:
    base = _mean_after(rule, seeds, 1)
    v0 = rule.initial_square_avg / _FACTOR
    linear = replace(rule, lr=_FACTOR * rule.lr, initial_square_avg=v0)
    return {"mean x, batch 1": base, "16 η at 16 − batch 1": _mean_after(linear, seeds, _FACTOR) - base}


def _unchanged(rule: Rule, seeds: Seeds) -> Measured:
    base = _mean_after(rule, seeds, 1)
    same = replace(rule, initial_square_avg=rule.initial_square_avg / _FACTOR)
    return {"mean x, batch 1": base, "same η at 16 − batch 1": _mean_after(same, seeds, _FACTOR) - base}


def _larger_decay(rule: Rule, seeds: Seeds) -> Measured:
    """Start with a v that is too large, which has to be forgotten."""
    base = _mean_after(rule, seeds, 1)
    scaled = scale_batch_size(rule, 1, _FACTOR).rule
    kept = replace(scaled, decay=rule.decay)
    error = np.abs(_mean_after(scaled, seeds, _FACTOR) - base)
    return {"error with β kept − error with β scaled": np.abs(_mean_after(kept, seeds, _FACTOR) - base) - error}


CLAIMS = (
    Claim(
        name="square-root-scaling",
        sentence="A batch k times as large needs √k·η, 1−β times k, and ε/√k.",
        source=MALLADI,
        expected="With noise above the mean gradient and k(1−β) small, the run is the same in examples.",
        rule=BASE,
        measure=_square_root,
        says=(near("square-root rule at 16 − batch 1", 0.0, 0.055),),
        changed={"decay": 0.945},
    ),
    Claim(
        name="linear-scaling",
        sentence="A batch k times as large takes a learning rate k times as large.",
        source=Source("Goyal et al., Accurate, Large Minibatch SGD, for SGD", "https://arxiv.org/abs/1706.02677"),
        expected="For SGD. RMSprop divides by noise that falls as √k, so k·η goes √k too far.",
        rule=BASE,
        measure=_linear,
        says=(near("16 η at 16 − batch 1", 0.0, 0.1),),
        changed={"eps": 1e3, "lr": 0.4},
    ),
    Claim(
        name="no-scaling",
        sentence="RMSprop normalises its gradients, so the learning rate need not change with the batch.",
        source=Source("Said of invariance to the gradient's scale; contradicted by Malladi et al.", MALLADI.where),
        expected="16 times fewer steps of the same rate, each √16 times as long in x, cover a quarter of the way.",
        rule=BASE,
        measure=_unchanged,
        says=(near("same η at 16 − batch 1", 0.0, 0.1),),
        changed={"lr": 1e-7},
    ),
    Claim(
        name="larger-decay",
        sentence="Larger batches allow a larger β.",
        source=Source(
            "Said of β₂; contradicted by Malladi et al. and by Marek et al. 2025", "arXiv 2205.10287, 2507.07101"
        ),
        expected="v must forget as much per example: 1−β grows with the batch. A β that is kept forgets too slowly.",
        rule=replace(BASE, initial_square_avg=100 * _SIGMA**2),
        measure=_larger_decay,
        says=(Bound("error with β kept − error with β scaled", high=0.05),),
        changed={"initial_square_avg": _SIGMA**2},
    ),
)
