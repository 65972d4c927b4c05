"""Explain a rule as text: its equations, what its numbers mean, and a worked example."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from rmsprop.errors import InputError
from rmsprop.hyperparameters import EVERYWHERE, missing_fields
from rmsprop.rule import Rule, denominator, init, moment_weights, update

__all__ = ["Numbers", "WorkedStep", "equations", "explain", "numbers", "worked_example"]

FIELDS = EVERYWHERE  # the fields of Rule that `equations` covers


def equations(rule: Rule) -> list[str]:
    """Return the operations of one step of `rule`, one line each, with the rule's values."""
    eta, beta, eps, mu, lam = (f"{x:g}" for x in (rule.lr, rule.decay, rule.eps, rule.momentum, rule.weight_decay))
    one_minus_beta = f"{1 - rule.decay:.6g}"
    lines = []
    if rule.maximize:
        lines.append("g ← −g")
    if rule.weight_decay:
        decoupled = f"p ← p − {rule.lr * rule.weight_decay:.6g}·p"
        lines.append(decoupled if rule.decoupled_weight_decay else f"g ← g + {lam}·p")
    lines.append(f"v ← {beta}·v + {one_minus_beta}·g²")
    if rule.amsgrad:
        lines.append("w ← max(w, v)")
    if rule.centered:
        lines.append(f"m ← m + {one_minus_beta}·(g − m)")
    square = "w" if rule.amsgrad else "v"
    variance, mean = square, "m"
    if rule.bias_correction:
        start = f"max(v − {beta}ᵗ·{rule.initial_square_avg:g}, κ·v)" if rule.initial_square_avg else square
        lines.append(f"{square}̂ ← {start}/(1 − {beta}ᵗ)")
        variance = f"{square}̂"
        if rule.centered:
            lines.append(f"m̂ ← m/(1 − {beta}ᵗ)")
            mean = "m̂"
    if rule.centered:
        noise = f"κ·v/(1 − {beta}ᵗ)" if rule.bias_correction and rule.initial_square_avg else f"κ·{variance}"
        lines.append(f"s ← max({variance} − {mean}², {noise})")
        variance = "s"
    plus = f" + {eps}" if rule.eps else ""
    lines.append(f"d ← √({variance}{plus})" if rule.eps_inside_sqrt and plus else f"d ← √{variance}{plus}")
    u = f"{eta}·g/d" if rule.lr_in_momentum else "g/d"
    if rule.momentum and rule.first_moment:
        lines += [*_first_moment(rule), f"p ← p − {eta}·n/d"]
    elif rule.momentum:
        lines.append(f"b ← {mu}·b + {u}")
        r = f"({u} + {mu}·b)" if rule.nesterov else "b"
        lines.append(f"p ← p − {r}" if rule.lr_in_momentum else f"p ← p − {eta}·{r}")
    else:
        lines.append(f"p ← p − {eta}·g/d")
    unknown = missing_fields(rule, FIELDS)
    return lines + [f"({name}={getattr(rule, name)!r} changes the step, but has no equation here)" for name in unknown]


def _first_moment(rule: Rule) -> list[str]:
    """Return the lines of b and n in E7."""
    mu, one_minus_mu = f"{rule.momentum:g}", f"{1 - rule.momentum:.6g}"
    lines, weight = [f"b ← b + {one_minus_mu}·(g − b)"], f"(1 − {mu}ᵗ)"
    if not rule.nesterov:
        return [*lines, f"n ← b/{weight}" if rule.bias_correction else "n ← b"]
    if not rule.bias_correction:
        return [*lines, f"n ← {mu}·b + {one_minus_mu}·g"]
    if not rule.momentum_decay:
        return [*lines, f"n ← {mu}·b/(1 − {mu}ᵗ⁺¹) + {one_minus_mu}·g/{weight}"]
    return [*lines, "n ← μₜ₊₁·b/(1 − μ₁⋯μₜ₊₁) + (1 − μₜ)·g/(1 − μ₁⋯μₜ)"]


class Numbers(NamedTuple):
    """Memory, step sizes and floor of a rule, for one element."""

    window: float  # 1/(1−β), steps
    window_weight: float  # the window's share of the average's weight
    half_life: float  # steps after which a gradient has half its weight
    first_step: float | None  # length of the first step for a large gradient; None: it depends on the gradient
    small_gradient: float | None  # ε shortens the first step of smaller gradients; None where first_step is
    largest_step: float | None  # bound of every step; None: no useful bound
    floor: float  # smallest possible denominator


