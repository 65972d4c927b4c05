"""Findings about the divisor d: a v that remembers v₀ or does not fall, a large ε, a variance at its floor.

Each function takes the history of a run and yields its findings, the worst tensor first; see `gradients`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rmsprop.monitor.findings.finding import USUAL, Finding, counted, lower, percent, rounded
from rmsprop.monitor.findings.history import MEDIAN, NAN, OUTLIER, History, Observation, over, square


def start(history: History) -> Iterator[Finding]:
    """Find a square average, or a maximum of it, that consists mostly of its initial value v₀."""
    share, least_times = 0.5, 3.0

    def keeps(seen: Observation) -> bool:
        return bool(seen.group.get("amsgrad"))  # the maximum w never forgets v of the first step

    def left(seen: Observation) -> float:
        return float(seen("initial_square_avg") * seen("decay") ** (1 if keeps(seen) else seen.age))

    def signal(seen: Observation) -> float:
        return over(seen("gradient_rms"), math.sqrt(seen.active_share))

    def d(seen: Observation, root: float) -> float:
        return math.sqrt(square(root) + seen("eps")) if seen.group["eps_inside_sqrt"] else root + seen("eps")

    def root(seen: Observation) -> float:
        """Return √v after the step, or √w, without the gradients."""
        return math.sqrt(left(seen) * (1 if keeps(seen) else seen("decay")))

    def measure(name: str) -> float:
        seen = history.tensors[name][-1]
        average = square(seen("history_rms"))
        average = max(average, left(seen)) if keeps(seen) else average
        still = not seen.group["bias_correction"] and over(left(seen), average) > share
        shorter = over(d(seen, root(seen)), d(seen, signal(seen)))
        return shorter if still and seen("decay") else NAN

    for name, times, seen in history.ranked(measure, above=least_times):
        v0, g2 = f"v₀ = {seen('initial_square_avg'):g}", f"g² is {square(signal(seen)):.3g}"
        evidence = seen.numbers("history_rms", "gradient_rms") | {"left_of_start": left(seen), "times_shorter": times}
        if keeps(seen):
            sentence = (
                f"The maximum w of {name} keeps {v0}: it is {left(seen):.3g} where {g2}. Steps stay about {times:.3g} "
                "times shorter than with v₀ = 0."
            )
            cause, advice = "v₀ is far above g², and w, the largest v so far, never falls", ""
        else:
            per_step = -math.log(seen("decay"))
            later = over(root(seen), d(seen, signal(seen)))  # factor by which √v must fall, to the later d
            steps, half = math.ceil(2 * math.log(later) / per_step), math.log(2) / per_step
            sentence = (
                f"v of {name} has not forgotten its start, {v0}: it is {square(seen('history_rms')):.3g} where {g2}. "
                f"Steps are about {times:.3g} times shorter than they will be {counted(steps, 'step')} from now."
            )
            cause = f"v₀ is far above g², and v forgets half of it in {counted(f'{half:.3g}', 'step')}, ln 2/−ln β"
            advice = "leave it, as a warm-up"
            evidence |= {"half_life": half, "steps_left": steps}
        changes = ({"initial_square_avg": 0.0, "bias_correction": True},)
        if seen.group["centered"]:  # with bias_correction, the variance of the first gradient is 0
            changes = ({"initial_square_avg": 0.0, "lr": lower(history.rate(name))},)
        large = "β·v₀ more than {} of w" if keeps(seen) else "βᵗ·v₀ more than {} of v"
        large = large.format(percent(share))
        threshold = f"{large}, and d {least_times:g} times that of g² and ε, in the newest record"
        yield Finding(
            kind="start",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            advice=advice,
            changes=changes,
        )


def eps(history: History) -> Iterator[Finding]:
    """Find ε above √s (√v unless centered): there the rule is SGD."""
    limit = 0.5

    def measure(name: str) -> float:
        at_floor = history.typical(name, "floor_share") > limit  # `variance_floor` reports that
        return NAN if at_floor else history.typical(name, lambda s: s.eps_share)

    for name, share, seen in history.ranked(measure, above=limit):
        inside, usual = seen.group["eps_inside_sqrt"], history.typical(name, "gradient_rms")
        term, floor = ("√ε", math.sqrt(seen("eps"))) if inside else ("ε", seen("eps"))
        averages = seen.group.get("first_moment") and seen("momentum")  # SGD's buffer sums: 1/(1−μ) times as much
        rate = over(seen("lr"), floor) * (1 - seen("momentum") if averages else 1)
        sgd = "SGD with momentum" if seen("momentum") else "SGD"
        sentence = (
            f"ε governs {percent(share)} of the elements of {name} that have a gradient: you are running {sgd} there, "
            f"with rate {'(1−μ)·' if averages else ''}η/{term} = {rate:.3g}."
        )
        square_avg = "w" if seen.group.get("amsgrad") else "v"
        root = f"√s, s = {square_avg} − m²" if seen.group["centered"] else f"√{square_avg}"
        cause = f"{term} = {floor:.3g} is larger than {root}; the root mean square of the gradient is {usual:.3g}"
        others = history.median_gradient
        faint = over(usual, others) <= 1 / OUTLIER
        if seen.group["centered"]:  # s is the square of the deviation from the mean
            ratio = history.typical(name, "signal_to_noise")
            usual /= math.sqrt(1 + ratio) if ratio > 0 else 1
        small = min(0.1 * floor, 0.01 * usual if usual > 0 else math.inf)  # `usual` may come from a few large elements
        change = {"eps": rounded(square(small) if inside else small)}
        if history.rate(name) > USUAL:  # a rate for SGD, far too high where v sets the steps
            change["lr"] = USUAL
        changes: tuple[dict[str, float], ...] = (change,)
        advice = "leave it, if SGD is meant, as by recipes with ε = 1"
        if faint:  # a smaller ε would follow noise, and provoke `effective_lr`
            cause += f", {over(history.typical(name, 'gradient_rms'), others):.1g} of the median of the tensors"
            changes, advice = (
                (),
                (
                    "check that a signal reaches it (scales, saturation): so small a gradient may be noise, which a "
                    "smaller eps would follow"
                ),
            )
        evidence = seen.numbers("eps_share", "zero_gradient_share", "eps", "lr") | {
            "share": share, "gradient_rms": history.typical(name, "gradient_rms"), "sgd_lr": rate,
            "median_gradient": others,
        }  # fmt: skip
        threshold = f"more than {percent(limit)} of the elements with a gradient, {MEDIAN}"
        yield Finding(
            kind="eps",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            advice=advice,
            changes=changes,
        )


def variance_floor(history: History) -> Iterator[Finding]:
    """Find a variance that consists of rounding errors."""
    limit = 0.5
    for name, share, seen in history.ranked(lambda n: history.typical(n, "floor_share"), above=limit):
        length = history.typical(name, lambda s: over(s("update_rms"), s("lr")))
        sentence = (
            f"The variance is at its rounding floor for {percent(share)} of {name}: steps are {length:.3g}·η long."
        )
        if seen.group["centered"]:
            square_avg = "w" if seen.group.get("amsgrad") else "v"
            cause = f"these gradients hardly vary, and {square_avg} − m² is the rounding error of its subtraction"
            change: dict[str, Any] = {"centered": False}
        else:
            cause = f"v₀ = {seen('initial_square_avg'):g} is so far above g² that v − βᵗ·v₀ is a rounding error"
            change = {"initial_square_avg": 0.0}
        evidence = seen.numbers("update_rms", "lr", "gradient_rms") | {"floor_share": share, "step_in_lr": length}
        threshold = f"more than {percent(limit)} of the elements, {MEDIAN}"
        yield Finding(
            kind="variance floor",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            changes=(change,),
        )


def state_stall(history: History) -> Iterator[Finding]:
    """Find a bfloat16 square average that does not fall although gradients have become smaller."""
    least, most = 0.2, 0.1

    def fall(name: str) -> tuple[float, float]:
        """Return the share by which v should have fallen in the recent records, and the share by which it has."""
        recent = history.recent(name)
        first, last = recent[0], recent[-1]
        g = history.typical(name, lambda s: over(s("gradient_rms"), s("history_rms")))
        due = (1 - last("decay") ** (last.step - first.step)) * (1 - square(g)) if square(g) < 0.5 else NAN
        return due, 1 - square(over(last("history_rms"), first("history_rms")))

    def measure(name: str) -> float:
        due, made = fall(name)
        newest = history.tensors[name][-1]
        in_bfloat16 = "bfloat16" in newest.stored_as("state_dtype")
        governs = not newest.group.get("amsgrad")  # else the maximum sets the steps, and never falls
        return due if in_bfloat16 and governs and made < most * due else NAN

    for name, due, seen in history.ranked(measure, above=least):
        made = fall(name)[1]
        sentence = (
            f"v of {name} should have fallen by {percent(due)} in the newest records, and fell by {percent(made)}: √v "
            f"is {seen('history_rms'):.3g}, the gradient {seen('gradient_rms'):.3g} (root mean squares)."
        )
        cause = (
            f"v is bfloat16, rounded to nearest: a step takes at most 1−β = {1 - seen('decay'):.2g} from it, and less "
            "than 0.2 to 0.4 % of it is rounded away; steps stay short"
        )
        advice = "float32 averages, which rmsprop.jax.rmsprop and rmsprop.torch.RMSprop keep for bfloat16 parameters"
        evidence = seen.numbers("history_rms", "gradient_rms", "decay") | {"fall_due": due, "fall": made}
        threshold = f"due to fall by {percent(least)} or more, fallen by less than {percent(most)} of that; bfloat16"
        yield Finding(
            kind="state stall",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            advice=advice,
        )
