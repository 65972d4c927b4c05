"""Results that come with the package: of every claim, and of the comparisons that decide those on trainings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rmsprop.lab.claims.catalogue import CLAIMS, AnyClaim
from rmsprop.lab.claims.result import Result
from rmsprop.lab.claims.trainings import TrainingClaim

RESULTS = Path(__file__).with_name("results.json")


@cache
def stored() -> dict[str, Any]:
    """Return the file: "results" by claim, "comparisons" by task, "date" and "environment"."""
    facts: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return facts


def stored_results() -> dict[str, Result]:
    """Return the stored result of each claim that has one."""
    return {name: Result.of(facts) for name, facts in stored()["results"].items() if name in CLAIMS}


def comparison_key(task: str, ablate: bool) -> str:
    """Return the key of a comparison in the file.

    >>> comparison_key("digits", ablate=True)
    'digits --ablate'
    """
    return f"{task} --ablate" if ablate else task


def budget(task: str, ablate: bool) -> dict[str, Any]:
    """Return the options of the stored comparison that set how long it trains."""
    facts = stored()["comparisons"].get(comparison_key(task, ablate), {})
    return {name: facts[name] for name in ("quick", "epochs") if name in facts}


def from_comparisons(claim: TrainingClaim, comparisons: Mapping[str, Any]) -> Result:
    """Judge a claim on trainings by stored comparisons."""
    own = {task: comparisons[comparison_key(task, claim.ablate)] for task in claim.tasks}
    numbers = claim.numbers(own)
    seeds = tuple(range(min(each["seeds"] for each in own.values())))
    return Result(claim.name, claim.judge(numbers), numbers, seeds, sum(each["seconds"] for each in own.values()))


def counts(verdicts: Sequence[str]) -> dict[str, int]:
    """Return how many verdicts are true, false, true only if …, and undecided.

    >>> counts(["true", "true only if β = 0", "true"])
    {'true': 2, 'true only if …': 1, 'false': 0, 'undecided': 0}
    """
    kinds = {"true": "true", "false": "false"}
    found = [kinds.get(v) or ("true only if …" if v.startswith("true only if") else "undecided") for v in verdicts]
    return {kind: found.count(kind) for kind in ("true", "true only if …", "false", "undecided")}


def stored_seconds(claim: AnyClaim) -> float | None:
    """Return how long the stored run of a claim took."""
    facts = stored()["results"].get(claim.name)
    return None if facts is None else facts["seconds"]
