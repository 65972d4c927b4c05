"""Findings about steps: too long at first, later or in one place, damped by v₀ or ε, rounded away; and weight decay.

Each function takes the history of a run and yields what it finds, the worst tensor first; see `findings_gradients`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from rmsprop.monitor.history import MEDIAN, NAN, SEVERAL, Finding, History, Seen, over, percent, square, typical

_HALF_GAP = {"bfloat16": "0.2 to 0.4 %", "float16": "0.02 to 0.05 %", "float32": "3e-6 to 6e-6 %"}  # of a value


def first_step(history: History) -> Iterator[Finding]:
    """Find a first step so long that little is left of the values that the parameters started from."""
    share, surge = 0.5, 2.0

    def starts_long(seen: Seen) -> bool:
        if seen.group["bias_correction"]:
            return bool(seen.group["centered"])  # the variance of one gradient is its rounding floor
        return not seen.group["initial_square_avg"]

    def times(name: str) -> float:
        later = typical(over(s("update_rms"), s("lr")) for s in history.recent(name) if s.step > 1)
        first = history.tensors[name][0]
        return over(over(first("update_rms"), first("lr")), later if later > 0 else 1.0)

    def measure(name: str) -> float:
        first = history.tensors[name][0]
        ratio = first("update_ratio")
        from_zero = abs(ratio - 1) < 1e-6  # the step is all there is: the parameter started at 0
        counts = first.step == 1 and starts_long(first) and not from_zero and times(name) > surge
        return ratio if counts else NAN

    for name, ratio, _ in history.ranked(measure, above=share, matrices=True):
        first = history.tensors[name][0]
        beta, warm_up = first("decay"), math.ceil(2 / (1 - first("decay")))
        sentence = (
            f"The first step changed {name} by {first('update_rms'):.3g} (root mean square), {percent(ratio)} of what "
            f"it then was; relative to lr, it was {times(name):.3g} times as long as later steps."
        )
        remedy = f"raise lr from 0 over the first {warm_up} steps, 2/(1−β)"
        if first.group["centered"] and (first.group["bias_correction"] or not beta):
            why = "bias_correction" if first.group["bias_correction"] else "β = 0"
            cause = f"centered with {why}: the variance of the first gradient is 0 up to rounding"
        else:
            factor = f"η/√(1−β) = {1 / math.sqrt(1 - beta):.3g}·η"
            if first.group["centered"]:  # of s = β·(1−β)·g²; with bias_correction it would be 0
                factor = f"η/√(β·(1−β)) = {1 / math.sqrt(beta * (1 - beta)):.3g}·η"
            else:
                remedy = f"bias_correction=True, or {remedy}"
            cause = f"v starts at 0, and the first step is {factor} for every element, whatever its gradient"
        evidence = first.numbers("update_rms", "update_ratio", "lr", "decay") | {"times_later_steps": times(name)}
        threshold = f"more than {percent(share)} of the parameter after step 1, and {surge:g} times later steps, by lr"
        yield Finding("first step", name, 1, sentence, cause, evidence, threshold, remedy)


def start(history: History) -> Iterator[Finding]:
    """Find a square average that still consists of the value it started at."""
    share, far = 0.5, 3.0

    def left(seen: Seen) -> float:
        return float(seen("initial_square_avg") * seen("decay") ** seen.age)

    def signal(seen: Seen) -> float:
        return over(seen("gradient_rms"), math.sqrt(seen.active_share))

    def d(seen: Seen, root: float) -> float:
        return math.sqrt(square(root) + seen("eps")) if seen.group["eps_inside_sqrt"] else root + seen("eps")

    def root(seen: Seen) -> float:
        """Return √v without the gradients, after the step: what it is divided by."""
        return math.sqrt(left(seen) * seen("decay"))

    def measure(name: str) -> float:
        seen = history.tensors[name][-1]
        still = not seen.group["bias_correction"] and over(left(seen), square(seen("history_rms"))) > share
        shorter = over(d(seen, root(seen)), d(seen, signal(seen)))
        return shorter if still and seen("decay") else NAN

    for name, times, seen in history.ranked(measure, above=far):
        per_step = -math.log(seen("decay"))
        later = over(root(seen), d(seen, signal(seen)))  # until √v has fallen to the d that remains
        steps, half = math.ceil(2 * math.log(later) / per_step), math.log(2) / per_step
        sentence = (
            f"v of {name} has not forgotten its start, v₀ = {seen('initial_square_avg'):g}: it is "
            f"{square(seen('history_rms')):.3g} where g² is {square(signal(seen)):.3g}. Steps are about {times:.3g} "
            f"times shorter than they will be {steps} steps from now."
        )
        cause = f"v₀ is far above g², and v forgets half of it in {half:.3g} steps, ln 2/−ln β"
        warm_up = "a warm-up of lr" if seen.group["centered"] else "bias_correction=True"
        remedy = f"initial_square_avg=0 with {warm_up}; or take it for the warm-up that it is"
        evidence = seen.numbers("history_rms", "gradient_rms") | {
            "left_of_start": left(seen), "half_life": half, "steps_left": steps, "times_shorter": times
        }  # fmt: skip
        threshold = f"βᵗ·v₀ more than {percent(share)} of v, and d {far:g} times that of g² and ε, in the newest record"
        yield Finding("start", name, seen.step, sentence, cause, evidence, threshold, remedy)


def eps(history: History) -> Iterator[Finding]:
    """Find ε above √s, which is √v unless centered, where the rule has become SGD."""
    limit = 0.5

    def measure(name: str) -> float:
        at_floor = history.typical(name, "floor_share") > limit  # that is another finding
        return NAN if at_floor else history.typical(name, lambda s: s.eps_share)

    for name, share, seen in history.ranked(measure, above=limit):
        inside, usual = seen.group["eps_inside_sqrt"], history.typical(name, "gradient_rms")
        word, floor = ("√ε", math.sqrt(seen("eps"))) if inside else ("ε", seen("eps"))
        rate = over(seen("lr"), floor)
        sgd = "SGD with momentum" if seen("momentum") else "SGD"
        sentence = (
            f"ε governs {percent(share)} of the elements of {name} that have a gradient: you are running {sgd} there, "
            f"with rate η/{word} = {rate:.3g}."
        )
        root = "√s, s = v − m²" if seen.group["centered"] else "√v"
        cause = f"{word} = {floor:.3g} is larger than {root}; the root mean square of the gradient is {usual:.3g}"
        if seen.group["centered"]:  # that of the deviation from the mean
            ratio = history.typical(name, "signal_to_noise")
            usual /= math.sqrt(1 + ratio) if ratio > 0 else 1
        small = min(0.1 * floor, 0.01 * usual if usual > 0 else math.inf)  # gradients of a few elements may be large
        top = square(small) if inside else small
        remedy = (
            f"eps={top:.0e} or less, with an lr chosen anew; or leave it, if SGD is meant, as by recipes with ε = 1"
        )
        evidence = seen.numbers("eps_share", "zero_gradient_share", "eps", "lr") | {
            "share": share, "gradient_rms": history.typical(name, "gradient_rms"), "sgd_lr": rate
        }  # fmt: skip
        threshold = f"more than {percent(limit)} of the elements with a gradient, {MEDIAN}"
        yield Finding("eps", name, seen.step, sentence, cause, evidence, threshold, remedy)


def variance_floor(history: History) -> Iterator[Finding]:
    """Find a variance that consists of rounding errors."""
    limit = 0.5
    for name, share, seen in history.ranked(lambda n: history.typical(n, "floor_share"), above=limit):
        length = history.typical(name, lambda s: over(s("update_rms"), s("lr")))
        sentence = (
            f"The variance is at its rounding floor for {percent(share)} of {name}: steps are {length:.3g}·η long."
        )
        if seen.group["centered"]:
            cause = "these gradients hardly vary, and v − m² is the rounding error of its subtraction"
            remedy = "centered=False; or an eps above √(v − m²), by which these elements are then governed"
        else:
            cause = f"v₀ = {seen('initial_square_avg'):g} is so far above g² that v − βᵗ·v₀ is a rounding error"
            remedy = "initial_square_avg=0"
        evidence = seen.numbers("update_rms", "lr", "gradient_rms") | {"floor_share": share, "step_in_lr": length}
        threshold = f"more than {percent(limit)} of the elements, {MEDIAN}"
        yield Finding("variance floor", name, seen.step, sentence, cause, evidence, threshold, remedy)


def stall(history: History) -> Iterator[Finding]:
    """Find steps that are rounded away: the parameter stays what it was."""
    limit = 0.5

    def unchanged(seen: Seen) -> float:
        rounded_at_random = seen.group["stochastic_rounding"] and "bfloat16" in seen.stored_as("dtype")
        counts = not rounded_at_random and seen("lr") > 0
        return over(seen("unchanged_share"), seen.active_share) if counts else NAN

    for name, share, seen in history.ranked(lambda n: history.typical(n, unchanged), above=limit):
        dtype = next((d for d in _HALF_GAP if d in seen.stored_as("dtype")), seen.stored_as("dtype"))
        sentence = f"{percent(share)} of {name}, of the elements with a gradient, do not change in a step."
        half = f" ({_HALF_GAP[dtype]} of the value)" if dtype in _HALF_GAP else ""
        cause = f"a step below half the distance to the next number of {dtype}{half} is rounded away"
        remedy = {
            "bfloat16": "stochastic_rounding=True, which is right on average; or float32 parameters",
            "float16": "float32 parameters, with autocast for the model's operations",
        }.get(dtype, "a larger lr")
        evidence = seen.numbers("unchanged_share", "zero_gradient_share", "update_ratio") | {
            "share": share, "param_dtype": dtype
        }  # fmt: skip
        threshold = f"more than {percent(limit)} of the elements with a gradient, no stochastic rounding, {MEDIAN}"
        yield Finding("stall", name, seen.step, sentence, cause, evidence, threshold, remedy)


def state_stall(history: History) -> Iterator[Finding]:
    """Find a square average in bfloat16 that stays where it is while gradients have become smaller."""
    least, most = 0.2, 0.1

    def fall(name: str) -> tuple[float, float]:
        """Return by which share v should have fallen in the recent records, and by which it has."""
        recent = history.recent(name)
        first, last = recent[0], recent[-1]
        g = history.typical(name, lambda s: over(s("gradient_rms"), s("history_rms")))
        due = (1 - last("decay") ** (last.step - first.step)) * (1 - square(g)) if square(g) < 0.5 else NAN
        return due, 1 - square(over(last("history_rms"), first("history_rms")))

    def measure(name: str) -> float:
        due, made = fall(name)
        in_bfloat16 = "bfloat16" in history.tensors[name][-1].stored_as("state_dtype")
        return due if in_bfloat16 and made < most * due else NAN

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
        remedy = "float32 averages, or stochastic rounding, as state_dtype='bfloat16' of rmsprop.torch has it"
        evidence = seen.numbers("history_rms", "gradient_rms", "decay") | {"fall_due": due, "fall": made}
        threshold = f"due to fall by {percent(least)} or more, fallen by less than {percent(most)} of that; bfloat16"
        yield Finding("state stall", name, seen.step, sentence, cause, evidence, threshold, remedy)


def long_steps(history: History) -> Iterator[Finding]:
    """Find steps that are far too long for the size of the parameters."""
    limit = 0.2

    def ratio(name: str) -> float:
        return history.typical(name, "update_ratio") if len(history.recent(name)) >= SEVERAL else NAN

    for name, value, seen in history.ranked(ratio, above=limit, matrices=True):
        sentence = f"Each step changes {name} by {percent(value)} of its size."
        cause = f"lr = {seen('lr'):g} is large for values of {seen('parameter_rms'):.3g} (root mean square)"
        remedy = f"an lr {value / 0.01:.0f} times smaller would change it by 1 % a step; 0.1 to 1 % is usual"
        evidence = seen.numbers("update_rms", "parameter_rms", "lr") | {"update_ratio": value}
        threshold = f"update/parameter above {limit:g}, {MEDIAN}, of {SEVERAL} at least"
        yield Finding("long steps", name, seen.step, sentence, cause, evidence, threshold, remedy)


def short_steps(history: History) -> Iterator[Finding]:
    """Find steps that are far too short for the size of the parameters, at a rate that is not at a schedule's end."""
    limit = 1e-6

    def inverse(name: str) -> float:
        recent = history.recent(name)
        counts = (
            len(recent) >= SEVERAL
            and recent[-1]("lr") >= 0.1 * max(s("lr") for s in history.tensors[name])
            and not history.typical(name, "unchanged_share") > 0.5  # that is a stall
        )
        return over(1.0, history.typical(name, "update_ratio")) if counts else NAN

    for name, value, seen in history.ranked(inverse, above=1 / limit, matrices=True):
        sentence = f"A step changes {name} by {1 / value:.2g} of its size: it takes {value:.2g} steps to change it."
        cause = f"lr = {seen('lr'):g} is small for values of {seen('parameter_rms'):.3g} (root mean square)"
        remedy = "a larger lr, if this tensor is to be trained; 0.1 to 1 % of the size is a usual step"
        evidence = seen.numbers("update_rms", "parameter_rms", "lr") | {"update_ratio": 1 / value}
        threshold = (
            f"update/parameter below {limit:g}, {MEDIAN}, of {SEVERAL} at least, lr a tenth of its largest at least"
        )
        yield Finding("short steps", name, seen.step, sentence, cause, evidence, threshold, remedy)


