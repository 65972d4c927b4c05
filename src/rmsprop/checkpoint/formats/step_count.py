"""Step counts in files: read as int, written in the file's dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from rmsprop.errors import InputError, Received
from rmsprop.rule import Array


def read_step(name: str, value: Any) -> int:
    """Read a step count; raise InputError unless it is a whole number from 0 to 2**63 - 1."""
    array = np.asarray(value)
    number = array.reshape(()).item() if array.size == 1 and array.dtype.kind in "iuf" else None
    if array.size == 1 and array.dtype.name == "bfloat16":
        number = float(array.reshape(())[()])
    if number is None or not 0 <= number < 2**63 or number != int(number):
        received = Received(repr(number) if number is not None else f"one of {array.dtype}")
        remedy = "set it to the number of executed steps"
        raise InputError(f"step of {name}", "a whole number from 0 to 2**63 - 1", received, remedy)
    return int(number)


def step_array(step: int, dtype: Any, kind: str) -> Array:
    """Return a step count in the dtype of a file of `kind`; raise InputError if the dtype cannot hold it."""
    most = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 2**24 if dtype == np.float32 else 2**53
    if step > most:
        remedy = "save it with a smaller count; without bias correction no step depends on it"
        raise InputError("step", f"at most {most}, the largest count in a file of {kind}", step, remedy)
    return np.asarray(step, dtype)
