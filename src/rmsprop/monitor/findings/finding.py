"""The `Finding`: a problem as a sentence, with its cause and its remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rmsprop.files import finite
from rmsprop.hyperparameters import names_in

USUAL = 1e-3  # a learning rate that suits most networks
_IN_TORCH = {field: name for name, field in names_in("torch").items()}


@dataclass(frozen=True)
class Finding:
    """A problem in a run; `str()` gives its sentence, cause and remedy."""

    kind: str
    tensor: str | None  # the tensor concerned, or the worst of several; None: the run
    step: int  # when the problem happened, or was last seen
    sentence: str  # what was found, with its numbers
    cause: str
    evidence: dict[str, Any]  # the numbers by name
    threshold: str  # the condition that makes this a finding
    advice: str = ""  # a remedy that is no option
    changes: tuple[dict[str, Any], ...] = ()  # {field of Rule or option: value}, a remedy each; the surest first

    @property
    def remedy(self) -> str:
        """What to do, the surest remedy first; changes of options as Python code."""
        return self.spelled(in_python)

    def spelled(self, spell: Callable[[dict[str, Any]], str | None]) -> str:
        """Return the remedy, with changes as `spell` writes them; changes that it writes as None are omitted."""
        changes = [words for change in self.changes if (words := spell(change)) is not None]
        return "; or ".join([*changes, *([self.advice] if self.advice else [])])

    def __str__(self) -> str:
        return f"Step {self.step}: {self.sentence}\n  Cause: {self.cause}.\n  Remedy: {self.remedy}."

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict that JSON can hold; a number that is not finite becomes None."""
        return dict(finite({**asdict(self), "changes": list(self.changes), "remedy": self.remedy}))


def in_python(change: dict[str, Any]) -> str:
    """Return a change of options as Python code."""
    if "clip" in change:
        return f"torch.nn.utils.clip_grad_norm_(model.parameters(), {change['clip']:g}) before each step"
    if "group" in change:
        return f"a group of its own, {{'params': [model.get_parameter({change['group']!r})], 'lr': {change['lr']!r}}}"
    return f"RMSprop(..., {', '.join(f'{name}={value!r}' for name, value in in_torch(change).items())})"


def in_torch(change: dict[str, Any]) -> dict[str, Any]:
    """Return a change with the arguments of `rmsprop.torch.RMSprop` in place of fields of Rule."""
    return {_IN_TORCH.get(name, name): value for name, value in change.items()}


def lower(lr: float) -> float:
    """Return a lower rate to try: a tenth of `lr`, at most 0.001."""
    return rounded(min(lr / 10, USUAL))


def higher(lr: float) -> float:
    """Return a higher rate to try: ten times `lr`, at least 0.001."""
    return rounded(max(10 * lr, USUAL))


def rounded(x: float) -> float:
    """Round a proposed number to one significant digit."""
    return float(f"{x:.0e}")


def counted(number: str | int, noun: str) -> str:
    """Return a number and what it counts, such as "1 step" or "3 steps"."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"


def percent(share: float) -> str:
    """Return a share as per cent, such as "83 %"."""
    return f"{100 * share:.3g} %"
