"""Formulas for hyperparameters: another batch size, ε inside or outside the root, how long a rule remembers.

The square-root scaling rule: a batch κ times as large divides the noise of gradients by √κ. Where noise outweighs the
mean gradient, √v is divided by √κ as well, and steps become √κ times as long at the same learning rate. Seen over
examples instead of steps, a run stays the same with

    η → √κ·η    1−β → κ(1−β)    ε → ε/√κ outside the root, ε/κ inside    steps → steps/κ

Malladi, Lyu, Panigrahi and Arora (NeurIPS 2022, arXiv:2205.10287) prove that RMSprop with constant β and ε outside
follows a stochastic differential equation without κ, to first order in the size of a step. The same change of variables
gives the formulas for the other fields of `Rule`; docs/scaling.md derives them:

    ε inside               is added to v, which shrinks by κ
    initial_square_avg     v₀ → v₀/κ, for the same reason
    momentum               1−μ → κ(1−μ). With first_moment the buffer is an average, and η → √κ·η. The heavy-ball buffer
                           sums 1/(1−μ) updates: η/(1−μ) must grow by √κ, and η → κ^1.5·η
    momentum_decay         ψ → κ·ψ: the schedule takes as many examples as before
    weight_decay, L2       λ stays: λ·p is part of the mean gradient
    weight_decay, decoupled   λ → λ·κ·η/η′: the parameters shrink as much per example as before
    centered, bias_correction, nesterov, lr_in_momentum, maximize, first_moment, amsgrad   stay as they are
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

from rmsprop.errors import InputError, Received, check_count, check_flag, check_number
from rmsprop.explain import numbers
from rmsprop.rule import Rule

__all__ = [
    "ConvertedEps", "Scaled", "convert_eps", "half_life", "sample_size", "scale_batch_size", "steps_to_forget",
    "warmup_steps", "window",
]  # fmt: skip

_SHORT_MEMORY = 0.5  # share of an average that one step replaces; from here on a note is added


class Scaled(NamedTuple):
    """Result of `scale_batch_size`."""

    rule: Rule  # for the new batch
    kappa: float  # κ, the new batch over the old one
    steps: int | None  # steps that see the same number of examples; None without steps=
    notes: tuple[str, ...]  # sentences: where the formulas may not hold


def scale_batch_size(
    rule: Rule, from_batch: int, to_batch: int, *, steps: int | None = None, accumulation: int = 1, summed: bool = False
) -> Scaled:
    """Return the rule that trains with another batch size as `rule` does with its own, example for example.

    κ = to_batch·accumulation/from_batch; `rmsprop.scaling` has the formulas. κ < 1 is allowed. Scaling there and back
    changes nothing. Scaling in two steps equals scaling in one.

    The formulas hold under two conditions. First, v must remember more than one step: κ(1−β) must stay well below 1.
    From 0.5 there is a note, from 1 an InputError. The same holds for momentum and decoupled weight decay.

    Second, gradient noise must outweigh the mean gradient of each parameter at the larger batch. Elsewhere √v shrinks
    less, and steps are √((1+r)/(1+κ·r)) times as long as they should be. Here r is mean² over variance at `from_batch`.
    A rule does not know its gradients, so a note states the condition unless κ = 1. With `centered`, d depends on the
    variance alone, and steps keep their length.

    Older advice is for SGD and keeps β and ε: multiply the learning rate by κ (Goyal et al. 2017, arXiv:1706.02677), or
    by √κ (Krizhevsky 2014, arXiv:1404.5997; Hoffer et al. 2017, arXiv:1705.08741).

    Parameters
    ----------
    rule
        A rule that works well at `from_batch`.
    from_batch, to_batch
        Number of examples whose gradients are averaged, over all workers.
    steps
        Number of steps of the run with `from_batch`. Also divide warm-up and the periods of schedules and weight
        averages by κ.
    accumulation
        Number of backward passes of `to_batch` examples before each step of the new run. Their averaged gradients are
        those of one large batch.
    summed
        Whether the gradients of the passes are added instead of averaged. Gradients and √v are then `accumulation`
        times as large. ε, v₀ and the λ of L2 grow with them.

    Returns
    -------
    Scaled
        The new rule, κ, steps and notes.

    Raises
    ------
    InputError
        If κ(1−β), κ(1−μ) or, decoupled, κ·η·λ is 1 or more.

    Examples
    --------
    >>> scaled = scale_batch_size(Rule(lr=1e-3, decay=0.99, eps=1e-6), 32, 512, steps=16000)
    >>> print(f"{scaled.rule.lr:g} {scaled.rule.decay:g} {scaled.rule.eps:g} {scaled.steps}")
    0.004 0.84 2.5e-07 1000
    >>> print(scaled.notes[0])
    holds where gradient noise outweighs the mean gradient in a batch of 512; where not, steps come out too short
    >>> scale_batch_size(Rule(), 256, 32, accumulation=4).kappa
    0.5
    """
    remedy = "count the examples of one step"
    old, new = check_count("from_batch", from_batch, remedy), check_count("to_batch", to_batch, remedy)
    passes = check_count("accumulation", accumulation, "1 is a step after every backward pass")
    gain = passes if check_flag("summed", summed) else 1
    new *= passes
    kappa = new / old

    notes = []
    if kappa != 1 and not rule.centered:
        notes.append(
            f"holds where gradient noise outweighs the mean gradient in a batch of {max(old, new)}; where not, steps "
            f"come out too {'short' if kappa > 1 else 'long'}"
        )

    def shortened(name: str, share: float, symbols: str, remedy: str) -> float:
        """Return κ times `share`, the share of an average that one step replaces. Raise if nothing is left."""
        scaled = kappa * share
        if kappa > 1 and scaled >= 1 - 1e-9:  # 10·(1−0.9) is a little below 1 in floating point
            raise InputError(f"{symbols} of {name}", "below 1", Received(f"{scaled:g}"), remedy)
        if kappa > 1 and scaled >= _SHORT_MEMORY:
            notes.append(f"{symbols} of {name} is {scaled:g}: a memory of {1 / scaled:.2g} steps follows only roughly")
        return scaled

    share = 1 - rule.decay
    decay = 1 - shortened("decay", share, "κ(1−β)", f"keep the batch below {old / share:g}, or raise decay")
    lr, momentum, weight_decay = rule.lr * math.sqrt(kappa), rule.momentum, rule.weight_decay
    sums = bool(momentum) and not rule.first_moment  # the buffer sums updates
    if momentum:
        share = 1 - momentum
        instead = f"scale momentum=0 with lr={rule.lr / share:g}: memory shorter than a step is only a larger rate"
        if not sums:
            instead = "scale momentum=0: an average shorter than a step is the gradient itself"
        momentum = 1 - shortened("momentum", share, "κ(1−μ)", instead)
        lr *= kappa if sums else 1
    if weight_decay and rule.decoupled_weight_decay:
        shortened("weight_decay", rule.lr * weight_decay, "κ·η·λ", "lower weight_decay, or the batch")
        weight_decay *= 1 / math.sqrt(kappa) if sums else math.sqrt(kappa)
    elif weight_decay:
        weight_decay *= gain
    changed = dataclasses.replace(
        rule,
        lr=lr,
        decay=decay,
        eps=rule.eps * (gain**2 / kappa if rule.eps_inside_sqrt else gain / math.sqrt(kappa)),
        momentum=momentum,
        momentum_decay=rule.momentum_decay * kappa,
        weight_decay=weight_decay,
        initial_square_avg=rule.initial_square_avg * gain**2 / kappa,
    )
    if steps is not None:
        steps = max(1, round(check_count("steps", steps, "omit it to scale the rule alone") / kappa))
    return Scaled(changed, kappa, steps, tuple(notes))


class ConvertedEps(NamedTuple):
    """Result of `convert_eps`."""

    eps: float
    largest_ratio: float  # between the two denominators, over all v; 1 if they never differ


def convert_eps(eps: float, to: Literal["inside", "outside"], v: float = 0.0) -> ConvertedEps:
    """Return the ε for the other side of the root that gives the same denominator at one square average.

    √(v + ε_in) = √v + ε_out gives ε_in = ε_out² + 2·ε_out·√v. With v = 0 the floors agree: √ε_in = ε_out. The
    denominators then differ most at a square average of ε_in, where the one with ε outside is √2 times as large. With
    v > 0 they agree at v. Elsewhere they differ by at most √ε_in/ε_out (at 0) or √(1 + ε_out²/ε_in).

    Parameters
    ----------
    eps
        The present ε.
    to
        "inside" for √(v + ε) (TensorFlow, Keras, optax), "outside" for √v + ε (PyTorch).
    v
        Square average at which the denominators agree; 0 for equal floors.

    Returns
    -------
    ConvertedEps
        The converted ε, and the largest factor between the two denominators.

    Raises
    ------
    InputError
        If a float cannot hold the result.

    Examples
    --------
    >>> outside = convert_eps(1e-3, to="outside")  # torchvision has 0.0316 for TensorFlow's 0.001
    >>> print(f"{outside.eps:.4f}, up to {outside.largest_ratio:.3f} times as large")
    0.0316, up to 1.414 times as large
    >>> round(convert_eps(0.1, to="inside", v=4.0).eps, 6)  # √4.41 = 2.1 = √4 + 0.1
    0.41
    """
    eps, v = check_number("eps", eps, "1e-8 is usual"), check_number("v", v, "0 makes the floors equal")
    if to == "inside":
        outside, inside = eps, eps * (eps + 2 * math.sqrt(v))
        result = inside
    elif to == "outside":
        # √(v + ε) − √v without the subtraction, which cancels.
        inside, outside = eps, eps / (math.sqrt(v + eps) + math.sqrt(v)) if eps else 0.0
        result = outside
    else:
        raise InputError("to", '"inside" or "outside"', to, "name the side of the root for ε")
    if eps == 0:
        return ConvertedEps(0.0, 1.0)
    if not 0 < result < math.inf:
        raise InputError("eps", "one whose counterpart a float holds", eps, f"{result:g} would be the result")
    # The ratio (√v + ε_out)/√(v + ε_in) starts at ε_out/√ε_in, has its maximum at √v = ε_in/ε_out and tends to 1.
    at_zero, at_most = math.sqrt(inside) / outside, math.hypot(1, outside / math.sqrt(inside))
    return ConvertedEps(result, max(at_zero, at_most))


def window(rule: Rule) -> float:
    """Return 1/(1−β), the averaging window of v in steps. It holds at least 63 % of the weight.

    Examples
    --------
    >>> round(window(Rule(decay=0.99)), 6)
    100.0
    """
    return numbers(rule).window


def half_life(rule: Rule) -> float:
    """Return ln 2/−ln β, the number of steps after which a gradient has half its weight in v.

    Examples
    --------
    >>> round(half_life(Rule(decay=0.99)), 2)
    68.97
    """
    return numbers(rule).half_life


def sample_size(rule: Rule) -> float:
    """Return (1+β)/(1−β), the number of independent squared gradients whose plain mean varies as little as v does.

    It is about twice the window. For normal gradients, v has the relative standard deviation √(2(1−β)/(1+β)).

    Examples
    --------
    >>> round(sample_size(Rule(decay=0.99)), 6)
    199.0
    """
    return (1 + rule.decay) / (1 - rule.decay)


def steps_to_forget(rule: Rule, share: float = 0.01) -> int:
    """Return the number of steps after which v₀ has at most the weight `share` in v.

    After t steps the weight is βᵗ; the same holds for any earlier v. With bias_correction, each step takes v₀ out of
    the denominator, but not out of v.

    Raises
    ------
    InputError
        If `share` is not between 0 and 1, exclusive.

    Examples
    --------
    >>> steps_to_forget(Rule(decay=0.99))
    459
    """
    if check_number("share", share, "0.01 is one per cent", below=1.0) == 0:
        raise InputError("share", "more than 0", share, "0.01 is one per cent")
    if rule.decay == 0:
        return 1
    # Rounding of the logarithms must not turn a whole number of steps into one more.
    return math.ceil(math.log(share) / math.log(rule.decay) * (1 - 1e-12))


def warmup_steps(rule: Rule) -> int:
    """Return 2/(1−β), rounded: the number of steps of a linear warm-up of the learning rate from 0.

    Ma and Yarats, On the adequacy of untuned warmup for adaptive optimization (AAAI 2021, arXiv:1910.04209), give this
    length for Adam. Adam's first steps are as long as those of RMSprop with bias correction. Without bias correction v
    starts at 0 and the first step is η/√(1−β), so warm-up matters more.

    Examples
    --------
    >>> warmup_steps(Rule(decay=0.99))
    200
    """
    return round(2 * window(rule))
