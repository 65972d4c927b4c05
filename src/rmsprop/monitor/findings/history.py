"""The history of a run that findings read: its records, and the observations of each tensor in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from statistics import median
from typing import Any, Literal, NamedTuple

from rmsprop.monitor.record import GroupRecord, Record, TensorRecord

RECENT = 10  # newest records of a tensor, by which lasting conditions are judged
SEVERAL = 3  # the least number of records, or tensors, that can be compared
OUTLIER = 100.0  # a gradient this many times smaller than others may be noise
MEDIAN = f"median of the newest {RECENT} records"
NAN = math.nan  # a missing number: it exceeds no threshold


class Observation(NamedTuple):
    """One tensor in one record."""

    step: int
    group: GroupRecord
    values: TensorRecord

    def __call__(self, name: str) -> float:
        """Return a statistic of the tensor, else a number of its group; NaN if it is missing or not finite."""
        value = self.values.get(name, self.group.get(name))
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else NAN

    def numbers(self, *names: str) -> dict[str, Any]:
        """Return several numbers by name."""
        return {name: self(name) for name in names}

    @property
    def age(self) -> float:
        """Steps of this tensor before this one: fewer than those of the run if it joined late."""
        return max(0.0, self("age")) if "age" in self.values else self.step - 1.0

    def stored_as(self, name: Literal["dtype", "state_dtype"]) -> str:
        """Return the tensor's "dtype" or "state_dtype"; in records without them, the dtypes of its group."""
        dtype = self.values.get(name) or self.group["param_dtype" if name == "dtype" else "state_dtype"]
        return dtype or ""

    @property
    def inverse_gain(self) -> float:
        """Inverse of the factor that momentum gives a constant gradient: 1−μ; 1 where it averages gradients."""
        return 1.0 if self.group.get("first_moment") else 1 - self("momentum")

    @property
    def active_share(self) -> float:
        """Share of the elements that have a gradient in this step; NaN if none has."""
        return 1 - self("zero_gradient_share") or NAN

    @property
    def eps_share(self) -> float:
        """Lower bound of the share that ε governs, among the elements with a gradient.

        Elements without a gradient in this step are skipped: their v may be 0, and ε then governs them in any healthy
        run.
        """
        return (self("eps_share") - self("zero_gradient_share")) / self.active_share

    @property
    def divisor(self) -> float:
        """Median of d, to a factor of √2, over the elements that ε does not govern: those with the largest d."""
        histogram = self.values.get("effective_lr")
        if histogram is None:
            return NAN
        governed = self("eps_share") * self("elements")
        skipped = round(governed) if math.isfinite(governed) else 0
        left = sum(histogram["counts"]) - skipped
        counted = 0
        for exponent, count in enumerate(histogram["counts"], start=histogram["first"]):
            counted += count
            if left > 0 and counted >= skipped + left / 2:
                return float(2.0 ** (exponent + 0.5))
        return NAN


class History:
    """The records of a run, and the tensors in them.

    Parameters
    ----------
    records
        In the order of their steps. Records of other kinds than "statistics" are ignored.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = [record for record in records if record.get("kind") == "statistics"]
        self.tensors: dict[str, list[Observation]] = {}
        for record in self.records:
            for name, values in record["tensors"].items():
                seen = Observation(record["step"], record["groups"][values["group"]], values)
                self.tensors.setdefault(name, []).append(seen)

    def recent(self, name: str, most: int = RECENT) -> list[Observation]:
        """Return the newest observations of a tensor, without the unusual step 1 if there are others."""
        seen = self.tensors[name]
        return ([s for s in seen if s.step > 1] or seen)[-most:]

    def typical(self, name: str, value: str | Callable[[Observation], float]) -> float:
        """Return the median of a number over the recent records of a tensor in which it is finite."""
        return typical((s(value) if isinstance(value, str) else value(s)) for s in self.recent(name))

    def rate(self, name: str) -> float:
        """Return the largest learning rate of a tensor: its option, if a schedule lowers the rate."""
        return max((lr for s in self.tensors[name] if math.isfinite(lr := s("lr"))), default=NAN)

    @cached_property
    def cancelled(self) -> set[str]:
        """Names of biases whose gradient is at most a hundredth of the gradient of a weight beside them.

        A bias before BatchNorm, or of attention's keys, has zero gradient up to rounding: later operations subtract it,
        and its value changes nothing. A weight is beside a bias if both belong to the same module, the weight has two
        dimensions or more, and one of these is as long as the bias.
        """
        weights: dict[tuple[str, int], float] = {}
        gradients = {name: self.typical(name, "gradient_rms") for name in self.tensors}
        shapes = {name: seen[-1].values["shape"] for name, seen in self.tensors.items()}
        for name, shape in shapes.items():
            for length in shape if len(shape) > 1 else ():
                key = _beginning(name), length
                weights[key] = max(weights.get(key, 0.0), gradients[name])
        return {
            name for name, shape in shapes.items()
            if len(shape) == 1 and 0 < weights.get((_beginning(name), shape[0]), 0.0) >= OUTLIER * gradients[name]
        }  # fmt: skip

    @cached_property
    def median_gradient(self) -> float:
        """Median over tensors of the gradient's root mean square; NaN for fewer than SEVERAL tensors."""
        names = [name for name in self.tensors if name not in self.cancelled]
        return typical(self.typical(name, "gradient_rms") for name in names) if len(names) >= SEVERAL else NAN

    def ranked(
        self, measure: Callable[[str], float], *, above: float, matrices: bool = False
    ) -> Iterator[tuple[str, float, Observation]]:
        """Yield name, value and newest observation of the tensors whose value is above a threshold, the largest first.

        `cancelled` biases are skipped. With `matrices`, all tensors of fewer than two dimensions are skipped: biases
        may start at 0, and scales are few.
        """
        found = [(measure(name), name) for name, seen in self.tensors.items()
                 if name not in self.cancelled and (not matrices or len(seen[-1].values["shape"]) >= 2)]  # fmt: skip
        for value, name in sorted(((v, n) for v, n in found if v > above), key=lambda pair: -pair[0]):
            yield name, value, self.tensors[name][-1]


def _beginning(name: str) -> str:
    """Return the name of a tensor's module: its own name without the last part."""
    return name[: max(name.rfind("."), name.rfind("/")) + 1]


def typical(values: Iterable[float]) -> float:
    """Return the median of the finite values, NaN if there are none."""
    numbers = [x for x in values if math.isfinite(x)]
    return median(numbers) if numbers else NAN


def over(a: float, b: float) -> float:
    """Return a/b, NaN if that is not finite."""
    quotient = a / b if b else NAN
    return quotient if math.isfinite(quotient) else NAN


def square(x: float) -> float:
    """Return x², infinite on overflow, where x**2 would raise."""
    return x * x
