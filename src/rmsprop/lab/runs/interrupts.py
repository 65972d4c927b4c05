"""Stopping on request: Ctrl-C and SIGTERM end a run where it can be resumed, not in the middle of something."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):  # noqa: N818  (no error: it was asked for)
    """The run was asked to stop; it can be resumed."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that receives SIGINT and SIGTERM instead of their interrupting a step; a second one interrupts."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone may handle signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def children_deaf_to_ctrl_c() -> Iterator[None]:
    """Hold SIGINT back, here until the end and for ever in processes that are started meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
