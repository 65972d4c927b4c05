"""What every format needs: archives that are what they say, missing packages, what is known of the rule."""

from __future__ import annotations

import importlib
import io
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rmsprop.errors import InputError, Received

# Optimizer state is noise to a compressor: an archive that promises more than this many times its size is a trap.
_LARGEST_EXPANSION = 20


def package(name: str, extra: str = "convert", needed_for: str = "") -> ModuleType:
    """Import a package of the extra `convert`; without it say in one line how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        what = needed_for or "this kind of file"
        raise ModuleNotFoundError(f"{what} needs {name}: pip install 'rmsprop[{extra}]'", name=name) from None


def check_archive(path: Path, free: int = 2**20) -> None:
    """Raise InputError if a zip archive at `path` would grow out of all proportion and by more than `free` bytes."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        promised, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if promised > _LARGEST_EXPANSION * size + free:
        found = Received(f"one of {size} bytes that promises {promised}")
        raise InputError(str(path), "an archive of arrays", found, "do not open it with anything else either")


def replace_entry(like: Path, name: str, content: bytes) -> bytes:
    """Return the zip archive `like` with another content of the entry `name`."""
    check_archive(like)
    buffer = io.BytesIO()
    with zipfile.ZipFile(like) as old, zipfile.ZipFile(buffer, "w") as new:
        if name not in old.namelist():
            raise InputError("like", f"an archive with {name}", str(like), "give a saved model of that kind")
        for entry in old.infolist():
            new.writestr(entry, content if entry.filename == name else old.read(entry))
    return buffer.getvalue()


def bfloat16() -> np.dtype[Any]:
    """Return NumPy's dtype for bfloat16, which comes with JAX, Keras and TensorFlow."""
    try:
        from ml_dtypes import bfloat16 as dtype
    except ModuleNotFoundError:
        raise ModuleNotFoundError("bfloat16 state needs ml_dtypes: pip install ml_dtypes", name="ml_dtypes") from None
    bfloat16: np.dtype[Any] = np.dtype(dtype)
    return bfloat16


def agree(path: Path, stated: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return what the file states and what the caller knows, which must not contradict each other."""
    for name, value in known.items():
        if stated.get(name) is not None and stated[name] != value:
            there = stated[name]
            raise InputError(name, f"what {path} or its library says ({there!r})", value, "leave it out")
    return {**{name: value for name, value in stated.items() if value is not None}, **known}
