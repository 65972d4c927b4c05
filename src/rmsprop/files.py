"""Atomic writes of files, and JSON values without NaN and infinity."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp", re.ASCII)  # final name, process id of the writer
_OLD = 600  # seconds without a change; then the temporary file of a dead process is removed


def write_atomically(path: Path, content: bytes | memoryview | str) -> None:
    """Write a file atomically: it holds the old content or the new one, never a part.

    A killed process leaves its temporary file behind. A later write of the same file removes it.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content  # surrogates as in JSON
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
    """Return the temporary files of `write_atomically` in `folder`, those of dead processes included."""
    return [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]


def remove_temporary(paths: Iterable[Path]) -> None:
    """Remove temporary files. Ignore errors: another process may have removed them first."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _abandoned(path: Path) -> list[Path]:
    """Return the old temporary files of `path` whose process is dead."""
    found = []
    with contextlib.suppress(OSError):  # no such folder: the write reports it
        for each in path.parent.iterdir():
            match = _TEMPORARY.fullmatch(each.name)
            if match and match[1] == path.name and not _lives(int(match[2])):
                # The age counts too: on a shared disk, the process may live on another machine.
                with contextlib.suppress(OSError):
                    if time.time() - each.stat().st_mtime > _OLD:
                        found.append(each)
    return found


def _lives(process: int) -> bool:
    if os.name == "nt":  # os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # the process belongs to another user
        pass
    return True


def finite(value: Any) -> Any:
    """Return dicts, lists and numbers with None for NaN and infinity, which JSON cannot hold."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value
