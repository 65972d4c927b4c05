"""Imports of optional packages. The error for a missing package has the command that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np


def import_package(name: str, extra: str = "convert", needed_for: str = "") -> ModuleType:
    """Import a package; if it is missing, raise ModuleNotFoundError with the install command."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        what = needed_for or "this kind of file"
        raise ModuleNotFoundError(f"{what} needs {name}: pip install 'rmsprop[{extra}]'", name=name) from None


def bfloat16() -> np.dtype[Any]:
    """Return NumPy's dtype for bfloat16, from a package that comes with JAX, Keras and TensorFlow."""
    try:
        from ml_dtypes import bfloat16 as dtype
    except ModuleNotFoundError:
        raise ModuleNotFoundError("bfloat16 state needs ml_dtypes: pip install ml_dtypes", name="ml_dtypes") from None
    bfloat16: np.dtype[Any] = np.dtype(dtype)
    return bfloat16
