"""A claim: a sentence, its source, the function that measures it, and the rule by which numbers become a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rmsprop.errors import require
from rmsprop.lab.intervals import paired_interval
from rmsprop.rule import Rule

TRUE, FALSE, UNDECIDED, ONLY_IF = "true", "false", "undecided at this budget", "true only if "
CONFIDENCE = 0.95  # of the interval of each number over the seeds
GROUPS = ("arithmetic", "convergence", "noise", "comparisons", "engineering")

Floats: TypeAlias = NDArray[np.float64]
Seeds: TypeAlias = tuple[int, ...]
Measured: TypeAlias = Mapping[str, Any]  # a value, or an array with a value for each seed, by the number's name
Status: TypeAlias = Literal["holds", "fails", "open"]


class Source(NamedTuple):
    """Where a sentence stands."""

    title: str
    where: str  # URL, arXiv number, or chapter


class Number(NamedTuple):
    """A measured number: mean over the seeds and its interval."""

    mean: float
    low: float
    high: float

    @staticmethod
    def over(values: Any, seeds: int) -> Number:
        """Return the mean of one value per seed, with Student's interval; if a value is not finite, the range."""
        each = [float(value) for value in np.broadcast_to(np.asarray(values, dtype=float), (seeds,))]
        if any(math.isnan(value) for value in each):
            return Number(math.nan, math.nan, math.nan)
        mean, interval = paired_interval(each, CONFIDENCE)
        if mean is None or interval is None:
            return Number(float(np.median(each)), min(each), max(each))
        return Number(mean, *interval)


class Bound(NamedTuple):
    """A number must lie from `low` to `high`."""

    number: str
    low: float = -math.inf
    high: float = math.inf

    def status(self, measured: Number) -> Status:
        """Return "holds" if the whole interval lies within the bound, "fails" if all of it lies outside."""
        if math.isnan(measured.mean):
            return "open"
        if self.low <= measured.low and measured.high <= self.high:
            return "holds"
        return "fails" if measured.high < self.low or measured.low > self.high else "open"


def near(number: str, value: float, tolerance: float) -> Bound:
    """Return the bound `value` ± `tolerance`.

    >>> near("step", 10.0, 0.5)
    Bound(number='step', low=9.5, high=10.5)
    """
    return Bound(number, value - tolerance, value + tolerance)


class Line(NamedTuple):
    """A line of a picture."""

    label: str
    x: Any
    y: Any


class Picture(NamedTuple):
    """What a picture of a claim shows; `lab.report.claims` draws it."""

    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    caption: str
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Statement:
    """What a claim says, where it stands, and the bounds that its numbers must keep."""

    name: str
    sentence: str
    source: Source
    expected: str
    says: tuple[Bound, ...]
    group: str = "own"
    notes: str = ""

    def __post_init__(self) -> None:
        require(bool(self.says), f"says of claim {self.name}", "one Bound or more", self.says, "bound a number")


@dataclass(frozen=True, eq=False, kw_only=True)
class Claim(Statement):
    """A sentence about RMSprop that can be run in seconds and judged.

    Parameters
    ----------
    name
        Short name for the command line.
    sentence
        What is claimed, in one sentence.
    source
        Title and place of the claim, or of the theorem behind it.
    expected
        What is expected, and why.
    rule
        The rule that `measure` receives.
    measure
        Called with a rule and a tuple of seeds. Returns a dict: the name of each number, and an array with its value
        for each seed, or one value if no seed changes it.
    says
        What the sentence says of the numbers. It is true if every bound holds for the whole interval over the seeds.
    changed
        Fields of the rule under which the verdict is another one. A claim that no change of the rule moves is refused.
    only_if, where
        A condition in words, and bounds that hold under it. If the sentence fails and these hold, the verdict is "true
        only if …".
    picture
        Called with the rule; returns the Picture.
    seeds
        Number of seeds of a run.
    group
        The group that lists the claim.
    notes
        What the numbers mean, in a sentence.
    """

    rule: Rule
    measure: Callable[[Rule, Seeds], Measured]
    changed: Mapping[str, Any] = field(default_factory=dict)
    only_if: str = ""
    where: tuple[Bound, ...] = ()
    picture: Callable[[Rule], Picture] | None = None
    seeds: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        both = bool(self.only_if) == bool(self.where)
        require(
            both, f"only_if and where of claim {self.name}", "given together", self.only_if, "give both, or neither"
        )
        require(self.seeds >= 2, f"seeds of claim {self.name}", "2 or more", self.seeds, "an interval needs two values")

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The bounds of the sentence and of its condition."""
        return (*self.says, *(bound for bound in self.where if bound not in self.says))

    def judge(self, numbers: Mapping[str, Number]) -> str:
        """Return the verdict on these numbers.

        True: every bound of `says` holds. Only if: one fails, and those of `where` hold. False: one fails. Undecided:
        an interval crosses its bound.
        """
        said = [bound.status(numbers[bound.number]) for bound in self.says]
        under = [bound.status(numbers[bound.number]) for bound in self.where]
        if "fails" in said:
            if under and all(status == "holds" for status in under):
                return f"{ONLY_IF}{self.only_if}"
            return UNDECIDED if "open" in under and "fails" not in under else FALSE
        return TRUE if all(status == "holds" for status in said) else UNDECIDED
