"""Files that are whole or not there, and JSON that every reader takes."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp", re.ASCII)  # name of the file to be, process that writes it
_OLD = 600  # seconds without a change, after which a write that a dead process began is given up


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that, whatever happens, it holds the old content or the new one, never a part.

    A killed process leaves its temporary file behind; the next write of the same file removes it.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content  # as JSON has it
    remove_temporary(_abandoned(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_files(folder: Path) -> list[Path]:
    """Return the temporary files that `write_atomically` has in `folder`, of living processes and of dead ones."""
    return [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]


def remove_temporary(paths: Iterable[Path]) -> None:
    """Remove temporary files; another process may be faster."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _abandoned(path: Path) -> list[Path]:
    """Return the temporary files of `path` that nobody writes any more: old, and of a process that is dead."""
    found = []
    with contextlib.suppress(OSError):  # no such folder: the write will say so
        for each in path.parent.iterdir():
            match = _TEMPORARY.fullmatch(each.name)
            if match and match[1] == path.name and not _lives(int(match[2])):
                # Its process may live on another machine that shares the disk, hence the age.
                with contextlib.suppress(OSError):
                    if time.time() - each.stat().st_mtime > _OLD:
                        found.append(each)
    return found


def _lives(process: int) -> bool:
    """Return whether a process of this machine has that number."""
    if os.name == "nt":  # os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        pass
    return True


def finite(value: Any) -> Any:
    """Return dicts, lists and numbers with null in place of what is not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value