def effective_lr(history: History) -> Iterator[Finding]:
    """Find a tensor whose effective learning rate is far above those of the others."""
    limit = 100.0

    def rate(name: str) -> float:
        by_v = not history.typical(name, lambda s: s.eps_share) > 0.5  # of others the rate is η/ε
        return history.typical(name, lambda s: over(s("lr"), s.divisor)) if by_v else NAN

    rates = [x for x in map(rate, history.tensors) if x > 0]
    usual = typical(rates) if len(rates) >= SEVERAL else NAN
    for name, times, seen in history.ranked(lambda n: over(rate(n), usual), above=limit):
        sentence = (
            f"The effective learning rate of {name} is {rate(name):.3g}, {times:.3g} times the median of the tensors "
            f"({usual:.3g})."
        )
        cause = (
            f"its gradient is {history.typical(name, 'gradient_rms'):.3g} (root mean square), and RMSprop makes steps "
            "of all tensors alike: if so small a gradient is noise, noise is followed"
        )
        remedy = "look whether a signal reaches it (scales, saturation); else give it a smaller lr or a larger eps"
        evidence = seen.numbers("gradient_rms", "lr") | {"effective_lr": rate(name), "median": usual, "times": times}
        threshold = f"{limit:g} times the median of {SEVERAL} tensors or more; each the {MEDIAN}"
        yield Finding("effective lr", name, seen.step, sentence, cause, evidence, threshold, remedy)


