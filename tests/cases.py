"""The table of variants that every implementation is tested with, and the oracle for the rule itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from rmsprop import Rule, State
from rmsprop.hyperparameters import EVERYWHERE, Hyperparameter, missing_fields
from rmsprop.rule import denominator, moment_weights

# No value is a default: an ignored or misplaced value shows. eps is large enough to matter.
PLAIN = Rule(lr=0.03, decay=0.8, eps=0.02)
ALL_RULES: dict[str, Rule] = {
    "plain": PLAIN,
    "eps inside": dataclasses.replace(PLAIN, eps_inside_sqrt=True),
    "no eps": dataclasses.replace(PLAIN, eps=0.0),
    "maximize": dataclasses.replace(PLAIN, maximize=True),
    "L2": dataclasses.replace(PLAIN, weight_decay=0.3),
    "L2, maximize": dataclasses.replace(PLAIN, weight_decay=0.3, maximize=True),
    "decoupled": dataclasses.replace(PLAIN, weight_decay=0.3, decoupled_weight_decay=True),
    "v0": dataclasses.replace(PLAIN, initial_square_avg=0.7),
    "centered": dataclasses.replace(PLAIN, centered=True),
    "centered, eps inside": dataclasses.replace(PLAIN, centered=True, eps_inside_sqrt=True),
    "momentum": dataclasses.replace(PLAIN, momentum=0.6),
    "momentum with lr": dataclasses.replace(PLAIN, momentum=0.6, lr_in_momentum=True),
    "nesterov": dataclasses.replace(PLAIN, momentum=0.6, nesterov=True),
    "nesterov with lr": dataclasses.replace(PLAIN, momentum=0.6, nesterov=True, lr_in_momentum=True),
    "bias correction": dataclasses.replace(PLAIN, bias_correction=True),
    "bias correction, v0": dataclasses.replace(PLAIN, bias_correction=True, initial_square_avg=0.7),
    "bias correction, centered": dataclasses.replace(PLAIN, bias_correction=True, centered=True),
    "TensorFlow 1": Rule(0.03, 0.8, 0.02, 0.6, eps_inside_sqrt=True, initial_square_avg=1.0, lr_in_momentum=True),
    "all of it": Rule(
        0.03, 0.8, 0.02, 0.6, 0.3, centered=True, nesterov=True, eps_inside_sqrt=True, initial_square_avg=0.7,
        lr_in_momentum=True, bias_correction=True, decoupled_weight_decay=True, maximize=True,
    ),
    "all of it, the other way": Rule(0.03, 0.8, 0.02, 0.6, 0.3, centered=True, nesterov=True, bias_correction=True),
    "first moment": dataclasses.replace(PLAIN, momentum=0.6, first_moment=True),
    "first moment, nesterov": dataclasses.replace(PLAIN, momentum=0.6, first_moment=True, nesterov=True),
    "Adam": dataclasses.replace(PLAIN, momentum=0.6, first_moment=True, bias_correction=True),
    "NAdam": dataclasses.replace(PLAIN, momentum=0.6, first_moment=True, bias_correction=True, nesterov=True),
    "NAdam, schedule": Rule(
        0.03, 0.8, 0.02, 0.6, first_moment=True, bias_correction=True, nesterov=True, momentum_decay=0.7
    ),
    "amsgrad": dataclasses.replace(PLAIN, amsgrad=True),
    "amsgrad, v0, centered": dataclasses.replace(PLAIN, amsgrad=True, initial_square_avg=0.7, centered=True),
    "everything of Adam": Rule(
        0.03, 0.8, 0.02, 0.6, 0.3, centered=True, nesterov=True, eps_inside_sqrt=True, bias_correction=True,
        decoupled_weight_decay=True, maximize=True, first_moment=True, momentum_decay=0.7, amsgrad=True,
    ),
}  # fmt: skip


def having(fields: Collection[str]) -> dict[str, Rule]:
    """Return the rules that an implementation of these fields of Rule can step."""
    return {name: rule for name, rule in ALL_RULES.items() if not missing_fields(rule, fields)}


RULES = having(EVERYWHERE)  # those that every implementation can step

STEPS = 12
STATE = ("square_avg", "grad_avg", "momentum_buffer")  # the averages of "all of it"


@dataclasses.dataclass(frozen=True)
class Variant(Rule):
    """A rule with one more field, which only NumPy steps. HYPERPARAMETERS must get CLIP for it."""

    clip: float = 0.0


CLIP = Hyperparameter("clip", 1.0, "0 clips nothing")


def problem(dtype: type[np.floating], size: int = 60, seed: int = 0) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Return a start and STEPS gradients. Their sizes span four orders of magnitude; some are zero."""
    generator = np.random.default_rng(seed)
    scale = np.logspace(-2, 2, size)
    gradients = generator.standard_normal((STEPS, size)) * scale
    gradients[:, ::7] *= generator.random((STEPS, len(gradients[0, ::7]))) < 0.5
    return generator.standard_normal(size).astype(dtype), [g.astype(dtype) for g in gradients]


def lr_at(step: int) -> float:
    """Return a learning rate that changes. Only then do steps show what a momentum buffer holds."""
    return 0.03 if step < STEPS // 2 else 0.004


