"""Give each record to every sink, and drop a sink that fails after its first record."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from rmsprop.errors import InputError
from rmsprop.monitor.findings.findings_record import findings_record
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
                _warn(sink, f"failed at step {record['step']} and gets no more records", error)
            if not proven:
                self._proven.append(sink)

    def close(self, records: Sequence[Record]) -> None:
        """Give the findings in `records` to the sinks that have `write_findings`. Close those that have `close`."""
        sinks, self._sinks = self._sinks, []
        for sink in sinks:
            write, close = (getattr(sink, name, None) for name in ("write_findings", "close"))
            if callable(write) and records:
                try:
                    write(findings_record(records))
                except Exception as error:
                    _warn(sink, "failed to write the findings", error)
            if callable(close):
                close()


def _warn(sink: Sink, what: str, error: Exception) -> None:
    warnings.warn(f"rmsprop: the sink {sink!r} {what}: {type(error).__name__}: {error}", stacklevel=4)


def _callables(sinks: Any) -> list[Sink]:
    listed: list[Any] = list(sinks) if isinstance(sinks, Iterable) else [None]
    if all(map(callable, listed)):
        return listed
    remedy = "write sinks=[...], also for one; rmsprop.monitor.sinks has some, such as JSONL(path)"
    raise InputError("sinks", "callables that take a record, in a list", sinks, remedy)
