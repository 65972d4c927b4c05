"""What a record of a step holds beside `statistics.describe`: how gradients changed, dead rows, and the whole of it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rmsprop.statistics import COLUMNS

Array = npt.NDArray[Any]

SAMPLE = 256  # elements of a gradient that are compared with those of the step before
DEAD = 1e-6  # of the root of a tensor's mean v
ZERO = COLUMNS.index("zero")
_GRADIENT, _UPDATE = COLUMNS.index("gradient_sq"), COLUMNS.index("update_sq")


@lru_cache(maxsize=4096)  # a model's tensors, whose numbers of elements stay
def stride(elements: int) -> int:
    """Return the distance of the elements in a sample, of which there are at most SAMPLE.

    It shares no factor with their number nor, therefore, with the length of a row: all columns of a matrix come up.
    """
    distance = max(1, -(-elements // SAMPLE))
    while math.gcd(distance, elements) > 1:
        distance += 1
    return distance


def reals(x: Array) -> npt.NDArray[np.float64]:
    """Return an array in float64, a complex one with the two parts of its elements in a last dimension."""
    x = np.stack([x.real, x.imag], -1) if np.iscomplexobj(x) else x
    return x.astype(np.float64)


def sample(gradient: Array) -> npt.NDArray[np.float64]:
    """Return some elements of a gradient, always the same ones."""
    numbers = reals(gradient).reshape(-1)
    return numbers[:: stride(len(numbers))]


def changes(
    now: npt.NDArray[np.float64], before: npt.NDArray[np.float64], starts: list[int]
) -> list[dict[str, float | None]]:
    """Return how samples of gradients differ from the same elements one step before, for each tensor.

    The samples of a tensor begin at its place in `starts` and are not empty. `gradient_cosine` is the cosine of the
    angle between the two, `sign_flips` the share of the elements, among those that are 0 in neither, whose sign has
    changed. None where there is no such number: where a gradient is 0, or not finite, or its square is not in double.
    """
    if not starts:
        return []
    with np.errstate(all="ignore"):
        product = now * before
        terms = np.array([product, now * now, before * before, product < 0, product > 0])
        sums = np.add.reduceat(terms, starts, 1)
    told = []
    for dot, square, square_before, flips, kept in sums.T.tolist():
        length = math.sqrt(square) * math.sqrt(square_before)
        is_known = 0 < length < math.inf and math.isfinite(dot)
        shares = flips / (flips + kept) if flips + kept else None
        told.append({"gradient_cosine": dot / length, "sign_flips": shares} if is_known else UNKNOWN)
    return told


UNKNOWN: dict[str, float | None] = {"gradient_cosine": None, "sign_flips": None}


def dead_rows(gradient: Array, square_avg: Array) -> int:
    """Return how many rows have a gradient of 0 everywhere and √v at most DEAD times the root of the mean of v."""
    if not gradient.size:
        return 0
    still = ~(gradient != 0).reshape(len(gradient), -1).any(1)
    v = reals(square_avg).reshape(len(square_avg), -1)
    return int(np.count_nonzero(still & (v.max(1) <= DEAD**2 * v.mean())))


def assemble(
    step: int,
    groups: list[dict[str, Any]],
    tensors: dict[str, dict[str, Any]],
    sums: Array,
    nonfinite_steps: int,
    skipped_steps: int = 0,
) -> dict[str, Any]:
    """Return the record of a step; `sums` has a row for each of `tensors`."""
    gradient_sq, update_sq = sum(sums[:, _GRADIENT].tolist()), sum(sums[:, _UPDATE].tolist())
    return {
        "kind": "statistics",
        "step": step,
        "groups": groups,
        "tensors": tensors,
        "gradient_norm": math.sqrt(gradient_sq) if math.isfinite(gradient_sq) else None,
        "update_norm": math.sqrt(update_sq) if math.isfinite(update_sq) else None,
        "nonfinite_steps": nonfinite_steps,
        "skipped_steps": skipped_steps,
    }
