"""Run a claim: measure its numbers over seeds, judge them, and check that another rule changes them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmsprop.errors import InputError, Received
from rmsprop.lab.claims.claim import Claim, Number, Seeds
from rmsprop.lab.user_code import described_error
from rmsprop.rule import Rule

# Changes of the rule for a claim that names none. One of them must change a number.
_CHANGES: tuple[Mapping[str, Any], ...] = (
    {"decay": 0.5}, {"eps": 1.0}, {"bias_correction": True}, {"initial_square_avg": 1.0}, {"momentum": 0.5},
    {"centered": True}, {"weight_decay": 0.1}, {"lr": 1.0}, {"maximize": True}, {"amsgrad": True},
)  # fmt: skip
_SAME = 1e-9  # relative difference of numbers that count as equal


@dataclass(frozen=True)
class Result:
    """The numbers of a claim, and the verdict on them. `seconds` are those of the processor."""

    name: str
    verdict: str
    numbers: dict[str, Number]
    seeds: Seeds
    seconds: float

    def facts(self) -> dict[str, Any]:
        """Return the result for JSON."""
        numbers = {name: list(number) for name, number in self.numbers.items()}
        return {**vars(self), "numbers": numbers, "seeds": list(self.seeds)}

    @staticmethod
    def of(facts: Mapping[str, Any]) -> Result:
        """Return the result that `facts` has written. JSON has null for a number that is not finite."""
        numbers = {
            name: Number(*(math.nan if value is None else value for value in values))
            for name, values in facts["numbers"].items()
        }
        seeds = tuple(facts["seeds"])
        return Result(facts["name"], facts["verdict"], numbers, seeds, facts["seconds"])


def run_claim(claim: Claim, *, seed: int = 0, rule: Rule | None = None) -> Result:
    """Measure a claim with the seeds from `seed` on, and judge it.

    Parameters
    ----------
    claim
        The claim.
    seed
        The first of `claim.seeds` seeds.
    rule
        A rule in place of the claim's.

    Raises
    ------
    InputError
        If the claim's function fails, or returns no number that a bound names.
    """
    seeds = tuple(range(seed, seed + claim.seeds))
    began = time.process_time()
    try:
        with np.errstate(all="ignore"):
            measured = dict(claim.measure(claim.rule if rule is None else rule, seeds))
            numbers = {name: Number.over(values, len(seeds)) for name, values in measured.items()}
    except Exception as error:
        allowed = "one that runs, and returns numbers by name"
        raise InputError(f"measure of claim {claim.name}", allowed, described_error(error), "correct it") from error
    missing = [bound.number for bound in claim.bounds if bound.number not in numbers]
    if missing:
        returned = Received(", ".join(map(repr, numbers)) or "none")
        raise InputError(
            f"numbers of claim {claim.name}", f"those of its bounds: {missing[0]!r}", returned, "rename one"
        )
    return Result(claim.name, claim.judge(numbers), numbers, seeds, time.process_time() - began)


def run_changed(claim: Claim, *, seed: int = 0) -> Result:
    """Measure a claim under the rule with `claim.changed`."""
    return run_claim(claim, seed=seed, rule=_changed_rule(claim, claim.changed))


def _changed_rule(claim: Claim, change: Mapping[str, Any]) -> Rule:
    unknown = [name for name in change if name not in vars(claim.rule)]
    if unknown:
        raise InputError(f"changed of claim {claim.name}", "fields of Rule", unknown[0], "see rmsprop.Rule")
    return dataclasses.replace(claim.rule, **change)


def check_can_fail(claim: Claim, result: Result) -> None:
    """Raise InputError unless a changed rule changes the verdict or a number of `result`.

    A claim whose numbers no rule moves says nothing of RMSprop.
    """
    for change in [claim.changed] if claim.changed else _CHANGES:
        try:
            other = run_claim(claim, seed=result.seeds[0], rule=_changed_rule(claim, change))
        except InputError:
            if claim.changed:
                raise
            continue  # a rule that this claim cannot run
        if other.verdict != result.verdict or _differ(result.numbers, other.numbers):
            return
    how = f"changed={dict(claim.changed)}" if claim.changed else "another rule"
    allowed = f"numbers that {how} changes"
    raise InputError(
        f"claim {claim.name}", allowed, Received("the same numbers"), "let measure use the rule it receives"
    )


def _differ(first: Mapping[str, Number], second: Mapping[str, Number]) -> bool:
    return any(
        not math.isclose(number.mean, second[name].mean, rel_tol=_SAME, abs_tol=1e-300)
        for name, number in first.items()
        if name in second
    )
