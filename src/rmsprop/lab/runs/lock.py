"""Lock a directory, so that one process at a time works in it. A killed process releases its lock."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from rmsprop.errors import InputError, Received

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
_ATTEMPTS = 20  # 10 ms apart: `is_held` holds a lock for an instant
_held: set[int] = set()  # open lock files of this process


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of `directory`, which is created if missing.

    Directories that were created are removed at the end if they are empty.

    Raises
    ------
    InputError
        If the lock is held already, by another process or by this one.
    """
    created = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        handle = _acquire(directory)
        _held.add(handle)
        try:
            yield
        finally:
            if handle in _held:  # not in a forked child, which does not hold the lock
                _held.remove(handle)
                _release(handle, directory / LOCK)
    finally:
        for path in created:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()


def is_held(directory: Path) -> bool:
    """Return whether a process holds the lock of `directory`."""
    try:
        handle = os.open(directory / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        return not try_lock(handle)  # closing it releases the lock
    finally:
        os.close(handle)


def _acquire(directory: Path) -> int:
    file = directory / LOCK
    attempts = itertools.count(1)
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)  # child programs do not inherit it
        try:
            if try_lock(handle):
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(handle), file.stat()):
                        os.ftruncate(handle, 0)
                        os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
                        return handle
            elif next(attempts) == _ATTEMPTS:
                holder = os.read(handle, 100).decode(errors="replace").strip() or "another process"
                found = Received(f"{directory}, where {holder} is running")
                remedy = "wait until it has ended, or choose another --out"
                raise InputError("the directory of a run", "one in which no other process works", found, remedy)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # locked for now, or removed by the previous holder after it was opened here: try again
        time.sleep(0.01)


def _release(handle: int, file: Path) -> None:
    if sys.platform != "win32":
        file.unlink(missing_ok=True)
    os.close(handle)
    if sys.platform == "win32":  # Windows cannot remove an open file
        with contextlib.suppress(OSError):
            file.unlink()


def try_lock(handle: int) -> bool:
    """Lock an open file until it is closed; return False if it is locked already."""
    if sys.platform == "win32":
        os.lseek(handle, 2**30, os.SEEK_SET)  # beyond the holder's name: others cannot read locked bytes
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        text = f"this file system keeps no locks ({error.strerror}): let only one process work in a directory"
        warnings.warn(text, stacklevel=2)
    return True


def _forget_in_child() -> None:
    """Close the lock files in a forked child, which would otherwise hold the locks after its parent ends."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
