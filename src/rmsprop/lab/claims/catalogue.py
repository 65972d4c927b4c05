"""All claims by name, and the search for one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from types import MappingProxyType
from typing import TypeAlias

from rmsprop.errors import InputError
from rmsprop.lab.claims import (
    batches,
    comparisons,
    counterexamples,
    decay_and_clipping,
    engineering,
    epsilon,
    first_steps,
    landscapes,
    low_precision,
    memory,
    moving_targets,
    noise,
    other_optimizers,
    published,
    stability,
    trainings,
)
from rmsprop.lab.claims.claim import GROUPS, Claim
from rmsprop.lab.claims.trainings import TrainingClaim

AnyClaim: TypeAlias = Claim | TrainingClaim

_FILES = {
    "arithmetic": (first_steps, memory, epsilon, other_optimizers, published, decay_and_clipping),
    "convergence": (counterexamples, stability, landscapes, moving_targets),
    "noise": (noise, batches),
    "comparisons": (comparisons, trainings),
    "engineering": (engineering, low_precision),
}


def _all_claims() -> dict[str, AnyClaim]:
    found: dict[str, AnyClaim] = {}
    for group, files in _FILES.items():
        for file in files:
            for claim in file.CLAIMS:
                assert claim.name not in found, claim.name  # noqa: S101
                found[claim.name] = dataclasses.replace(claim, group=group)
    return found


CLAIMS = MappingProxyType(_all_claims())


def find_claims(names: Iterable[str]) -> list[AnyClaim]:
    """Return the claims of these names.

    Raises
    ------
    InputError
        If there is no claim of a name; the message has the nearest one.
    """
    found = []
    for name in names:
        if name not in CLAIMS:
            close = difflib.get_close_matches(name, CLAIMS, n=1)
            remedy = f"did you mean {close[0]}?" if close else "see rmsprop claims"
            raise InputError("claim", "one that rmsprop claims lists, or a file.py", name, remedy)
        found.append(CLAIMS[name])
    return found


def claims_of(group: str) -> list[AnyClaim]:
    """Return the claims of a group; InputError if there is no such group."""
    if group not in GROUPS:
        raise InputError("--group", f"one of {', '.join(GROUPS)}", group, "")
    return [claim for claim in CLAIMS.values() if claim.group == group]


def fast_claims() -> list[AnyClaim]:
    """Return the claims that need no training: all of them together end within two minutes."""
    return [claim for claim in CLAIMS.values() if isinstance(claim, Claim)]
