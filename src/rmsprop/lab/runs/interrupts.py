"""Stop a run after Ctrl-C or SIGTERM at a point from which it can be resumed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):  # noqa: N818  (no error: the user asked for it)
    """A signal stopped the run."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list to which SIGINT or SIGTERM adds its number; a second signal raises KeyboardInterrupt."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread may handle signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def children_ignore_ctrl_c() -> Iterator[None]:
    """Block SIGINT in this context. Processes started in the context block SIGINT until they end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
