"""The error for unusable input, and the checks that raise it."""

from __future__ import annotations

import contextlib
import math
from numbers import Integral, Real
from typing import Any

import numpy as np

_LONGEST = 2000  # characters of a received value in a message


class InputError(ValueError):
    """A value from the caller is unusable; the message is one line: name, allowed, received, remedy.

    Parameters
    ----------
    name
        The argument, option or file, as the caller knows it.
    allowed
        The values that it may have, in words.
    value
        The value received.
    remedy
        What to do instead; empty where `allowed` says it.
    """

    def __init__(self, name: str, allowed: str, value: object, remedy: str) -> None:
        received = value if isinstance(value, Received) else repr(value)
        if len(received) > _LONGEST:
            received = f"{received[:_LONGEST]} …"
        super().__init__(f"{name} must be {allowed}, got {received}" + (f"; {remedy}" if remedy else ""))
        self.name, self.allowed, self.value, self.remedy = name, allowed, value, remedy

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, object, str]]:
        """Pickle the four parts: workers send errors to other processes."""
        return InputError, (self.name, self.allowed, self.value, self.remedy)


class Received(str):
    """A description of the received value. Messages print it without quotes."""

    __slots__ = ()


def require(ok: bool, name: str, allowed: str, got: object, remedy: str = "") -> None:
    """Raise InputError unless `ok`; the other arguments are those of InputError."""
    if not ok:
        raise InputError(name, allowed, got, remedy)


def plain(value: Any) -> Any:
    """Return a NumPy scalar or a one-element array or tensor as a Python number, any other value unchanged."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and math.prod(shape) == 1 and callable(item := getattr(value, "item", None)):
        with contextlib.suppress(TypeError, RuntimeError):  # traced, or on the meta device: no value yet
            return item()
    return value


def may_change(value: object) -> bool:
    """Return whether a number can change in place. Caches must not hold such a number."""
    return hasattr(value, "item") and not isinstance(value, np.generic)


def check_number(name: str, value: object, remedy: str, *, below: float = math.inf) -> float:
    """Return `value` as a float if it is a real number in [0, below), else raise InputError.

    NumPy scalars and one-element arrays and tensors count as numbers.
    """
    number = plain(value)
    with contextlib.suppress(OverflowError):  # an integer beyond what a float holds
        if isinstance(number, Real) and not isinstance(number, bool) and 0 <= float(number) < below:
            return float(number)
    allowed = "a finite number >= 0" if below == math.inf else f"a number in [0, {below:g})"
    raise InputError(name, allowed, value, number_of_text(value) or remedy)


def check_count(name: str, value: object, remedy: str, *, least: int = 1) -> int:
    """Return `value` as an int if it is a whole number from `least` to 2³¹ − 1, else raise InputError."""
    number = plain(value)
    if not isinstance(number, Integral) or isinstance(number, bool) or int(number) < least:
        raise InputError(name, f"a whole number >= {least}", value, number_of_text(value) or remedy)
    if int(number) >= 2**31:
        raise InputError(name, f"a whole number from {least} to {2**31 - 1}", value, remedy)
    return int(number)


def check_flag(name: str, value: object, remedy: str = "pass True or False") -> bool:
    """Return True, False, 0 or 1 as a bool, else raise InputError.

    Text is refused: bool("no") is True. NumPy scalars and one-element arrays and tensors count as their value.
    """
    flag = plain(value)
    if isinstance(flag, Real) and flag in (0, 1):
        return bool(flag)
    raise InputError(name, "True or False", value, remedy)


def number_of_text(value: object) -> str | None:
    """Return the remedy for a number given as text, None for anything else.

    YAML 1.1 reads 1e-5 as text: with an exponent, a number needs a decimal point.
    """
    if not isinstance(value, str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    mantissa, _, exponent = repr(number).partition("e")
    written = (
        f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(exponent):+d}" if exponent else mantissa.removesuffix(".0")
    )
    yaml = " (YAML reads 1e-5 as text, 1.0e-5 as a number)" if "e" in value.lower() else ""
    return f"it is text: write {written}{yaml}, or convert it with float()"
