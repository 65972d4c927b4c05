"""Findings about weight decay: L2 decay that shrinks parameters at a rate other than η·λ, or hardly acts.

The function takes the history of a run and yields its findings, the worst tensor first; see `gradients`.
"""

from __future__ import annotations

from collections.abc import Iterator

from rmsprop.monitor.findings.finding import Finding, percent, rounded
from rmsprop.monitor.findings.history import MEDIAN, NAN, History, Observation, over, square


def weight_decay(history: History) -> Iterator[Finding]:
    """Find L2 decay that shrinks parameters at a rate other than η·λ, or hardly acts on them."""
    most_apart, least_pull, weak_pull = 10.0, 0.01, 0.001

    def divisor(name: str) -> float:
        """Return d by which a constant gradient is divided, momentum included."""
        seen = history.tensors[name][-1]
        coupled = seen("weight_decay") > 0 and not seen.group["decoupled_weight_decay"]
        by_v = not history.typical(name, lambda s: s.eps_share) > 0.5  # where ε governs, SGD decays as it should
        return history.typical(name, lambda s: s.divisor * s.inverse_gain) if coupled and by_v else NAN

    def pull(name: str) -> float:
        return history.typical(name, lambda s: over(s("weight_decay") * s("parameter_rms"), s("gradient_rms")))

    def apart(name: str) -> float:
        d = divisor(name)
        return max(d, over(1.0, d)) if pull(name) >= least_pull else NAN

    def weakness(name: str) -> float:
        return over(1.0, pull(name)) if divisor(name) > 0 else NAN

    def evidence(name: str, seen: Observation) -> dict[str, float]:
        return seen.numbers("lr", "weight_decay") | {
            "shrinkage": over(seen("lr") * seen("weight_decay"), divisor(name)),
            "lr_times_weight_decay": seen("lr") * seen("weight_decay"),
            "d": over(divisor(name), seen.inverse_gain),
            "momentum": seen("momentum"),
            "share_of_gradient": pull(name),
        }

    off_rate = list(history.ranked(apart, above=most_apart, matrices=True))
    for name, times, seen in off_rate:
        numbers = evidence(name, seen)
        d, nominal = divisor(name), numbers["lr_times_weight_decay"]
        sentence = (
            f"L2 decay shrinks {name} by {nominal / d:.2g} of itself in a step: {times:.3g} times "
            f"{'as much as' if d < 1 else 'less than'} η·λ = {nominal:.2g}; λ·p is {percent(pull(name))} of the "
            "gradient."
        )
        buffer = f"; the buffer makes 1/(1−μ) = {1 / seen.inverse_gain:.3g} of 1" if seen.inverse_gain != 1 else ""
        cause = (
            f"λ·p is part of g, so it is divided by d: by {numbers['d']:.2g} here, by other numbers in other "
            f"elements{buffer}"
        )
        changes = (
            {"decoupled_weight_decay": True},  # every element shrinks by η·λ
            {"decoupled_weight_decay": True, "weight_decay": rounded(seen("weight_decay") / d)},  # at the current rate
        )
        threshold = (
            f"shrinkage {most_apart:g} times η·λ or a tenth of it, λ·p at least {percent(least_pull)} of g, {MEDIAN}"
        )
        yield Finding(
            kind="weight decay",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=numbers,
            threshold=threshold,
            changes=changes,
        )
    for name, times, seen in [] if off_rate else history.ranked(weakness, above=1 / weak_pull, matrices=True):
        numbers = evidence(name, seen)
        sentence = (
            f"L2 decay does next to nothing to {name}: λ·p is {percent(1 / times)} of its gradient, and shrinks it by "
            f"{numbers['shrinkage']:.2g} of itself in a step."
        )
        cause = (
            "λ·p is part of g and has that share of each step; if the rest is noise, it moves parameters further than "
            f"decay does for 1/share² = {square(times):.2g} steps"
        )
        changes = ({"decoupled_weight_decay": True}, {"weight_decay": 0.0})
        threshold = f"λ·p less than {percent(weak_pull)} of g, {MEDIAN}"
        yield Finding(
            kind="weight decay",
            tensor=name,
            step=seen.step,
            sentence=sentence,
            cause=cause,
            evidence=numbers,
            threshold=threshold,
            changes=changes,
        )