def weight_decay(history: History) -> Iterator[Finding]:
    """Find L2 decay that shrinks parameters at another rate than η·λ, or hardly acts on them."""
    far, matters, least = 10.0, 0.01, 0.001

    def divisor(name: str) -> float:
        """Return d·(1−μ): a buffer makes η·λ/(1−μ) of η·λ, as it does of every gradient that stays."""
        seen = history.tensors[name][-1]
        coupled = seen("weight_decay") > 0 and not seen.group["decoupled_weight_decay"]
        by_v = not history.typical(name, lambda s: s.eps_share) > 0.5  # SGD decays as it should
        return history.typical(name, lambda s: s.divisor * (1 - s("momentum"))) if coupled and by_v else NAN

    def pull(name: str) -> float:
        return history.typical(name, lambda s: over(s("weight_decay") * s("parameter_rms"), s("gradient_rms")))

    def apart(name: str) -> float:
        d = divisor(name)
        return max(d, over(1.0, d)) if pull(name) >= matters else NAN

    def weakness(name: str) -> float:
        return over(1.0, pull(name)) if divisor(name) > 0 else NAN

    def evidence(name: str, seen: Seen) -> dict[str, float]:
        return seen.numbers("lr", "weight_decay") | {
            "shrinkage": over(seen("lr") * seen("weight_decay"), divisor(name)),
            "lr_times_weight_decay": seen("lr") * seen("weight_decay"),
            "d": over(divisor(name), 1 - seen("momentum")),
            "momentum": seen("momentum"),
            "share_of_gradient": pull(name),
        }

    wrong = list(history.ranked(apart, above=far, matrices=True))
    for name, times, seen in wrong:
        told = evidence(name, seen)
        d, nominal = divisor(name), told["lr_times_weight_decay"]
        sentence = (
            f"L2 decay shrinks {name} by {nominal / d:.2g} of itself in a step: {times:.3g} times "
            f"{'as much as' if d < 1 else 'less than'} η·λ = {nominal:.2g}; λ·p is {percent(pull(name))} of the "
            "gradient."
        )
        buffer = f"; the buffer makes 1/(1−μ) = {1 / (1 - seen('momentum')):.3g} of 1" if seen("momentum") else ""
        cause = (
            f"λ·p is part of g, and divided by d like it: by {told['d']:.2g} here, by other numbers in other elements"
            f"{buffer}"
        )
        remedy = (
            "decoupled_weight_decay=True, by which all shrink by η·λ; "
            f"weight_decay={seen('weight_decay') / d:.1g} keeps today's rate"
        )
        threshold = f"shrinkage {far:g} times η·λ or a tenth of it, λ·p at least {percent(matters)} of g, {MEDIAN}"
        yield Finding("weight decay", name, seen.step, sentence, cause, told, threshold, remedy)
    for name, times, seen in [] if wrong else history.ranked(weakness, above=1 / least, matrices=True):
        told = evidence(name, seen)
        sentence = (
            f"L2 decay does next to nothing to {name}: λ·p is {percent(1 / times)} of its gradient, and shrinks it by "
            f"{told['shrinkage']:.2g} of itself in a step."
        )
        cause = (
            "λ·p is part of g and has that share of each step; if the rest is noise, it moves parameters further than "
            f"decay does for 1/share² = {square(times):.2g} steps"
        )
        remedy = (
            f"a weight_decay {matters * times:.2g} times as large has {percent(matters)}; with "
            f"decoupled_weight_decay=True all shrink by η·λ, now {told['lr_times_weight_decay']:.2g}; or leave it out"
        )
        threshold = f"λ·p less than {percent(least)} of g, {MEDIAN}"
        yield Finding("weight decay", name, seen.step, sentence, cause, told, threshold, remedy)
