"""Claims from a user's Python file."""

from __future__ import annotations

from pathlib import Path

from rmsprop.errors import InputError, Received
from rmsprop.lab.claims.claim import Claim
from rmsprop.lab.find_task import import_file


def claims_in(path: Path) -> list[Claim]:
    """Return the claims that a file defines: every Claim at its top, and those of lists and tuples there.

    Raises
    ------
    InputError
        If the file cannot be imported, has no Claim, or has two of one name.
    """
    found: list[Claim] = []
    for value in vars(import_file(path, "the file of claims")).values():
        values = value if isinstance(value, list | tuple) else [value]
        found += [each for each in values if isinstance(each, Claim) and each not in found]
    if not found:
        remedy = "see docs/claims.md for one"
        raise InputError(
            f"the file of claims {path}", "one that defines a rmsprop.lab.claims.Claim", Received("none"), remedy
        )
    names = [claim.name for claim in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"names of claims in {path}", "different ones", Received(f"{name!r} twice"), "rename one")
    return found
