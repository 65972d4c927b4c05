"""Describe errors that a user's code raised."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import rmsprop
from rmsprop.errors import Received

_SENT = "<dynamic-code>"  # what cloudpickle calls the file of a function that it has sent to a worker


def described_error(error: BaseException) -> Received:
    """Return an error in a line: its type, its message, and the file and line of the user's code that raised it."""
    line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
    first = (str(error).splitlines() or [""])[0]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_installed(frame.filename)]
    sent = [frame for frame in frames if frame.filename == _SENT]
    place = ""
    if own and not line:
        place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})"
    elif sent and not line:
        place = f" (in {sent[-1].name}, line {sent[-1].lineno})"
    return Received(f"{type(error).__name__}{line}: {first}{place}")


def _is_installed(file: str) -> bool:
    """Return whether a file belongs to this library, another package or Python, and not to the user."""
    path = Path(file)
    if not path.is_absolute() and not path.exists():  # such as <frozen importlib._bootstrap>
        return True
    inside = {Path(rmsprop.__file__).parent, Path(sysconfig.get_path("stdlib"))}
    packages = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(packages) or any(path.resolve().is_relative_to(folder.resolve()) for folder in inside)
