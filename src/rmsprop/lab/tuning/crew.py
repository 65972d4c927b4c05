"""The worker processes of a study on this host. One that is killed is replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from rmsprop.lab.runs.interrupts import children_ignore_ctrl_c
from rmsprop.lab.runs.workers import WorkerLost, end_with_parent, without_main
from rmsprop.lab.tuning.storage import FULL
from rmsprop.lab.tuning.worker import work_on

MAX_DEATHS = 10  # of workers in a row, without a trial that ended


class Crew:
    """`count` processes, which run `work_on` with the arguments `job` until the study is finished. A context."""

    def __init__(self, count: int, *job: Any) -> None:
        self._job = job
        self._processes: list[BaseProcess] = []
        self._deaths = 0
        self._count = count

    def __enter__(self) -> Crew:
        self._processes = [self._started() for _ in range(self._count)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def tend(self, *, progressed: bool) -> None:
        """Replace processes that have ended before their work was done.

        Raises
        ------
        WorkerLost
            If the disk is full, or if process after process ends although no trial does.
        """
        self._deaths *= not progressed
        for number, process in enumerate(self._processes):
            if process.is_alive() or process.exitcode == 0:
                continue
            if process.exitcode in FULL:
                raise WorkerLost(f"a worker could not write a file: {os.strerror(process.exitcode)}")
            self._deaths += 1
            if self._deaths > MAX_DEATHS:
                how = f"{self._deaths} workers ended one after the other (exit status {process.exitcode})"
                raise WorkerLost(f"{how}, and no trial has ended in between")
            self._processes[number] = self._started()

    def _started(self) -> BaseProcess:
        process = _context().Process(target=_run, args=self._job, daemon=True)
        with without_main(), children_ignore_ctrl_c():
            process.start()
        return process


def _context() -> multiprocessing.context.SpawnContext | multiprocessing.context.ForkServerContext:
    """Return how processes start: forked from one that has imported what they need, where the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rmsprop.lab.tuning.worker"])
    return context


def _run(*job: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and ends this process
    end_with_parent()
    try:
        work_on(*job)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise SystemExit(error.errno) from None  # without a traceback: the parent says it
