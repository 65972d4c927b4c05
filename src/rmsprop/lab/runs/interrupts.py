"""Ctrl-C and SIGTERM end a run between two steps, where it can be resumed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):  # noqa: N818  (no error: it was asked for)
    """The run was asked to stop; it can be resumed."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that collects SIGINT and SIGTERM; a second signal raises KeyboardInterrupt at once."""
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
def children_deaf_to_ctrl_c() -> Iterator[None]:
    """Block SIGINT: here until the end of the context, in processes started meanwhile for good."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
