"""Run jobs in worker processes, and use fewer processes if memory runs out."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, TypeVar

import torch

from rmsprop.lab.runs.interrupts import children_ignore_ctrl_c

Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerLost(Exception):  # noqa: N818  (named for what happened)
    """A worker process ended before its job was done; the run can be resumed from its records."""


class Workers:
    """A pool of processes with one thread each. They end when this process ends.

    Parameters
    ----------
    count
        Number of processes. Halved when a process cannot allocate memory, or is killed by SIGKILL: systems send
        SIGKILL when memory runs out.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._processes: set[BaseProcess] = set()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end(at_once=error is not None)

    def results(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], check: Callable[[], None]
    ) -> Iterator[Result]:
        """Yield the result of `function` for each job, in the order in which jobs end.

        `check` is called at least five times a second and may raise.

        Raises
        ------
        WorkerLost
            If a process ended and fewer processes would not help. Jobs without a yielded result are not done.
        """
        left = list(jobs)
        while left:
            try:
                for job, result in self._once(function, left, check):
                    left.remove(job)
                    yield result
            except BrokenProcessPool:
                self._end(at_once=False)  # the pool ends its other processes, and exit codes become known
                self._fewer(*_cause(self._processes))
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                self._end(at_once=True)
                self._fewer("a worker process could not allocate memory", True)

    def _once(
        self, function: Callable[[Job], Result], jobs: list[Job], check: Callable[[], None]
    ) -> Iterator[tuple[Job, Result]]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool, self._processes = ProcessPoolExecutor(self.count, context, initializer=_start), set()
        others = set(multiprocessing.active_children()) - self._processes
        with without_main(), children_ignore_ctrl_c():  # only this process handles Ctrl-C; `submit` starts the workers
            pending = {self._pool.submit(function, job): job for job in jobs}
        self._processes |= set(multiprocessing.active_children()) - others
        while pending:
            finished, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in sorted(finished, key=_failed):  # results first: jobs not yielded run again
                try:
                    yield pending.pop(future), future.result()
                except SystemExit as error:  # must not end this process
                    cause = f"the task ended a training with sys.exit({error.code!r}); let it raise an error, or return"
                    raise WorkerLost(cause) from error
            check()

    def _fewer(self, cause: str, memory: bool) -> None:
        """Halve the number of processes; raise WorkerLost if memory is not the cause or one process is left."""
        if not memory:
            raise WorkerLost(cause)
        if self.count == 1:
            raise WorkerLost(f"{cause}; it was the only one, so memory may not suffice for a single training")
        fewer = self.count // 2
        warnings.warn(f"{cause}: going on with {fewer} of {self.count} workers", stacklevel=4)
        self.count = fewer

    def _end(self, *, at_once: bool) -> None:
        """End the processes: after their jobs, or with `at_once` during them."""
        if self._pool is None:
            return
        if at_once:
            for process in self._processes & set(multiprocessing.active_children()):
                process.terminate()
        # It waits for the pool's thread: Python's own end, while that thread ends, fails with "Bad file descriptor".
        self._pool.shutdown(cancel_futures=at_once)
        self._pool = None


@contextmanager
def without_main() -> Iterator[None]:
    """Start processes that do not run the user's script again, as they would if it lacks `if __name__ == "__main__"`.

    Jobs come from modules; a task of the script itself is pickled by value.
    """
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name, None) for name in ("__file__", "__spec__")}
    main.__file__ = main.__spec__ = None
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


def _failed(future: Future[Any]) -> bool:
    return future.exception() is not None


def _cause(processes: Iterable[BaseProcess]) -> tuple[str, bool]:
    """Return how a process of a broken pool ended, and whether lack of memory may be the cause."""
    codes = [process.exitcode for process in processes]
    if -signal.SIGKILL in codes:
        return "a worker process was killed by SIGKILL; this happens when memory runs out", True
    code = next((code for code in codes if code not in (None, 0, -signal.SIGTERM)), -signal.SIGTERM)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    return f"a worker process {how}", False


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)  # torch's message


def _start() -> None:
    end_with_parent()
    torch.set_num_threads(1)


def end_with_parent() -> None:
    """End this process as soon as its parent has ended, even if killed: it would wait for jobs forever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
