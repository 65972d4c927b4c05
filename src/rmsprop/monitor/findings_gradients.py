"""Findings about gradients: not finite, spiking, flipping, clipped, absent.

Each function takes the history of a run and yields what it finds, the worst tensor first. Symbols are those of
`rmsprop.rule`. Lasting conditions are judged by the median of the newest records, so that one unusual step says
nothing; events are looked for in all records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import takewhile

from rmsprop.monitor.history import (
    MEDIAN,
    NAN,
    SEVERAL,
    Finding,
    History,
    Seen,
    counted,
    over,
    percent,
    square,
    typical,
)

# What became of gradients that were not finite, one or several, by the group's choice for them.
_AFTER = {
    "propagate": ("went into v and stays there", "went into v and stay there"),
    "skip": ("was left out, and the whole step with it", "were left out, and the whole step with them"),
    "zero": ("was left out, counted as 0", "were left out, each counted as 0"),
}
_CAUSE = "a gradient beyond the range of its type, or one whose square is"
_LOOK = (
    "look for the batch or the operation that makes them (a division by zero, an overflow in half precision), or clip "
    "the gradients"
)


def _after_nonfinite(history: History, mode: str) -> str:
    """Return the remedy, which where they went into v begins with a checkpoint that is free of them."""
    if mode != "propagate":
        return _LOOK
    *_, clean = None, *takewhile(lambda record: not record.get("nonfinite_steps"), history.records)
    free = "from before them" if clean is None else f"of step {clean['step']} or before"
    return f'reload a checkpoint {free}; nonfinite="skip" leaves such steps out; then {_LOOK}'


def nonfinite(history: History) -> Iterator[Finding]:
    """Find gradients that are not finite, or whose square is not."""
    steps = max((int(r.get("nonfinite_steps") or 0) for r in history.records), default=0)
    named = False
    for name, count, _ in history.ranked(lambda n: sum(s.values["nonfinite"] for s in history.tensors[n]), above=0):
        seen = next(s for s in history.tensors[name] if s("nonfinite") > 0)
        first, mode = seen.step, seen.group.get("nonfinite", "propagate")
        one, several = _AFTER[mode]
        sentence = (
            f"1 element of a gradient of {name} was not finite, seen in step {first}; it {one}."
            if count == 1
            else f"{count:.0f} elements of gradients of {name} were not finite, the first seen in step {first}; they "
            f"{several}."
        )
        evidence = {"elements": int(count), "first_step": first, "nonfinite_steps": steps}
        named = True
        yield Finding(
            "nonfinite", name, first, sentence, _CAUSE, evidence, "one element", _after_nonfinite(history, mode)
        )
    if steps and not named:
        modes = {group.get("nonfinite", "propagate") for group in history.records[-1]["groups"]}
        mode = next((m for m in _AFTER if m in modes), "propagate")  # the gravest one
        after = _AFTER[mode][1] if len(modes) < 2 else "were dealt with as each group has it"
        sentence = f"Gradients that are not finite were met in {counted(steps, 'step')}; they {after}."
        step, evidence = history.records[-1]["step"], {"nonfinite_steps": steps}
        yield Finding("nonfinite", None, step, sentence, _CAUSE, evidence, "one step", _after_nonfinite(history, mode))


def spike(history: History) -> Iterator[Finding]:
    """Find a gradient many times as large as those before it; v then makes the steps after it short."""
    limit = 10.0

    def usual(seen: Seen) -> float:
        settled = 1 if seen("initial_square_avg") else math.sqrt(1 - seen("decay") ** seen.age)  # young v is small
        return over(seen("history_rms"), settled)

    def times(seen: Seen) -> float:
        return over(seen("gradient_rms"), usual(seen))

    def worst(name: str) -> Seen:
        return max(history.tensors[name], key=lambda s: k if (k := times(s)) > 0 else 0.0)

    for name, k, _ in history.ranked(lambda n: times(worst(n)), above=limit):
        seen = worst(name)
        beta, length = seen("decay"), over(seen("update_rms"), seen("lr"))
        # After j more steps v is 1 + (1−β)·(K²−1)·βʲ times what it was; steps have 90 % of their length where d is
        # 1/0.9 times what it was: without ε, at 0.9⁻².
        excess = math.log1p(-beta) + math.log(k - 1) + math.log(k + 1) - math.log(_margin(seen, usual(seen)))
        steps = math.ceil(excess / -math.log(beta)) if excess > 0 and beta else 0
        count = sum(times(s) > limit for s in history.tensors[name])
        long = f"that step was {length:.3g}·η long, and " if math.isfinite(length) else ""
        after = (
            f"steps have 90 % of their usual length again {counted(steps, 'step')} later."
            if steps
            else "steps after it have 90 % of their usual length at least."
        )
        sentence = f"The gradient of {name} was {k:.3g} times its history in step {seen.step}: {long}{after}"
        cause = f"a gradient of {seen('gradient_rms'):.3g} where √v was {seen('history_rms'):.3g} (root mean squares)"
        remedy = (
            "clip gradients somewhat above their usual norm, and look at that batch; spikes are rarer at a smaller lr"
        )
        evidence = seen.numbers("gradient_rms", "history_rms") | {
            "times_history": k, "step_in_lr": length, "recovery_steps": steps, "records": count
        }  # fmt: skip
        threshold = f"gradient more than {limit:g} times its history (root mean squares) in a record"
        yield Finding("spike", name, seen.step, sentence, cause, evidence, threshold, remedy)


def _margin(seen: Seen, root: float) -> float:
    """Return by which share of itself v may be larger, from `root`², until d is 1/0.9 times as large."""
    if seen.group["eps_inside_sqrt"]:
        return (0.9**-2 - 1) * (1 + over(seen("eps"), square(root)))
    eps = over(seen("eps"), root)
    return square((1 + eps) / 0.9 - eps) - 1


def oscillation(history: History) -> Iterator[Finding]:
    """Find gradients that change sign with every step: the rate is at the edge of stability."""
    limit, most = 0.9, 0.8

    def measure(name: str) -> float:
        known = sum(math.isfinite(s("gradient_cosine")) for s in history.recent(name)) >= SEVERAL
        flips = history.typical(name, "sign_flips") > most
        return -history.typical(name, "gradient_cosine") if known and flips else NAN

    for name, opposed, seen in history.ranked(measure, above=limit):
        share = history.typical(name, "sign_flips")
        sentence = (
            f"{name} oscillates: {percent(share)} of its gradient changes sign from one step to the next (cosine "
            f"{-opposed:.2f}), and the steps undo each other."
        )
        mu, nesterov = seen("momentum"), seen.group["nesterov"]
        edge = "2(1+μ)/((1+2μ)·η)" if nesterov else "2(1+μ)/η" if mu else "2/η"
        how = "narrows with it" if mu else "is about η/2 wide"
        cause = f"the curvature, divided by √v, has reached the edge of stability, {edge} with η = {seen('lr'):g}"
        remedy = f"a smaller lr, or one that falls to 0 at the end: the oscillation {how}"
        evidence = seen.numbers("lr", "momentum", "update_ratio") | {"gradient_cosine": -opposed, "sign_flips": share}
        threshold = f"cosine of successive gradients below −{limit:g}, more than {percent(most)} of the signs: {MEDIAN}"
        yield Finding("oscillation", name, seen.step, sentence, cause, evidence, threshold, remedy)


def clipping(history: History) -> Iterator[Finding]:
    """Find gradients that always have the same norm: they are clipped in every step."""
    most, close, several = 0.9, 1e-3, 5
    norms = [r["gradient_norm"] for r in history.records if r["gradient_norm"]]
    usual = typical(norms)
    same = sum(abs(x - usual) <= close * usual for x in norms)
    if len(norms) < several or same < most * len(norms) or not _varies(history):
        return
    sentence = f"The gradient's norm is {usual:.4g} in {same} of {len(norms)} records: it is clipped in every step."
    cause = (
        "before clipping the norm is always above the threshold; a factor common to all gradients then cancels in g/d, "
        "up to ε: such clipping changes little and bounds no step"
    )
    remedy = "a threshold above the usual norm, for spikes only; or none, and a smaller lr if steps are too long"
    evidence = {"gradient_norm": usual, "records": len(norms), "records_alike": same}
    threshold = f"{percent(most)} of at least {several} norms within {close:g} of their median"
    yield Finding("clipping", None, history.records[-1]["step"], sentence, cause, evidence, threshold, remedy)


def _varies(history: History) -> bool:
    """Return whether gradients differ between records in more than a common factor and the sign."""
    for seen in history.tensors.values():
        sizes = [x for s in seen if (x := s("gradient_rms")) > 0]
        if (sizes and max(sizes) > 1.01 * min(sizes)) or any(abs(s("gradient_cosine")) < 0.99 for s in seen):
            return True
    return False


def dead_rows(history: History) -> Iterator[Finding]:
    """Find rows, such as units or entries of an embedding, that no gradient reaches."""
    limit = 0.25

    def all_dead(name: str) -> bool:
        recent = history.recent(name)
        return len(recent) >= SEVERAL and all(s("zero_gradient_share") == 1 for s in recent)

    def measure(name: str) -> float:
        shares = [over(s("dead_rows"), s("rows")) for s in history.recent(name)]
        several = sum(map(math.isfinite, shares)) >= SEVERAL and math.isfinite(shares[-1])
        return 1.0 if all_dead(name) else min(shares[-1], typical(shares)) if several else NAN

    for name, _, seen in history.ranked(measure, above=limit):
        quiet = _steps_to_forget(seen("decay"))
        dead, rows = seen("dead_rows"), seen("rows")
        get, have = ("gets", "has") if dead == 1 else ("get", "have")
        some = f"{dead:.0f} of the {counted(f'{rows:.0f}', 'row')} of {name} ({percent(over(dead, rows))}) " + (
            f"{get} no gradient, and {have} got none for about {counted(quiet, 'step')}."
            if seen.age >= quiet
            else f"{have} never got a gradient, in {seen.age + 1:.0f} steps."
        )
        sentence = f"No gradient reaches {name}." if all_dead(name) else some
        cause = "units that are never active, such as ReLUs whose input was pushed below 0, or entries never looked up"
        calmer = "an lr raised from 0" if seen.group["centered"] else "bias_correction=True"
        remedy = (
            f"if it came with training, a smaller lr, calmer first steps ({calmer}) or an activation with a slope "
            "below 0; else these rows are not used at all"
        )
        evidence = seen.numbers("dead_rows", "rows", "zero_gradient_share")
        threshold = (
            f"more than {percent(limit)} of the rows without gradient, and with √v at most 1e-6 of the tensor's, "
            f"{MEDIAN} and in the newest; or no element with a gradient; of {SEVERAL} records at least"
        )
        yield Finding("dead rows", name, seen.step, sentence, cause, evidence, threshold, remedy)


def _steps_to_forget(decay: float) -> int:
    """Return after how many steps without a gradient √v is 1e-6 of what it was."""
    return math.ceil(math.log(1e-12) / math.log(decay)) if decay else 1
