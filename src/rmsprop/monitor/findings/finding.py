"""The `Finding`: what was found, why, and what to do about it, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rmsprop.files import finite

USUAL = 1e-3  # learning rate that most networks train with


@dataclass(frozen=True)
class Finding:
    """Something worth knowing about a run; `str` gives it in words."""

    kind: str
    tensor: str | None  # the tensor concerned, the worst of several; None: the run
    step: int  # when it happened, or when it was last seen
    sentence: str  # what was found, with its numbers
    cause: str
    evidence: dict[str, Any]  # the numbers by name
    threshold: str  # from where on this is a finding
    advice: str = ""  # a remedy in words, beyond options
    changes: tuple[dict[str, Any], ...] = ()  # options to change, each a remedy by itself, the surest first

    @property
    def remedy(self) -> str:
        """What to do, the surest first, spelled as Python."""
        return self.spelled(in_python)

    def spelled(self, spell: Callable[[dict[str, Any]], str | None]) -> str:
        """Return the remedy with its changes as `spell` writes them, without those that it spells as None."""
        changes = [words for change in self.changes if (words := spell(change)) is not None]
        return "; or ".join([*changes, *([self.advice] if self.advice else [])])

    def __str__(self) -> str:
        return f"Step {self.step}: {self.sentence}\n  Cause: {self.cause}.\n  Remedy: {self.remedy}."

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict that JSON can hold, None for what is not finite."""
        return dict(finite({**asdict(self), "changes": list(self.changes), "remedy": self.remedy}))


def in_python(change: dict[str, Any]) -> str:
    """Return a change of options as a reader of Python would type it."""
    if "clip" in change:
        return f"torch.nn.utils.clip_grad_norm_(model.parameters(), {change['clip']:g}) before each step"
    if "group" in change:
        return f"a group of its own, {{'params': [model.get_parameter({change['group']!r})], 'lr': {change['lr']!r}}}"
    return f"RMSprop(..., {', '.join(f'{name}={value!r}' for name, value in change.items())})"


def lower(lr: float) -> float:
    """Return a rate to try where `lr` is too high: a tenth, or 0.001, which suits most networks, if that is less."""
    return rounded(min(lr / 10, USUAL))


def higher(lr: float) -> float:
    """Return a rate to try where `lr` is too low: ten times as much, or 0.001 if that is more."""
    return rounded(max(10 * lr, USUAL))


def rounded(x: float) -> float:
    """Return a number with the one digit that a proposal deserves."""
    return float(f"{x:.0e}")


def counted(number: str | int, noun: str) -> str:
    """Return a number and what it counts, such as "1 step" or "3 steps"."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"


def percent(share: float) -> str:
    """Return a share in words, such as "83 %"."""
    return f"{100 * share:.3g} %"
