"""Findings about gradients that are not finite, spike, change sign in every step, are clipped, or are absent.

Each function takes the history of a run and yields its findings, the worst tensor first. Symbols are those of
`rmsprop.rule`. Lasting conditions are judged by the median of the newest records, so one unusual step does not count.
Events are searched in all records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import takewhile
from typing import Any, Literal

import numpy as np

from rmsprop.monitor.findings.finding import Finding, counted, lower, percent, rounded
from rmsprop.monitor.findings.history import MEDIAN, NAN, RECENT, SEVERAL, History, Observation, over, square, typical
from rmsprop.monitor.findings.steps import first_step
from rmsprop.monitor.record import Record

# The fate of one non-finite element, and of several, by the group's `nonfinite`; the gravest first.
_FATE = {
    "propagate": ("went into v and stays there", "went into v and stay there"),
    "skip": ("made the optimizer skip the whole step", "made the optimizer skip the whole step"),
    "zero": ("counted as 0", "each counted as 0"),
}
_BY_GROUP = "were treated as each group's nonfinite says"
_CAUSE = "a gradient beyond the range of its type, or one whose square is"
_LOOK = "mend the batch or the operation that makes them, such as a division by zero or an overflow in half precision"


def _cause_of(history: History, mode: str) -> str:
    """Return the cause and, with "propagate", the newest checkpoint that is free of non-finite numbers."""
    if mode != "propagate":
        return _CAUSE
    *_, clean = None, *takewhile(lambda record: not _applied(record), history.records)
    free = "from before them" if clean is None else f"of step {clean['step']} or before"
    return f"{_CAUSE}; a checkpoint {free} is free of it"


def _changes(mode: str) -> tuple[dict[str, Any], ...]:
    return ({"nonfinite": "skip"},) if mode == "propagate" else ()


def _counted(record: Record, name: Literal["nonfinite_steps", "skipped_steps"]) -> int:
    count = record.get(name)
    return count if isinstance(count, int) else 0


def _applied(record: Record) -> int:
    """Return how many of the steps so far met a non-finite gradient and were not skipped."""
    return _counted(record, "nonfinite_steps") - _counted(record, "skipped_steps")


def nonfinite(history: History) -> Iterator[Finding]:
    """Find the first record in which gradients, or their squares, are not finite: others may follow from them."""
    steps, skipped = (
        max((_counted(record, name) for record in history.records), default=0)
        for name in ("nonfinite_steps", "skipped_steps")
    )
    found = {r["step"]: names for r in history.records if (names := _nonfinite_of(r))}
    if found:
        yield _first_nonfinite(history, found, steps)
        return
    modes = {g.get("nonfinite", "propagate") for r in history.records[-1:] for g in r["groups"]}
    if skipped >= steps:
        modes &= {"skip"}  # a GradScaler skips steps to find its scale: no finding
    elif "skip" not in modes:
        steps -= skipped
    if steps and modes:
        mode = next(m for m in _FATE if m in modes)  # the gravest one
        after = _FATE[mode][1] if len(modes) < 2 else _BY_GROUP
        sentence = f"Gradients that are not finite were met in {counted(steps, 'step')}; they {after}."
        step, evidence = history.records[-1]["step"], {"nonfinite_steps": steps}
        cause = _cause_of(history, mode)
        yield Finding(
            kind="nonfinite",
            tensor=None,
            step=step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold="one step",
            advice=_LOOK,
            changes=_changes(mode),
        )


def _nonfinite_of(record: Record) -> list[str]:
    """Return the tensors of a record with non-finite gradients, the one with the most such elements first."""
    tensors = record["tensors"]
    return sorted((n for n in tensors if tensors[n]["nonfinite"]), key=lambda n: -int(tensors[n]["nonfinite"]))


def _first_nonfinite(history: History, found: dict[int, list[str]], steps: int) -> Finding:
    """Return the finding about non-finite gradients; `found` has the tensors by step."""
    first, names = next(iter(found.items()))
    at = next(i for i, record in enumerate(history.records) if record["step"] == first)
    record, before = history.records[at], history.records[at - 1]["step"] if at else None
    modes = {record["groups"][record["tensors"][n]["group"]].get("nonfinite", "propagate") for n in names}
    mode = next(m for m in _FATE if m in modes)
    known = len(names) == 1 or mode != "propagate" or first == 1 or before == first - 1
    worst, count, everything = names[0], int(record["tensors"][names[0]]["nonfinite"]), len(record["tensors"])
    one, several = _FATE[mode] if len(modes) < 2 else (_BY_GROUP, _BY_GROUP)
    when = f"not finite in step {first}, the first such step on record"
    if len(names) == 1:
        what = f"{counted(count, 'element')} of the gradient of {worst} {'was' if count == 1 else 'were'} {when}"
    else:
        what = f"Gradients of {_of_all(len(names), everything)} were {when}"
        what += f", {counted(count, 'element')} in {worst}" if known else ""
    sentence = f"{what}; it {one}." if count == len(names) == 1 else f"{what}; they {several}."
    if not known:
        gap = "Steps before it have" if before is None else f"Steps {before + 1} to {first - 1} have"
        gap = f"Step {first - 1} has" if before == first - 2 else gap
        sentence += f" {gap} no record, so the tensor where it began is unknown."
    ever = list(dict.fromkeys(n for later in found.values() for n in later))
    if len(ever) > len(names):
        last = next(step for step, later in found.items() if ever[-1] in later)
        sentence += f" By step {last} it had reached {_of_all(len(ever), len(history.tensors))}."
    if steps > 1 and mode != "propagate":
        sentence += f" In all there were {steps} such steps."
    evidence = {"elements": count, "first_step": first, "nonfinite_steps": steps, "tensors": ever}
    tensor, cause = worst if known else None, _cause_of(history, mode)
    return Finding(
        kind="nonfinite",
        tensor=tensor,
        step=first,
        sentence=sentence,
        cause=cause,
        evidence=evidence,
        threshold="one element",
        advice=_LOOK,
        changes=_changes(mode),
    )


def _of_all(count: int, everything: int) -> str:
    return f"all {everything} tensors" if count == everything else f"{count} of {counted(everything, 'tensor')}"


def spike(history: History) -> Iterator[Finding]:
    """Find a gradient many times as large as its history: v then makes the steps after it short."""
    limit = 10.0

    def usual(seen: Observation) -> float:
        settled = 1 if seen("initial_square_avg") else math.sqrt(1 - seen("decay") ** seen.age)  # young v is small
        return over(seen("history_rms"), settled)

    def times(seen: Observation) -> float:
        return over(seen("gradient_rms"), usual(seen))

    long_start = any(first_step(history))  # a long first step makes the gradients after it large

    def counts(seen: Observation) -> bool:
        return times(seen) > 0 and not (long_start and seen.age < over(1.0, 1 - seen("decay")))

    def worst(name: str) -> Observation | None:
        return max(filter(counts, history.tensors[name]), key=times, default=None)

    def measure(name: str) -> float:
        seen = worst(name)
        return NAN if seen is None else times(seen)

    for name, k, _ in history.ranked(measure, above=limit):
        seen = worst(name)
        assert seen is not None  # noqa: S101  (else its measure is NaN)
        length = over(seen("update_rms"), seen("lr"))
        count = sum(counts(s) and times(s) > limit for s in history.tensors[name])
        long = f"that step was {length:.3g}·η long, and " if math.isfinite(length) else ""
        at_least = "steps after it have 90 % of their usual length at least."
        if seen.group.get("amsgrad"):
            shorter = _times_shorter(history, name, seen, k, usual(seen))
            after = f"the maximum w keeps it: in the long run, steps are up to {shorter:.3g} times shorter."
            after, effect = after if shorter > 1 / 0.9 else at_least, {"times_shorter": shorter}
        else:
            steps = _recovery_steps(seen, k, usual(seen))
            after = f"steps have 90 % of their usual length again {counted(steps, 'step')} later."
            after, effect = after if steps else at_least, {"recovery_steps": steps}
        sentence = f"The gradient of {name} was {k:.3g} times its history in step {seen.step}: {long}{after}"
        cause = f"a gradient of {seen('gradient_rms'):.3g} where √v was {seen('history_rms'):.3g} (root mean squares)"
        norms = typical(r["gradient_norm"] for r in history.records if r["gradient_norm"])
        changes = ({"clip": rounded(2 * norms)},) if norms > 0 else ()
        advice = f"look at the batch of step {seen.step}"
        evidence = seen.numbers("gradient_rms", "history_rms") | {"times_history": k, "step_in_lr": length}
        evidence |= {**effect, "records": count}
        threshold = f"gradient more than {limit:g} times its history (root mean squares) in a record"
        yield Finding(
            kind="spike",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            advice=advice,
            changes=changes,
        )


def _recovery_steps(seen: Observation, k: float, root: float) -> int:
    """Return after how many steps d is at most 1/0.9 times its old value; √v was `root` before a spike of `k` times.

    After j more steps, v is 1 + (1−β)·(K²−1)·βʲ times its old value; bias_correction divides the excess by 1 − βᵗ⁺ʲ.
    """
    beta, margin = seen("decay"), math.log(_margin(seen, root))
    if math.isnan(margin):  # ε/√v overflows: ε governs d
        return 0
    excess = math.log1p(-beta) + math.log(k - 1) + math.log(k + 1)
    if seen.group["bias_correction"] and beta:
        excess = float(np.logaddexp(excess, margin + (seen.age + 1) * math.log(beta)))
    return math.ceil((excess - margin) / -math.log(beta)) if excess > margin and beta else 0


def _times_shorter(history: History, name: str, seen: Observation, k: float, root: float) -> float:
    """Return a bound on how many times larger d stays with amsgrad after a spike of `k` times; √v was `root` before it.

    A maximum from earlier, larger gradients may be above v. The measured change of d shows that, to a factor of 2.
    """
    young = seen("decay") ** (seen.age + 1) if not seen("initial_square_avg") else 0.0
    kept = root * math.sqrt(max(1.0, 1 - young + (1 - seen("decay")) * (square(k) - 1)))
    eps = seen("eps")
    times = over(kept + eps, root + eps)
    if seen.group["eps_inside_sqrt"]:
        times = math.sqrt(over(square(kept) + eps, square(root) + eps))
    before = max((s for s in history.tensors[name] if s.step < seen.step), key=lambda s: s.step, default=seen)

    def d(seen: Observation) -> float:
        """Return the median of d without bias correction."""
        corrected = seen.group["bias_correction"]
        return seen.divisor * (math.sqrt(1 - seen("decay") ** (seen.age + 1)) if corrected else 1)

    return min(times, 2 * over(d(seen), d(before))) if before is not seen and times > 2 else times


def _margin(seen: Observation, root: float) -> float:
    """Return the relative increase of v, from `root`², at which d is 1/0.9 times as large: 0.9⁻² − 1 without ε."""
    if seen.group["eps_inside_sqrt"]:
        return (0.9**-2 - 1) * (1 + over(seen("eps"), square(root)))
    eps = over(seen("eps"), root)
    return square((1 + eps) / 0.9 - eps) - 1


def oscillation(history: History) -> Iterator[Finding]:
    """Find gradients that change sign in every step: the rate is at the edge of stability."""
    limit, most, few = 0.9, 0.8, 8
    many, needed = 50, 42  # a coin with 60 % heads shows 42 of 50 once in 4000 times

    def evidence_of(name: str) -> list[Observation]:
        """Return the records that count, none if they are too few or may be chance.

        The sign of one element is a coin toss. Ten tosses have a median of "opposed" in more than a third of all cases.
        """
        known = [s for s in history.recent(name, many) if math.isfinite(s("gradient_cosine"))]
        if not history.tensors[name][-1]("elements") < few:
            return known[-RECENT:] if len(known) >= SEVERAL else []
        for size, least in ((RECENT, RECENT), (many, needed)):
            if sum(s("gradient_cosine") < 0 for s in known[-size:]) >= least:
                return known[-size:]
        return []

    def flips(name: str) -> float:
        shares = [x for s in evidence_of(name) if math.isfinite(x := s("sign_flips"))]
        return over(sum(shares), len(shares))

    def measure(name: str) -> float:
        return -history.typical(name, "gradient_cosine") if flips(name) > most else NAN

    for name, opposed, seen in history.ranked(measure, above=limit):
        share = flips(name)
        sentence = (
            f"{name} oscillates: {percent(share)} of its gradient changes sign from one step to the next (cosine "
            f"{-opposed:.2f}), and the steps undo each other."
        )
        mu = seen("momentum")
        how = "narrows with it" if mu else "is about η/2 wide"
        cause = f"the curvature, divided by d, has reached the edge of stability, {_edge(seen)} with η = {seen('lr'):g}"
        advice = f"let lr fall to 0 at the end: the oscillation {how}"
        changes = ({"lr": lower(history.rate(name))},)
        evidence = seen.numbers("lr", "momentum", "update_ratio") | {"gradient_cosine": -opposed, "sign_flips": share}
        threshold = (
            f"cosine of successive gradients below −{limit:g}, {MEDIAN}, and more than {percent(most)} of the signs, "
            f"their mean; of fewer than {few} elements, below 0 in {RECENT} of {RECENT} records or {needed} of {many}"
        )
        yield Finding(
            kind="oscillation",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            advice=advice,
            changes=changes,
        )


def _edge(seen: Observation) -> str:
    """Return the edge of stability: the curvature, divided by d, at which steps only just undo each other."""
    mu, psi = seen("momentum"), seen.group.get("momentum_decay", 0.0)
    if not mu:
        return "2/η"
    if psi:  # NAdam: n = μₜ₊₁·b + (1−μₜ)·g
        now = mu * (1 - 0.5 * 0.96 ** (psi * (seen.age + 1)))
        return f"2(1+μ)/((1+μ−2μ·μₜ)·η) at μₜ = {now:.3g}"
    # An average of gradients is 1−μ times their sum.
    factors = ["(1+2μ)"] * bool(seen.group["nesterov"]) + ["(1−μ)"] * bool(seen.group.get("first_moment"))
    return f"2(1+μ)/({'·'.join([*factors, 'η'])})" if factors else "2(1+μ)/η"


def clipping(history: History) -> Iterator[Finding]:
    """Find gradients that always have the same norm: every step clips them."""
    most, close, several = 0.9, 1e-3, 5
    norms = [r["gradient_norm"] for r in history.records if r["gradient_norm"]]
    usual = typical(norms)
    same = sum(abs(x - usual) <= close * usual for x in norms)
    if len(norms) < several or same < most * len(norms) or not _varies(history):
        return
    sentence = f"The gradient's norm is {usual:.4g} in {same} of {len(norms)} records: it is clipped in every step."
    cause = (
        "before clipping the norm is always above the threshold; a factor common to all gradients then cancels in the "
        "division by d, up to ε: such clipping changes little and bounds no step"
    )
    advice = "clip at a norm above the usual one of unclipped gradients, for spikes only, or not at all"
    evidence = {"gradient_norm": usual, "records": len(norms), "records_alike": same}
    threshold = f"{percent(most)} of at least {several} norms within {close:g} of their median"
    yield Finding(
        kind="clipping",
        tensor=None,
        step=history.records[-1]["step"],
        sentence=sentence,
        cause=cause,
        evidence=evidence,
        threshold=threshold,
        advice=advice,
    )


def _varies(history: History) -> bool:
    """Return whether gradients differ between records in more than a common factor and the sign."""
    for seen in history.tensors.values():
        sizes = [x for s in seen if (x := s("gradient_rms")) > 0]
        if (sizes and max(sizes) > 1.01 * min(sizes)) or any(abs(s("gradient_cosine")) < 0.99 for s in seen):
            return True
    return False


def dead_rows(history: History) -> Iterator[Finding]:
    """Find rows, such as units or entries of an embedding, that no gradient reaches."""
    limit, newest = 0.25, 5

    def all_dead(name: str) -> bool:
        recent = history.recent(name)
        return len(recent) >= SEVERAL and all(s("zero_gradient_share") == 1 for s in recent[-newest:])

    def measure(name: str) -> float:
        shares = [over(s("dead_rows"), s("rows")) for s in history.recent(name)]
        several = sum(map(math.isfinite, shares)) >= SEVERAL and math.isfinite(shares[-1])
        return 1.0 if all_dead(name) else min(shares[-1], typical(shares)) if several else NAN

    for name, _, seen in history.ranked(measure, above=limit):
        known = int(min(_steps_to_forget(seen("decay")), seen.age + 1))
        dead, rows = seen("dead_rows"), seen("rows")
        have = "has" if dead == 1 else "have"
        some = (
            f"{dead:.0f} of the {counted(f'{rows:.0f}', 'row')} of {name} ({percent(over(dead, rows))}) {have} had no "
            f"gradient, or none above a millionth of the tensor's, for {counted(known, 'step')}."
        )
        sentence = f"No gradient reaches {name}." if all_dead(name) else some
        cause = "units that are never active, such as ReLUs whose input was pushed below 0, or entries never looked up"
        once = history.tensors[name][0]("gradient_rms") > 0 and all_dead(name)  # it had a gradient, and lost it
        changes = ({"lr": lower(history.rate(name))},) if once else ()
        advice = "an activation with a slope below 0" + ("" if once else "; or remove rows that are never used")
        evidence = seen.numbers("dead_rows", "rows", "zero_gradient_share")
        threshold = (
            f"more than {percent(limit)} of the rows without gradient, and with √v at most 1e-6 of the tensor's, "
            f"{MEDIAN} and in the newest; or no element with a gradient in the newest {newest}; of {SEVERAL} records "
            "at least"
        )
        yield Finding(
            kind="dead rows",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=evidence,
            threshold=threshold,
            advice=advice,
            changes=changes,
        )


def _steps_to_forget(decay: float) -> int:
    """Return the number of steps without a gradient in which √v falls to 1e-6 of its value."""
    return math.ceil(math.log(1e-12) / math.log(decay)) if decay else 1