def oracle(
    rule: Rule, start: float, gradients: list[float], *, kappa: float = 2.0**-50, lr: Any = lr_at
) -> list[tuple[float, ...]]:
    """Return p, v, m, b and w of one parameter after each step, from sums in 50 digits instead of recursions.

    v = βᵗ·v₀ + (1−β)·Σ βᵗ⁻ⁱ·gᵢ² and so on, written without looking at the rule's code. `lr` maps a step to its rate.
    `kappa` is κ of E5, by default that of float64.
    """

    def average(factor: Decimal, values: list[Decimal]) -> Decimal:
        weights = [factor**k if k else Decimal(1) for k in range(len(values) - 1, -1, -1)]
        return sum((w * x for w, x in zip(weights, values, strict=True)), Decimal(0))

    with localcontext() as context:
        context.prec = 50
        beta, mu, eps, lam, v0 = map(
            Decimal, (rule.decay, rule.momentum, rule.eps, rule.weight_decay, rule.initial_square_avg)
        )
        p, seen, updates, result = Decimal(start), list[Decimal](), list[Decimal](), list[tuple[float, ...]]()
        w, psi = Decimal(0), Decimal(rule.momentum_decay)
        half = Decimal("0.5") if rule.momentum_decay else Decimal(0)
        mus = [mu * (1 - half * Decimal("0.96") ** (psi * i)) for i in range(1, len(gradients) + 2)]
        for t, raw in enumerate(map(Decimal, gradients), start=1):
            eta = Decimal(lr(t))
            g = -raw if rule.maximize else raw
            if rule.decoupled_weight_decay:
                p *= 1 - eta * lam
            else:
                g += lam * p
            seen.append(g)
            v = beta**t * v0 + (1 - beta) * average(beta, [x * x for x in seen])
            m = (1 - beta) * average(beta, seen)
            w = max(w, v)
            divisor = w if rule.amsgrad else v
            s, mean, floor = divisor, m, divisor * Decimal(kappa)
            if rule.bias_correction:
                weight = (1 - beta) * average(beta, [Decimal(1)] * t)
                s, mean, floor = max(divisor - beta**t * v0, floor) / weight, m / weight, floor / weight
            if rule.centered:
                s = max(s - mean * mean, floor)
            d = (s + eps).sqrt() if rule.eps_inside_sqrt else s.sqrt() + eps
            if rule.first_moment:
                b = (1 - mu) * average(mu, seen)
                product = math.prod(mus[:t], start=Decimal(1))
                here, after = (1 - product, 1 - product * mus[t]) if rule.bias_correction else (Decimal(1), Decimal(1))
                n = mus[t] * b / after + (1 - mus[t - 1]) * g / here if rule.nesterov else b / here
                r = n / d if d else Decimal(0)
            else:
                u = g / d if d else Decimal(0)
                updates.append(eta * u if rule.lr_in_momentum else u)
                b = average(mu, updates)
                r = updates[-1] + mu * b if rule.nesterov else b
            p -= r if rule.lr_in_momentum else eta * r
            result.append((float(p), float(v), float(m), float(b), float(w)))
        return result


def moment_size(rule: Rule, before: State, after: State, grad: NDArray[Any]) -> NDArray[Any] | float:
    """Return the length of a step of `first_moment` if b and g had one sign: its rounding errors have this size."""
    if not (rule.first_moment and rule.momentum):
        return 0.0
    assert before.momentum_buffer is not None
    a, c = moment_weights(rule, after.step)
    size: NDArray[Any] = (a + c) * (np.abs(before.momentum_buffer) + np.abs(grad)) / denominator(rule, after)
    return rule.lr * size


@st.composite
def rules(draw: st.DrawFn, moments: bool = False) -> Rule:
    """Draw any variant, with values at the ends of their ranges. With `moments`, also those of Adam's family."""
    momentum = draw(st.sampled_from([0.0, 0.5, 0.99]))
    names = ("centered", "eps_inside_sqrt", "lr_in_momentum", "bias_correction", "decoupled_weight_decay", "maximize")
    rule = Rule(
        lr=draw(st.sampled_from([0.0, 1e-6, 1.0])),
        decay=draw(st.sampled_from([0.0, 0.5, 0.9, 0.999])),
        eps=draw(st.sampled_from([0.0, 1e-300, 1e-8, 1.0])),
        momentum=momentum,
        weight_decay=draw(st.sampled_from([0.0, 0.1])),
        nesterov=momentum > 0 and draw(st.booleans()),
        initial_square_avg=draw(st.sampled_from([0.0, 1e-30, 1.0])),
        **{name: draw(st.booleans()) for name in names},
    )
    if not moments:
        return rule
    amsgrad = draw(st.booleans())
    first_moment = momentum**2 < rule.decay and draw(st.booleans())  # else b outlives v: b/√v has no bound
    with_schedule = first_moment and rule.nesterov and rule.bias_correction
    return dataclasses.replace(
        rule,
        amsgrad=amsgrad,
        first_moment=first_moment,
        lr_in_momentum=rule.lr_in_momentum and not first_moment,
        initial_square_avg=0.0 if amsgrad and rule.bias_correction else rule.initial_square_avg,
        momentum_decay=draw(st.sampled_from([0.0, 4e-3, 300.0])) if with_schedule else 0.0,
    )


def gradients() -> st.SearchStrategy[list[float]]:
    """Draw gradients whose square is finite in float32 (up to 1.8e19), zeros and subnormals included."""
    values = st.floats(-(2.0**60), 2.0**60, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-40, 1e-30, 1e-20])
    return st.lists(values, min_size=1, max_size=8)
