"""Types of a record, and the numbers in it that `statistics.describe` does not compute."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from rmsprop.statistics import COLUMNS

Array = npt.NDArray[Any]


class EffectiveLR(TypedDict):
    """A histogram of effective learning rates: counts[i] is the number in (lr·2⁻ᵉ⁻¹, lr·2⁻ᵉ], e = first + i."""

    lr: float
    first: int
    counts: list[int]


class Description(TypedDict):
    """What `rmsprop.monitor.statistics.describe` returns for a tensor. None: unknown or not finite."""

    elements: int  # a complex element counts as two
    gradient_rms: float | None  # root mean square
    update_rms: float | None
    parameter_rms: float | None
    update_ratio: float | None  # update_rms/parameter_rms
    history_rms: float | None  # √(mean v) before the step
    largest_update: float | None
    eps_share: float | None  # share of the elements
    floor_share: float | None
    nonfinite: int  # number of elements
    zero_gradient_share: float | None
    unchanged_share: float | None
    signal_to_noise: float | None  # Σm̂²/Σs, centered only
    effective_lr: EffectiveLR | None
    effective_lr_median: float | None  # to a factor of √2


class Change(TypedDict):
    """How a gradient differs from the gradient one step before."""

    gradient_cosine: float | None
    sign_flips: float | None


class Stored(TypedDict, total=False):
    """How a tensor and its square_avg are stored. Older records have dtypes of whole groups only."""

    dtype: str
    state_dtype: str
    age: int  # steps of this tensor before this one


class TensorRecord(Stored, Description, Change):
    """One tensor in a record."""

    group: int
    shape: list[int]
    dead_rows: int | None
    rows: int | None  # None for a tensor without rows


class GroupRecord(TypedDict):
    """A parameter group in a record. It holds every field of its `Rule`; this type lists those that findings read."""

    lr: float
    decay: float
    eps: float
    momentum: float
    weight_decay: float
    centered: bool
    nesterov: bool
    eps_inside_sqrt: bool
    initial_square_avg: float
    bias_correction: bool
    decoupled_weight_decay: bool
    state_dtype: str | None
    param_dtype: str | None
    stochastic_rounding: bool
    nonfinite: NotRequired[str]
    first_moment: NotRequired[bool]  # older records lack this and the next two
    momentum_decay: NotRequired[float]
    amsgrad: NotRequired[bool]


class Record(TypedDict):
    """What a monitor measured in one step, in plain values that JSON can hold."""

    kind: str  # "statistics"
    step: int
    groups: list[GroupRecord]
    tensors: dict[str, TensorRecord]
    gradient_norm: float | None
    update_norm: float | None
    nonfinite_steps: NotRequired[int]  # so far
    skipped_steps: NotRequired[int]


SAMPLE = 256  # elements of a gradient that are compared with the step before
DEAD = 1e-6  # √v of a dead row, relative to √(mean v) of its tensor
ZERO, NONFINITE = COLUMNS.index("zero"), COLUMNS.index("nonfinite")
_GRADIENT, _UPDATE = COLUMNS.index("gradient_sq"), COLUMNS.index("update_sq")


@lru_cache(maxsize=4096)  # enough for the sizes of a model's tensors
def stride(elements: int) -> int:
    """Return the stride with which a sample takes at most SAMPLE of `elements`.

    The stride shares no factor with the number of elements, nor with the length of a row. So the sample is spread over
    the columns of a matrix.
    """
    distance = max(1, -(-elements // SAMPLE))
    while math.gcd(distance, elements) > 1:
        distance += 1
    return distance


def reals(x: Array) -> npt.NDArray[np.float64]:
    """Convert an array to float64; real and imaginary parts become a last dimension."""
    x = np.stack([x.real, x.imag], -1) if np.iscomplexobj(x) else x
    return x.astype(np.float64)


def sample(gradient: Array) -> npt.NDArray[np.float64]:
    """Return elements of a gradient, at the same offsets in every step."""
    numbers = reals(gradient).reshape(-1)
    return numbers[:: stride(len(numbers))]


def changes(now: npt.NDArray[np.float64], before: npt.NDArray[np.float64], starts: list[int]) -> list[Change]:
    """Compare samples of gradients with the same elements one step before, tensor by tensor.

    `starts` are the offsets of the tensors' samples; no sample is empty. `gradient_cosine` is the cosine of the angle
    between the two gradients. `sign_flips` is the share of sign changes among the elements that are 0 in neither. Both
    are None if a gradient is 0, is not finite, or has squares beyond the range of double.
    """
    if not starts:
        return []
    with np.errstate(all="ignore"):
        product = now * before
        terms = np.array([product, now * now, before * before, product < 0, product > 0])
        sums = np.add.reduceat(terms, starts, 1)
    compared: list[Change] = []
    for dot, square, square_before, flips, kept in sums.T.tolist():
        length = math.sqrt(square) * math.sqrt(square_before)
        is_known = 0 < length < math.inf and math.isfinite(dot)
        shares = flips / (flips + kept) if flips + kept else None
        compared.append({"gradient_cosine": dot / length, "sign_flips": shares} if is_known else UNKNOWN)
    return compared


UNKNOWN: Change = {"gradient_cosine": None, "sign_flips": None}


def dead_rows(gradient: Array, square_avg: Array) -> int:
    """Count the rows whose gradient is 0 and whose √v is at most DEAD times √(mean v) of the tensor."""
    if not gradient.size:
        return 0
    still = ~(gradient != 0).reshape(len(gradient), -1).any(1)
    v = reals(square_avg).reshape(len(square_avg), -1)
    return int(np.count_nonzero(still & (v.max(1) <= DEAD**2 * v.mean())))


def assemble(
    step: int,
    groups: list[GroupRecord],
    tensors: dict[str, TensorRecord],
    sums: Array,
    nonfinite_steps: int,
    skipped_steps: int = 0,
) -> Record:
    """Build the record of a step; `sums` has a row for each of `tensors`."""
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
