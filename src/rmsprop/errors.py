"""The one error for input that cannot be used, and the checks that raise it."""

from __future__ import annotations

import contextlib
import math
from numbers import Integral, Real


class InputError(ValueError):
    """A value the caller gave is unusable; the message is one line: name, allowed, received, remedy.

    Parameters
    ----------
    name
        What was given, as the caller knows it (argument, option or file).
    allowed
        What it may be.
    value
        What was received.
    remedy
        What to do instead.
    """

    def __init__(self, name: str, allowed: str, value: object, remedy: str) -> None:
        received = value if isinstance(value, Received) else repr(value)
        super().__init__(f"{name} must be {allowed}, got {received}; {remedy}")
        self.name, self.allowed, self.value, self.remedy = name, allowed, value, remedy

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, object, str]]:
        """Pickle by the four parts (errors cross process borders)."""
        return InputError, (self.name, self.allowed, self.value, self.remedy)


class Received(str):
    """Words that describe what was received, printed without quotes."""

    __slots__ = ()


def check_number(name: str, value: object, remedy: str, *, below: float = math.inf) -> float:
    """Return `value` as a float if it is a real number in [0, below), else raise InputError."""
    with contextlib.suppress(OverflowError):  # an integer beyond what a float holds
        if isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < below:
            return float(value)
    allowed = "a finite number >= 0" if below == math.inf else f"a number in [0, {below:g})"
    raise InputError(name, allowed, value, remedy)


def check_count(name: str, value: object, remedy: str, *, least: int = 1) -> int:
    """Return `value` as an int if it is a whole number from `least` to 2³¹ − 1, else raise InputError."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise InputError(name, f"a whole number >= {least}", value, remedy)
    if int(value) >= 2**31:
        raise InputError(name, f"a whole number from {least} to {2**31 - 1}", value, remedy)
    return int(value)


def check_flag(name: str, value: object, remedy: str = "pass True or False") -> bool:
    """Return `value` if it is a bool, else raise InputError (a string such as "no" would count as true)."""
    if isinstance(value, bool):
        return value
    raise InputError(name, "True or False", value, remedy)