def numbers(rule: Rule) -> Numbers:
    """Return the window, half-life, step sizes and denominator floor of `rule`.

    The window 1/(1−β) holds 1 − β^(1/(1−β)), about 63 %, of the weight. The half-life is ln 2/−ln β.

    From v₀ = 0 the first step is f·η. The factor f is 1/√(1−β); with bias correction 1; centered 1/√(β(1−β)). Nesterov
    momentum multiplies the step by 1 + μ. All gradients far above f times the floor (ε or √ε) have this first step.

    No step exceeds η/√(1−β), since v ≥ (1−β)·g². With momentum, the bound is 1/(1−μ) times as large. With first_moment
    it is (1−μ)/√(1−μ²/β) times as large, by the inequality of Cauchy and Schwarz. Nesterov momentum multiplies this by
    1 + μ.
    """
    window = 1 / (1 - rule.decay)
    half_life = math.log(2) / -math.log(rule.decay) if rule.decay else 0.0
    surge = 1 / math.sqrt(1 - rule.decay)
    first: float | None = 1 if rule.bias_correction else surge
    if rule.centered:
        first = surge / math.sqrt(rule.decay) if rule.decay and not rule.bias_correction else None
    if rule.initial_square_avg:
        first = None
    floor = math.sqrt(rule.eps) if rule.eps_inside_sqrt else rule.eps
    growth, in_first_step = 1 / (1 - rule.momentum), 1 + rule.momentum * rule.nesterov
    unbounded = rule.centered or (rule.bias_correction and rule.initial_square_avg)
    if rule.first_moment and rule.momentum:
        a, c = moment_weights(rule, 1)
        forgets = rule.momentum**2 < rule.decay  # else a gradient stays in b longer than in v
        growth = (1 - rule.momentum) / math.sqrt(1 - rule.momentum**2 / rule.decay) if forgets else math.inf
        growth *= in_first_step
        unbounded = unbounded or rule.momentum_decay or not forgets
        in_first_step = a * (1 - rule.momentum) + c
    return Numbers(
        window=window,
        window_weight=1 - rule.decay**window,
        half_life=half_life,
        first_step=rule.lr * first * in_first_step if first is not None else None,
        small_gradient=floor * first if first is not None else None,
        largest_step=None if unbounded else rule.lr * surge * growth,
        floor=floor,
    )


def explain(rule: Rule) -> str:
    """Return the equations of `rule` with its values, and what the values mean, as text."""
    n, lines = numbers(rule), equations(rule)
    chosen = [f"{name}={getattr(rule, name)!r}" for name in missing_fields(rule, ())]
    besides = ", besides the decay of η·λ·p" if rule.weight_decay and rule.decoupled_weight_decay else ""
    if n.first_step is not None:
        first = f"{n.first_step:.4g}" + (f" ({n.first_step / rule.lr:.4g} × lr)" if rule.lr else "")
        small = f" far above {n.small_gradient:.2g} (ε shortens it below)" if n.small_gradient else ""
        first += f" for every element with a gradient{small}{besides}"
    elif rule.initial_square_avg:
        first = f"depends on the gradient: v starts at {rule.initial_square_avg:g} and damps gradients below its root"
    else:
        first = "very long: one gradient has no variance, so d is its rounding floor; warm the learning rate up"
    if n.largest_step is not None:
        largest = f"{n.largest_step:.4g} per element, whatever the gradients{besides}"
    elif rule.momentum_decay:
        largest = "no simple bound with a schedule of momentum"
    elif rule.first_moment and rule.momentum**2 >= rule.decay:
        largest = "no bound: b remembers gradients longer than v does (μ² ≥ β)"
    else:
        largest = "bounded only by the rounding floor of the variance"
    window = f"{n.window:.4g} steps (1/(1−β)) hold" if n.window > 1 else "1 step (1/(1−β)) holds"
    facts = [
        ("averaging window", f"{window} {n.window_weight:.0%} of the weight"),
        ("half-life", f"{n.half_life:.4g} steps"),
        ("first step", first),
        ("largest step", largest),
        ("denominator floor", f"{n.floor:.4g}, so the effective rate η/d is "
         + (f"at most {rule.lr / n.floor:.4g}" if n.floor else "unbounded")),
    ]  # fmt: skip
    return "\n".join(
        [
            f"RMSprop with {', '.join(chosen) or 'every default'}",
            "",
            "Each step, for each parameter p with gradient g (v: average of g²"
            + ("; m: average of g" if rule.centered else "")
            + ("; w: its maximum" if rule.amsgrad else "")
            + (f"; b: {'average of g' if rule.first_moment else 'momentum'}" if rule.momentum else "")
            + "):",
            *(f"    {line}" for line in lines),
            *([] if rule.eps else ["    (g/d is 0 where d = 0)"]),
            *(["    (κ = 8 × unit roundoff: the rounding noise of the subtraction)"] if "κ" in str(lines) else []),
            *(
                [f"    (μᵢ = {rule.momentum:g}·(1 − ½·0.96^({rule.momentum_decay:g}·i)))"]
                if rule.momentum_decay
                else []
            ),
            "",
            "What the numbers mean:",
            *(f"    {name:<18} {fact}" for name, fact in facts),
        ]
    )


Rule.explain = explain


class WorkedStep(NamedTuple):
    """One parameter at one step of the worked example, float64."""

    step: int
    parameter: str
    gradient: float
    square_avg: float
    rate: float  # η/d, the effective learning rate
    change: float  # what is added to the parameter


WORKED_GRADIENTS = ((10.0, 0.01), (8.0, 0.02))


def worked_example(rule: Rule) -> list[WorkedStep]:
    """Return two steps of `rule` on two parameters with very different gradients, from p = 0.

    Step 1 has the gradients 10 and 0.01, step 2 has 8 and 0.02. RMSprop moves both parameters about equally.
    """
    if rule.momentum or rule.weight_decay:
        name = "momentum" if rule.momentum else "weight_decay"
        raise InputError(name, "0 in the worked example", getattr(rule, name), "omit it")
    param = np.zeros(2)
    state = init(rule, param)
    steps = []
    for gradients in WORKED_GRADIENTS:
        before = param
        param, state = update(rule, param, np.array(gradients), state)
        rate = rule.lr / denominator(rule, state)
        steps += [
            WorkedStep(state.step, "xy"[i], gradients[i], state.square_avg[i], float(rate[i]), param[i] - before[i])
            for i in range(2)
        ]
    return steps
