"""Limits on memory and work for reading one file. Every format checks them before it allocates."""

from __future__ import annotations

import os
from pathlib import Path

from rmsprop.errors import InputError, Received

_VARIABLE = "RMSPROP_READ_LIMIT"
# Optimizer state hardly compresses: few files unpack to more than twice their size. Small files of zeros unpack to far
# more; the free part is for them.
_FREE_BYTES, _BYTES_PER_BYTE = 2**28, 8
_FREE_VISITS, _BYTES_PER_VISIT = 2**21, 8


class ReadBudget:
    """The bytes and visits allowed for reading one file: a free part, and a part proportional to the file's size.

    Parameters
    ----------
    path
        The file, as errors name it.
    size
        Bytes of the file on disk; read from the disk if None.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        size = path.stat().st_size if size is None else size
        text = os.environ.get(_VARIABLE, "1")
        times = int(text) if text.isdecimal() and 1 <= len(text) <= 6 else 0
        if times < 1:
            raise InputError(
                _VARIABLE, "a whole number from 1 to 999999", text, "unset it, or say how many times as much"
            )
        self._bytes = self._most_bytes = times * (_FREE_BYTES + _BYTES_PER_BYTE * size)
        self._visits = self._most_visits = times * (_FREE_VISITS + size // _BYTES_PER_VISIT)

    def spend(self, size: int, what: str) -> None:
        """Take `size` bytes for `what`; raise InputError if fewer are left."""
        self.check(size, what)
        self._bytes -= size

    def check(self, size: int, what: str) -> None:
        """Raise InputError if fewer than `size` bytes are left for `what`."""
        if size > self._bytes:
            limit = f"a file that unpacks to at most {self._most_bytes} bytes (2**28, and 8 times its size)"
            raise self._over(limit, f"one whose {what} brings it to {self._most_bytes - self._bytes + size}")

    def visit(self, count: int = 1) -> None:
        """Count `count` visited entries; raise InputError if there are too many."""
        self._visits -= count
        if self._visits < 0:
            raise self._over(f"a file of at most {self._most_visits} entries", "one of more")

    def _over(self, limit: str, received: str) -> InputError:
        remedy = f"if you trust it, set {_VARIABLE}=10 in the environment for ten times as much"
        return InputError(str(self.path), limit, Received(received), remedy)
