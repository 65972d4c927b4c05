"""Watch every RMSprop of a program that knows nothing of it: a monitor for each, until the program uses its own."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rmsprop.monitor.monitor import Monitor
from rmsprop.monitor.sinks import JSONL


class Watch:
    """A context in which each new `rmsprop.torch.RMSprop` gets a monitor that writes statistics.jsonl.

    A monitor of the program's own takes its place, and so do released gradients and compiled steps.

    Parameters
    ----------
    folder
        Returns the directory for the files. Called at the first optimizer.
    every
        Steps from one record to the next.

    Attributes
    ----------
    monitors
        The monitor of each optimizer, and its file; None after a file could not be opened.
    """

    def __init__(self, folder: Callable[[], Path], every: int) -> None:
        self._folder, self._every = folder, every
        self._path: Path | None = None
        self._process = os.getpid()
        self.monitors: list[tuple[Monitor, Path | None]] = []

    def __enter__(self) -> Watch:
        from rmsprop.torch.observer import on_new

        on_new.append(self._attach)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        from rmsprop.torch.observer import on_new

        on_new.remove(self._attach)
        for monitor, _path in self.monitors:
            monitor.close()

    def _attach(self, optimizer: Any) -> None:
        if os.getpid() != self._process:  # a forked process would write to the same files
            return
        number = len(self.monitors) + 1
        try:
            self._path = self._path or self._folder()
            path: Path | None = self._path / f"statistics{f'-{number}' if number > 1 else ''}.jsonl"
            sinks = [JSONL(path)]  # type: ignore[arg-type]
        except OSError as error:  # the program's own work goes on
            print(f"rmsprop: {error.filename}: {error.strerror}; statistics are not written", file=sys.stderr)
            path, sinks = None, []
        self.monitors.append((_Yielding(optimizer, _model_of(optimizer), every=self._every, sinks=sinks), path))


class _Yielding(Monitor):
    yields = True


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
