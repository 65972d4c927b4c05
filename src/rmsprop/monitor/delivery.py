"""Give each record to every sink, and drop a sink that fails after its first record."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from rmsprop.errors import InputError
from rmsprop.monitor.record import Record

Sink: TypeAlias = Callable[[Any], object]  # takes a Record


class Delivery:
    """The sinks of a monitor. A sink that fails at its first record raises; one that fails later is dropped."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = _callables(sinks)
        self._proven: list[Sink] = []  # sinks that have taken a record

    def give(self, record: Record) -> None:
        """Give a record to every sink."""
        for sink in list(self._sinks):
            proven = any(sink is other for other in self._proven)
            try:
                sink(record)
            except Exception as error:
                if not proven:
                    raise
                self._sinks.remove(sink)
                what = f"the sink {sink!r} failed at step {record['step']} and gets no more records"
                warnings.warn(f"rmsprop: {what}: {type(error).__name__}: {error}", stacklevel=3)
            if not proven:
                self._proven.append(sink)

    def close(self) -> None:
        """Close the sinks that have a `close`; no sink gets more records."""
        sinks, self._sinks = self._sinks, []
        for sink in sinks:
            close = getattr(sink, "close", None)
            if callable(close):
                close()


def _callables(sinks: Any) -> list[Sink]:
    listed: list[Any] = list(sinks) if isinstance(sinks, Iterable) else [None]
    if all(map(callable, listed)):
        return listed
    remedy = "write sinks=[...], also for one; rmsprop.monitor.sinks has some, such as JSONL(path)"
    raise InputError("sinks", "callables that take a record, in a list", sinks, remedy)
