"""Watch every RMSprop of a program that knows nothing of it: a monitor for each, until the program uses its own."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rmsprop.monitor.findings import Finding
from rmsprop.monitor.monitor import Monitor
from rmsprop.monitor.post_mortem import PostMortem
from rmsprop.monitor.record import Record
from rmsprop.monitor.sinks import JSONL


class Watched:
    """What is known of one optimizer. Does not keep the optimizer or its tensors alive.

    Attributes
    ----------
    path, sinks
        The file of its statistics, and what writes it; None after a file could not be opened.
    records
        The records in memory. When the optimizer dies, only the first and the last one stay.
    count
        How many records were in memory at the end.
    findings, post_mortem
        What the records show, at the end.
    """

    def __init__(self, path: Path | None, sinks: list[JSONL]) -> None:
        self.path = path
        self.sinks = sinks  # here, too: the garbage collector must not close the file before `end` does
        self.records: list[Record] = []
        self.count = 0
        self.findings: list[Finding] = []
        self.post_mortem: PostMortem | None = None


class Watch:
    """A context in which each new `rmsprop.torch.RMSprop` gets a monitor that writes statistics.jsonl.

    A monitor of the program's own takes its place, and so do released gradients and compiled steps. Only records and
    the steps before them are measured, since nobody asked for more: a tenth of each step would be a per cent of many
    trainings.

    Parameters
    ----------
    folder
        Returns the directory for the files. Called at the first optimizer.
    every
        Steps from one record to the next.

    Attributes
    ----------
    watched
        What is known of each optimizer, in the order of their creation.
    """

    def __init__(self, folder: Callable[[], Path], every: int) -> None:
        self._folder, self._every = folder, every
        self._path: Path | None = None
        self._process = os.getpid()
        self.watched: list[Watched] = []
        self._monitors: list[weakref.ref[_Yielding]] = []

    def __enter__(self) -> Watch:
        from rmsprop.torch.observer import on_new

        on_new.append(self._attach)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        from rmsprop.torch.observer import on_new

        on_new.remove(self._attach)
        self.end()

    def end(self) -> None:
        """Close the monitors of the optimizers that are alive, and find what their records show."""
        for monitor in self._monitors:
            _end(monitor)

    def _attach(self, optimizer: Any) -> None:
        if os.getpid() != self._process:  # a forked process would write to the same files
            return
        number = len(self.watched) + 1
        try:
            self._path = self._path or self._folder()
            path: Path | None = self._path / f"statistics{f'-{number}' if number > 1 else ''}.jsonl"
            sinks: list[JSONL] = [_Statistics(path)]  # type: ignore[arg-type]
        except OSError as error:  # the program's own work goes on
            _say(f"{error.filename}: {error.strerror}; statistics are not written")
            path, sinks = None, []
        watched = Watched(path, sinks)
        monitor = weakref.ref(_Yielding(optimizer, watched, every=self._every, last=0, sinks=sinks))
        weakref.finalize(optimizer, _end, monitor).atexit = False
        self.watched.append(watched)
        self._monitors.append(monitor)


class _Statistics(JSONL):
    """A file of statistics that nobody asked for: when it cannot be written, the program's own work goes on."""

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Append a record."""
        if self._file.closed:
            return
        try:
            super().__call__(record)
        except OSError as error:
            _say(f"{self.path}: {error.strerror}; statistics end before step {record['step']}")
            self.close()

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # of a record that could not be written
            super().close()


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # the program's standard error may be closed or None
        sys.stderr.write(f"rmsprop: {text}\n")


class _Yielding(Monitor):
    """A monitor that nobody asked for. Its optimizer keeps it, and it keeps no reference to the optimizer.

    It ends with the optimizer: when the last reference to the optimizer goes, or in `__del__`, if the optimizer is part
    of a cycle.
    """

    yields = True

    def __init__(self, optimizer: Any, watched: Watched, **options: Any) -> None:
        attributes = object.__new__(type(optimizer))
        attributes.__dict__ = optimizer.__dict__  # the same dict
        model = _model_of(optimizer)
        super().__init__(attributes, None if model is None else _Names(model), **options)
        self._watched: Watched | None = watched
        watched.records = self.records

    def end(self) -> None:
        """Stop measuring, and find what the records show."""
        watched, self._watched = self._watched, None
        if watched is None:
            return
        self.close()
        watched.count, watched.findings = len(self.records), self.findings()
        watched.post_mortem = self.post_mortem() if self.records else None
        watched.sinks = []
        watched.records = self.records[:: max(1, len(self.records) - 1)]

    def __del__(self) -> None:
        if "_watched" in vars(self):
            self.end()


def _end(monitor: weakref.ref[_Yielding]) -> None:
    if (found := monitor()) is not None:
        found.end()


class _Names:
    """The names of a module's parameters, while it lives. Tensors with weak references could not be swapped."""

    def __init__(self, module: Any) -> None:
        self._module = weakref.ref(module)

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Return the names and parameters."""
        module = self._module()
        return [] if module is None else list(module.named_parameters())


def _model_of(optimizer: Any) -> Any:
    """Return the module in memory that has most of the optimizer's parameters, of several the one inside; or None."""
    from torch import nn

    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    best, found = (0, 0), None
    for each in gc.get_objects():
        if not issubclass(type(each), nn.Module):  # isinstance would ask proxies of other objects
            continue
        try:
            names = {id(p): name for name, p in each.named_parameters()}
        except Exception:  # noqa: S112  (of a module that is not complete: no concern of its program here)
            continue
        shared = own & names.keys()
        score = (len(shared), -sum(len(names[p]) for p in shared))  # short names: not those of a wrapper
        if shared and score > best:
            best, found = score, each
    return found
