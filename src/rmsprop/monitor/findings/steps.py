"""Findings about the length of steps: of the first, of later ones, in one tensor beside others, and rounded to 0.

Each function takes the history of a run and yields its findings, the worst tensor first; see `gradients`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rmsprop.monitor.findings.finding import Finding, higher, lower, percent, rounded
from rmsprop.monitor.findings.history import MEDIAN, NAN, OUTLIER, SEVERAL, History, Observation, over, square, typical

LONG = 0.2  # update/parameter above which steps are too long
STEP = 0.005  # update/parameter of a usual step
_HALF_GAP = {"bfloat16": "0.2 to 0.4 %", "float16": "0.02 to 0.05 %", "float32": "3e-6 to 6e-6 %"}  # of the value


def first_step(history: History) -> Iterator[Finding]:
    """Find a first step so long that little of the initial parameters is left."""
    share, surge = 0.5, 2.0

    def starts_long(seen: Observation) -> bool:
        if seen.group["bias_correction"]:
            return bool(seen.group["centered"])  # the variance of one gradient is at its rounding floor
        return not seen.group["initial_square_avg"]

    def times(name: str) -> float:
        later = typical(over(s("update_rms"), s("lr")) for s in history.recent(name) if s.step > 1)
        first = history.tensors[name][0]
        return over(over(first("update_rms"), first("lr")), later if later > 0 else 1.0)

    def measure(name: str) -> float:
        first = history.tensors[name][0]
        ratio = first("update_ratio")
        from_zero = abs(ratio - 1) < 1e-6  # the parameter started at 0: the step is all of it
        counts = first.step == 1 and starts_long(first) and not from_zero and times(name) > surge
        return ratio if counts else NAN

    for name, ratio, _ in history.ranked(measure, above=share, matrices=True):
        first = history.tensors[name][0]
        beta, lr = first("decay"), {"lr": lower(history.rate(name))}
        sentence = (
            f"The first step changed {name} by {first('update_rms'):.3g} (root mean square), {percent(ratio)} of "
            f"its size; relative to lr, it was {times(name):.3g} times as long as later steps."
        )
        changes: tuple[dict[str, Any], ...] = (lr,)
        if first.group["centered"] and (first.group["bias_correction"] or not beta):
            why = "bias_correction" if first.group["bias_correction"] else "β = 0"
            cause = f"centered with {why}: the variance of the first gradient is 0 up to rounding"
        else:
            mu, nesterov = first("momentum"), bool(first.group["nesterov"])
            averages = bool(mu and first.group.get("first_moment"))
            over_d, in_d = "√(1−β)", math.sqrt(1 - beta)
            if first.group["centered"]:  # s = β·(1−β)·g²; with bias_correction s would be 0
                over_d, in_d = "√(β·(1−β))", math.sqrt(beta * (1 - beta))
            else:
                after = first("parameter_rms")  # steps of random sign: after² = before² + update²
                before = after * math.sqrt(1 - square(ratio)) if ratio < 1 else first("update_rms") - after
                lasting = over(first("lr") / first.inverse_gain, before)  # update/parameter of later steps
                calm = {"bias_correction": True}
                changes = (calm, lr) if lasting <= LONG else (lr,)
            gain = "·(1−μ)" * averages + "·(1+μ)" * nesterov
            length = (1 - mu if averages else 1) * (1 + mu if nesterov else 1) / in_d
            factor = f"η{gain}/{over_d} = {length:.3g}·η"
            cause = f"v starts at 0, and the first step is {factor} for every element, whatever its gradient"
        evidence = first.numbers("update_rms", "update_ratio", "lr", "decay") | {"times_later_steps": times(name)}
        threshold = f"more than {percent(share)} of the parameter after step 1, and {surge:g} times later steps, by lr"
        yield Finding(
            kind="first step",
            tensor=name,
            step=1,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            changes=changes,
        )


def long_steps(history: History) -> Iterator[Finding]:
    """Find steps that are too long for the size of the parameters."""
    limit = LONG

    def ratio(name: str) -> float:
        return history.typical(name, "update_ratio") if len(history.recent(name)) >= SEVERAL else NAN

    for name, value, seen in history.ranked(ratio, above=limit, matrices=True):
        sentence = f"Each step changes {name} by {percent(value)} of its size."
        cause = f"lr = {seen('lr'):g} is large for values of {seen('parameter_rms'):.3g} (root mean square)"
        changes = ({"lr": rounded(history.rate(name) * STEP / value)},)
        evidence = seen.numbers("update_rms", "parameter_rms", "lr") | {"update_ratio": value}
        threshold = f"update/parameter above {limit:g}, {MEDIAN}, of {SEVERAL} at least"
        yield Finding(
            kind="long steps",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            changes=changes,
        )


def short_steps(history: History) -> Iterator[Finding]:
    """Find steps that are too short for the size of the parameters, unless a schedule has lowered the rate."""
    limit, by_lr = 1e-6, 1e-3

    def inverse(name: str) -> float:
        recent = history.recent(name)
        counts = (
            len(recent) >= SEVERAL
            and recent[-1]("lr") >= 0.1 * history.rate(name)
            and not history.typical(name, "unchanged_share") > 0.5  # `stall` reports that
            and history.typical(name, lambda s: over(s("update_rms"), s("lr"))) > by_lr  # else it has hardly a gradient
        )
        return over(1.0, history.typical(name, "update_ratio")) if counts else NAN

    for name, value, seen in history.ranked(inverse, above=1 / limit, matrices=True):
        sentence = f"A step changes {name} by {1 / value:.2g} of its size: it takes {value:.2g} steps to change it."
        cause = f"lr = {seen('lr'):g} is small for values of {seen('parameter_rms'):.3g} (root mean square)"
        changes = ({"lr": rounded(history.rate(name) * STEP * value)},)
        advice = "leave it, if this tensor is not to be trained"
        evidence = seen.numbers("update_rms", "parameter_rms", "lr") | {"update_ratio": 1 / value}
        threshold = (
            f"update/parameter below {limit:g}, {MEDIAN}, of {SEVERAL} at least, lr a tenth of its largest at least, "
            f"update above {by_lr:g}·lr"
        )
        yield Finding(
            kind="short steps",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            advice=advice,
            changes=changes,
        )


def effective_lr(history: History) -> Iterator[Finding]:
    """Find a tensor whose effective learning rate is far above those of the other tensors."""

    def rate(name: str) -> float:
        by_v = not history.typical(name, lambda s: s.eps_share) > 0.5  # where ε governs, the rate is η/ε
        return history.typical(name, lambda s: over(s("lr"), s.divisor)) if by_v else NAN

    def times_usual(name: str) -> float:
        below = over(history.typical(name, "gradient_rms"), history.median_gradient) < 0.1
        small = below and history.typical(name, lambda s: s.divisor) < 1  # in a diverged run, no gradient is small
        return over(rate(name), usual) if small else NAN

    rates = [x for name in history.tensors if name not in history.cancelled and (x := rate(name)) > 0]
    usual = typical(rates) if len(rates) >= SEVERAL else NAN
    for name, times, seen in history.ranked(times_usual, above=OUTLIER):
        gradient, others = history.typical(name, "gradient_rms"), history.median_gradient
        sentence = (
            f"The effective learning rate of {name} is {rate(name):.3g}, {times:.3g} times the median of the tensors "
            f"({usual:.3g})."
        )
        cause = (
            f"its gradient is {gradient:.3g} (root mean square), the median of the tensors {others:.3g}; RMSprop makes "
            "the steps of all equally long: if this gradient is noise, the tensor follows noise"
        )
        advice = "check that a signal reaches it (scales, saturation)"
        changes = ({"group": name, "lr": rounded(history.rate(name) / times)},)
        evidence = seen.numbers("lr") | {
            "gradient_rms": gradient, "effective_lr": rate(name), "median": usual, "times": times,
            "median_gradient": others,
        }  # fmt: skip
        threshold = (
            f"{OUTLIER:g} times the median of {SEVERAL} tensors or more, and above lr, its gradient below a tenth of "
            f"theirs; each the {MEDIAN}"
        )
        yield Finding(
            kind="effective lr",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            advice=advice,
            changes=changes,
        )


def stall(history: History) -> Iterator[Finding]:
    """Find steps that are rounded away: the parameter does not change."""
    limit = 0.5

    def unchanged(seen: Observation) -> float:
        rounded_at_random = seen.group["stochastic_rounding"] and "bfloat16" in seen.stored_as("dtype")
        counts = not rounded_at_random and seen("lr") > 0
        return over(seen("unchanged_share"), seen.active_share) if counts else NAN

    for name, share, seen in history.ranked(lambda n: history.typical(n, unchanged), above=limit):
        dtype = next((d for d in _HALF_GAP if d in seen.stored_as("dtype")), seen.stored_as("dtype"))
        sentence = f"A step leaves {percent(share)} of the elements of {name} that have a gradient unchanged."
        half = f" ({_HALF_GAP[dtype]} of the value)" if dtype in _HALF_GAP else ""
        cause = f"a step below half the distance to the next number of {dtype}{half} is rounded away"
        changes: tuple[dict[str, Any], ...]
        changes, advice = {
            "bfloat16": (({"stochastic_rounding": True},), "float32 parameters"),
            "float16": ((), "float32 parameters, with autocast for the model's operations"),
        }.get(dtype, (({"lr": higher(history.rate(name))},), ""))
        evidence = seen.numbers("unchanged_share", "zero_gradient_share", "update_ratio") | {
            "share": share, "param_dtype": dtype
        }  # fmt: skip
        threshold = f"more than {percent(limit)} of the elements with a gradient, no stochastic rounding, {MEDIAN}"
        yield Finding(
            kind="stall",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            advice=advice,
            changes=changes,
        )
