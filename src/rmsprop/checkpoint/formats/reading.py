"""What every format needs: archives that are what they say, missing packages, what is known of the rule."""

from __future__ import annotations

import importlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from rmsprop.checkpoint import Array
from rmsprop.checkpoint.formats.budget import Budget
from rmsprop.errors import InputError, Received


def package(name: str, extra: str = "convert", needed_for: str = "") -> ModuleType:
    """Import a package of the extra `convert`; without it say in one line how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        what = needed_for or "this kind of file"
        raise ModuleNotFoundError(f"{what} needs {name}: pip install 'rmsprop[{extra}]'", name=name) from None


def check_archive(source: Path | IO[bytes], budget: Budget) -> None:
    """Raise InputError if a zip archive would unfold beyond the budget, or holds one name twice."""
    if not zipfile.is_zipfile(source):
        return
    with zipfile.ZipFile(source) as archive:
        entries = archive.infolist()
    budget.visit(len(entries))
    budget.check(sum(entry.file_size for entry in entries), "archive")
    check_unique(budget.path, [entry.filename for entry in entries])


def check_unique(path: Path, names: Sequence[str]) -> None:
    """Raise InputError if a name is there twice: which of the two counts differs between readers."""
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise InputError(str(path), "a file with each name once", Received(f"{twice[:80]!r} again"), "save it again")


def read_json(path: Path, text: str | bytes) -> Any:
    """Return what JSON holds; a name twice is refused."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        check_unique(path, [name for name, _ in pairs])
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once)


def whole_step(name: str, value: Any) -> int:
    """Return a count of steps, which must be a whole number from 0 on that a counter of 64 bits holds."""
    array = np.asarray(value)
    number = array.reshape(()).item() if array.size == 1 and array.dtype.kind in "iuf" else None
    if array.size == 1 and array.dtype.name == "bfloat16":
        number = float(array.reshape(())[()])
    if number is None or not 0 <= number < 2**63 or number != int(number):
        what = repr(number) if number is not None else f"one of {array.dtype}"
        raise InputError(f"step of {name}", "a whole number from 0 to 2**63 - 1", Received(what), "set it right")
    return int(number)


def counter(step: int, dtype: Any, kind: str) -> Array:
    """Return a count of steps as a file of `kind` holds it, or raise InputError where it does not fit."""
    most = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 2**24 if dtype == np.float32 else 2**53
    if step > most:
        remedy = "save it with a smaller count; without bias correction no step depends on it"
        raise InputError("step", f"at most {most}, which is as far as a file of {kind} counts", step, remedy)
    return np.asarray(step, dtype)


def replace_entry(like: Path, name: str, content: bytes) -> bytes:
    """Return the zip archive `like` with another content of the entry `name`."""
    check_archive(like, Budget(like))
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
