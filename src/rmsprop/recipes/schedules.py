"""Learning rates of published trainings: a schedule gives the fraction of the peak rate at every step from 0.

A step is one update of the optimizer; step 0 is the first. Each formula is written once: `xp` is `numpy` for Python
numbers and `jax.numpy` for JAX, jitted or not. Stairs are tables, computed in exact fractions and in double. In
float32, floor(step/2.4) is off by one at some steps, and 0.97 ** 2000 is wrong in the fifth digit.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Number: TypeAlias = Any  # a number, or a scalar array of NumPy or JAX
_END = 2**31  # above every step: JAX counts in int32
_NOTHING = 1e-30  # fraction of the peak; stairs end below it


class RunFacts(NamedTuple):
    """Facts of a run that a schedule needs."""

    peak: float  # the rate that fractions refer to
    steps_per_epoch: float | None = None  # need not be whole: images divided by the batch size
    total_steps: int | None = None


@dataclass(frozen=True)
class Constant:
    """The peak rate at every step."""

    needs: ClassVar[tuple[str, ...]] = ()

    def fraction(self, step: Number, run: RunFacts, xp: Any = np) -> Number:
        """Return 1."""
        return 1.0

    def words(self) -> str:
        """Return the schedule in words."""
        return "constant"


@dataclass(frozen=True)
class Linear:
    """From the peak at step 0 to 0 at step `total_steps`, and 0 from there on: max(0, 1 − step/total_steps)."""

    needs: ClassVar[tuple[str, ...]] = ("total_steps",)

    def fraction(self, step: Number, run: RunFacts, xp: Any = np) -> Number:
        """Return the rate at `step` as a fraction of the peak."""
        assert run.total_steps is not None  # noqa: S101 (Recipe asks for what the schedule needs)
        return xp.maximum(run.total_steps - step, 0) / run.total_steps

    def words(self) -> str:
        """Return the schedule in words."""
        return "falls linearly to 0 at total_steps, and stays there"


@dataclass(frozen=True)
class Cosine:
    """Half a cosine, from the peak at step 0 to 0 at step `total_steps`: (1 + cos(π·step/total_steps))/2."""

    needs: ClassVar[tuple[str, ...]] = ("total_steps",)

    def fraction(self, step: Number, run: RunFacts, xp: Any = np) -> Number:
        """Return the rate at `step` as a fraction of the peak."""
        assert run.total_steps is not None  # noqa: S101 (Recipe asks for what the schedule needs)
        return (1 + xp.cos(math.pi * xp.minimum(step / run.total_steps, 1.0))) / 2

    def words(self) -> str:
        """Return the schedule in words."""
        return "falls as half a cosine to 0 at total_steps, and stays there"


@dataclass(frozen=True)
class Steps:
    """The rate is multiplied by `factor` at each of the shares `at` of the run.

    Parameters
    ----------
    factor
        Factor of the rate, in (0, 1).
    at
        Shares of `total_steps`, ascending, between 0 and 1.
    """

    factor: float = 0.1
    at: tuple[float, ...] = (0.5, 0.75)

    needs: ClassVar[tuple[str, ...]] = ("total_steps",)

    def fraction(self, step: Number, run: RunFacts, xp: Any = np) -> Number:
        """Return the rate at `step` as a fraction of the peak."""
        assert run.total_steps is not None  # noqa: S101 (Recipe asks for what the schedule needs)
        steps = np.array([math.ceil(share * run.total_steps) for share in self.at], np.int32)
        fractions = np.array([self.factor**k for k in range(len(self.at) + 1)])
        return xp.asarray(fractions)[_count(steps, step, xp)]

    def words(self) -> str:
        """Return the schedule in words."""
        return f"× {self.factor:g} after {' and '.join(f'{share:.0%}' for share in self.at)} of total_steps"


@dataclass(frozen=True)
class Warmup:
    """A linear rise from peak/(steps + 1) over the first `steps` steps; then the schedule `then`, for the steps left.

    Step t < steps has the rate peak·(t + 1)/(steps + 1).
    """

    steps: int
    then: Constant | Linear | Cosine | Steps

    @property
    def needs(self) -> tuple[str, ...]:
        """What the schedule after the warm-up needs."""
        return self.then.needs

    def fraction(self, step: Number, run: RunFacts, xp: Any = np) -> Number:
        """Return the rate at `step` as a fraction of the peak."""
        left = None if run.total_steps is None else max(1, run.total_steps - self.steps)
        after = self.then.fraction(xp.maximum(step - self.steps, 0), run._replace(total_steps=left), xp)
        return xp.where(step < self.steps, (step + 1) / (self.steps + 1), after)

    def words(self) -> str:
        """Return the schedule in words."""
        return f"rises over {self.steps} steps, then {self.then.words()}"


@dataclass(frozen=True)
class Exponential:
    """Stairs: the rate is multiplied by `factor` every `epochs` epochs, after a linear warm-up.

    The fraction is factorᵏ with k = floor((epoch − delay)/epochs), at least 0, and epoch = step/steps_per_epoch. During
    the warm-up it is epoch/warmup_epochs instead. k counts from step 0, also during the warm-up, as in the sources: a
    warm-up of 5 epochs and stairs of 2.4 epochs end the warm-up at factor² of the peak.

    Parameters
    ----------
    factor
        Factor of the rate, in (0, 1).
    epochs
        Epochs between two multiplications; need not be whole.
    delay
        Epochs before the first stair begins; the first multiplication is after `delay + epochs` epochs.
    warmup_epochs
        Epochs of the warm-up.
    warmup_rate
        Rate at the first step of the warm-up: a rate, not a fraction of the peak.
    per_epoch
        Change the rate at the beginning of an epoch only (PyTorch's and timm's schedulers).
    whole
        Round the length of a stair down to whole steps (TensorFlow's slim).
    least
        Smallest fraction, also during the warm-up.
    """

    factor: float
    epochs: float
    delay: int = 0
    warmup_epochs: int = 0
    warmup_rate: float = 0.0
    per_epoch: bool = False
    whole: bool = False
    least: float = 0.0

    needs: ClassVar[tuple[str, ...]] = ("steps_per_epoch",)

    def fraction(self, step: Number, run: RunFacts, xp: Any = np) -> Number:
        """Return the rate at `step` as a fraction of the peak."""
        assert run.steps_per_epoch is not None  # noqa: S101 (Recipe asks for what the schedule needs)
        steps, fractions = _stairs(self, run.steps_per_epoch)
        result = xp.asarray(fractions)[_count(steps, step, xp)]
        if self.warmup_epochs:
            end = int(self.warmup_epochs * run.steps_per_epoch)
            part = step / end
            if self.per_epoch:
                starts = _starts(self.warmup_epochs, run.steps_per_epoch)
                end, part = starts[-1], _count(starts, step, xp) / self.warmup_epochs
            start = self.warmup_rate / run.peak if run.peak else 0.0
            result = xp.where(step < end, start + (1 - start) * part, result)
        return xp.maximum(result, self.least) if self.least else result

    def words(self) -> str:
        """Return the schedule in words."""
        every = "every epoch" if self.epochs == 1 else f"every {self.epochs:g} epochs"
        words = f"× {self.factor:g} {every}"
        if self.delay:
            words += f", the first time after {self.delay + self.epochs:g} epochs"
        if self.warmup_epochs:
            each = "epoch by epoch" if self.per_epoch else "step by step"
            words = f"rises {each} from {self.warmup_rate:g} over {self.warmup_epochs} epochs, then {words}"
            words += " counted from the first step"
        if self.least:
            words += f", never below {self.least:g} of the peak"
        return words


Schedule: TypeAlias = Constant | Linear | Cosine | Steps | Warmup | Exponential


@lru_cache(maxsize=64)
def _stairs(schedule: Exponential, steps_per_epoch: float) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Return the exact steps at which the rate is multiplied, and the fractions before, between and after them."""
    epochs, per_epoch = Fraction(str(schedule.epochs)), Fraction(steps_per_epoch)
    result: list[int] = []
    for k in range(1, math.ceil(math.log(_NOTHING) / math.log(schedule.factor)) + 1):
        if schedule.whole:
            step = math.ceil(schedule.delay * per_epoch) + k * max(1, math.floor(epochs * per_epoch))
        else:
            epoch = schedule.delay + k * epochs
            step = math.ceil((math.ceil(epoch) if schedule.per_epoch else epoch) * per_epoch)
        if step >= _END:
            break
        result.append(step)
    return np.array(result, np.int32), np.array([schedule.factor**k for k in range(len(result) + 1)])


@lru_cache(maxsize=64)
def _starts(epochs: int, steps_per_epoch: float) -> npt.NDArray[np.int32]:
    """Return the first steps of epochs 1 to `epochs`."""
    starts = (math.ceil(k * Fraction(steps_per_epoch)) for k in range(1, epochs + 1))
    return np.array([min(start, _END - 1) for start in starts], np.int32)


def _count(steps: npt.NDArray[np.int32], step: Number, xp: Any) -> Number:
    """Return how many of the sorted `steps` are at or before `step`."""
    return xp.searchsorted(xp.asarray(steps), step, side="right")


@dataclass(frozen=True)
class WeightEma:
    """A running average of the weights, for evaluation: w̄ ← d·w̄ + (1 − d)·w after every step.

    Parameters
    ----------
    decay
        Largest d.
    num_updates
        TensorFlow's form: after step n = 1, 2, … d is min(decay, (1 + n)/(10 + n)), and the average forgets its start
        quickly. Otherwise d is `decay` from the first step.
    """

    decay: float
    num_updates: bool = True

    def at(self, n: float) -> float:
        """Return d after step n, counted from 1."""
        return min(self.decay, (1 + n) / (10 + n)) if self.num_updates else self.decay

    def words(self) -> str:
        """Return the average in words."""
        form = f"min({self.decay:g}, (1 + n)/(10 + n)) after step n" if self.num_updates else f"{self.decay:g}"
        return f"running average with decay {form}, of batch normalization's averages, too"


def facts(part: Schedule | WeightEma) -> dict[str, Any]:
    """Return the values of a schedule or average by name, with its kind, ready for JSON."""
    return {"kind": type(part).__name__.lower(), **dataclasses.asdict(part), "words": part.words()}
