"""Find and read the data files of built-in tasks. A missing package or a damaged file raises one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from rmsprop.errors import InputError, Received

# Debian's files lie under the first if apt-get installed them, under the second if dpkg-deb -x unpacked them there.
DEBIAN_ROOTS = (Path("/"), Path(sys.prefix))


def package_directory(task: str, module: str, extra: str) -> Path:
    """Return the directory of an installed package. The package is not imported, and its own needs may be missing.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        remedy = f"pip install 'rmsprop[{extra}]'"
        raise InputError(f"the task {task}", f"run with {module} installed", Received("none"), remedy)
    return Path(found.submodule_search_locations[0])


def debian_directory(task: str, package: str, directory: str) -> Path:
    """Return the directory, given from the root, that a Debian package installs.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    for root in DEBIAN_ROOTS:
        if (root / directory).is_dir():
            return root / directory
    allowed, remedy = f"run with Debian's {package} installed", f"apt-get install {package}"
    raise InputError(f"the task {task}", allowed, Received(f"no directory /{directory}"), remedy)


def cache_file(name: str) -> Path | None:
    """Return the path of a file in the user's cache directory, which is made; None if it cannot be made."""
    try:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rmsprop")
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return None
    return directory / name


@contextmanager
def reading(path: Path, content: str, remedy: str) -> Iterator[None]:
    """Turn every error of reading or parsing a file into one InputError.

    Parameters
    ----------
    path
        The file.
    content
        What it must hold, as in "16 features of 20,000 letters".
    remedy
        What to do if it does not.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # warnings of a damaged file; its content is checked
            yield
    except InputError:
        raise
    except Exception as error:  # a damaged file may raise anything in the library that reads it
        words = " ".join(str(error).split())
        found = Received(words if isinstance(error, _WrongContent) else f"{type(error).__name__}: {words}")
        raise InputError(f"the file {path}", f"one with {content}", found, remedy) from error


def check(ok: bool, problem: str) -> None:
    """Inside of `reading`: raise its InputError with `problem` unless `ok`."""
    if not ok:
        raise _WrongContent(problem)


class _WrongContent(Exception):  # noqa: N818  (`reading` turns it into an InputError)
    """A file can be read, and holds something else."""
