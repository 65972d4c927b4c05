"""Claims on what surrounds the step: weight decay, gradient clipping, and the rate in the momentum buffer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from rmsprop.lab.claims.claim import Bound, Claim, Floats, Measured, Seeds, Source, near
from rmsprop.lab.claims.simulate import move, normal, run, trajectory, uniform
from rmsprop.rule import Rule, init, update


def _two_coefficients(rule: Rule, seeds: Seeds) -> Measured:
    start = np.exp(normal(seeds))

    def left(coefficient: float) -> Floats:
        path = run(replace(rule, weight_decay=coefficient), start, lambda p, _: np.zeros_like(p), 300)
        return np.asarray(start - path.param)

    return {"way with λ = 0.01 / with λ = 0.0001": left(1e-2) / left(1e-4)}


def _two_thresholds(rule: Rule, seeds: Seeds) -> Measured:
    grads = normal(seeds, 100, 10).swapaxes(0, 1) * 100

    def way(threshold: float) -> Floats:
        norm = np.sqrt((grads**2).sum(axis=2, keepdims=True))
        return np.asarray(np.abs(move(rule, grads * np.minimum(1.0, threshold / norm))[-1]).mean(axis=1))

    return {"way with threshold 0.001 / with threshold 1": way(1e-3) / way(1.0)}


def _rate_cut(rule: Rule, seeds: Seeds) -> Measured:
    gradient = np.exp(normal(seeds))

    def step_after(each: Rule, factor: float) -> Floats:
        state, param = init(each, gradient), np.zeros_like(gradient)
        for _ in range(600):
            param, state = update(each, param, gradient, state)
        after, _ = update(replace(each, lr=each.lr * factor), param, gradient, state)
        return np.asarray(np.abs(after - param))

    inside = replace(rule, lr_in_momentum=True)
    return {
        "step after a cut of η to a tenth, inside / outside": step_after(inside, 0.1) / step_after(rule, 0.1),
        "step without a cut, inside / outside": step_after(inside, 1.0) / step_after(rule, 1.0),
    }


def _equilibrium(rule: Rule, seeds: Seeds) -> Measured:
    noise = 100 * normal(seeds, 900, 300).swapaxes(0, 1)
    start = uniform(seeds, -0.1, 0.1, 300)
    path = trajectory(rule, start, lambda _, t: noise[t - 1], 900)
    rms = np.sqrt((path[300:] ** 2).mean(axis=(0, 2)))
    return {"rms of the weights / √(η/2λ)": rms / math.sqrt(rule.lr / (2 * rule.weight_decay))}


CLAIMS = (
    Claim(
        name="l2-strength",
        sentence="A weight decay (L2) of 0.01 shrinks weights faster than one of 0.0001.",
        source=Source(
            "Contradicted by Loshchilov and Hutter, Decoupled Weight Decay Regularization",
            "https://arxiv.org/abs/1711.05101",
        ),
        expected="L2 joins the gradient, and √v divides it out: without another gradient, λ cancels.",
        rule=Rule(lr=1e-3, decay=0.9, eps=0.0),
        measure=_two_coefficients,
        says=(Bound("way with λ = 0.01 / with λ = 0.0001", low=2.0),),
        changed={"decoupled_weight_decay": True},
    ),
    Claim(
        name="clipping-threshold",
        sentence="A lower threshold of gradient clipping makes steps shorter.",
        source=Source(
            "Said of gradient descent: Goodfellow et al., Deep Learning, 10.11.1",
            "https://www.deeplearningbook.org/contents/rnn.html",
        ),
        expected="If every gradient is clipped, the threshold is a scale, and g/√v has none. It acts through ε and "
        "v₀ alone.",
        rule=Rule(lr=0.01, decay=0.9, eps=0.0),
        measure=_two_thresholds,
        says=(Bound("way with threshold 0.001 / with threshold 1", high=0.9),),
        changed={"eps": 1e-2},
    ),
    Claim(
        name="rate-in-buffer",
        sentence="It does not matter whether η multiplies the step before or after the momentum buffer.",
        source=Source("TensorFlow, Keras and optax have it inside, PyTorch outside", "docs/conventions.md"),
        expected="A buffer of η·u remembers the old rate: after a cut to a tenth, the next step is 1 + 9·0.9 = 9.1 "
        "times as long.",
        rule=Rule(lr=0.01, decay=0.9, momentum=0.9),
        measure=_rate_cut,
        says=(Bound("step after a cut of η to a tenth, inside / outside", 0.99, 1.01),),
        only_if="η never changes",
        where=(near("step without a cut, inside / outside", 1.0, 1e-9),),
        changed={"momentum": 0.0},
    ),
    Claim(
        name="weight-equilibrium",
        sentence="With decoupled weight decay and gradients of pure noise, weights settle at an rms of √(η/2λ).",
        source=Source("Kosson et al., Rotational Equilibrium", "https://arxiv.org/abs/2305.17212"),
        expected="Noise adds η² a step, decay removes 2ηλ of the square. β = 0.9 lowers it by the rms of the "
        "update, 0.96.",
        rule=Rule(lr=0.01, decay=0.9, eps=0.0, weight_decay=1.0, decoupled_weight_decay=True),
        measure=_equilibrium,
        says=(near("rms of the weights / √(η/2λ)", 0.96, 0.05),),
        changed={"decoupled_weight_decay": False},
    ),
)
