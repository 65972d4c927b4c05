"""The worker processes of a study as tasks of a Ray cluster. Optuna's storage stays the only truth."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from rmsprop.errors import InputError, Received
from rmsprop.lab.runs.workers import WorkerLost
from rmsprop.lab.tuning.crew import MAX_DEATHS
from rmsprop.lab.tuning.worker import work_on


@contextmanager
def ray_crew(address: str | None, count: int, *job: Any) -> Iterator[RayCrew]:
    """Connect to a Ray cluster, or start one on this host, and yield `count` workers there."""
    import ray

    with redirect_stdout(sys.stderr):  # Ray reports lost nodes on stdout, which belongs to the command's result
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False)
        except Exception as error:  # ConnectionError, ValueError, RuntimeError: Ray's own words say which
            found = Received(f"{address}: {' '.join(str(error).split())[:200]}")
            raise InputError("--address", "that of a running Ray cluster", found, "ray status shows it") from None
        try:
            with RayCrew(count, *job) as crew:
                yield crew
        finally:
            ray.shutdown()


def check_ray(address: str | None) -> None:
    """Check that Ray is installed and that HOST:PORT takes connections; Ray itself would try for minutes.

    Raises
    ------
    ModuleNotFoundError
        If Ray is not installed.
    InputError
        If the address refuses.
    """
    if find_spec("ray") is None:
        raise ModuleNotFoundError("--cluster ray needs ray: pip install 'rmsprop[cluster]'", name="ray")
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if not colon:  # None starts a cluster, and "auto" finds one
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        found = Received(f"{address}: {error}")
        raise InputError("--address", "that of a running Ray cluster", found, "ray status shows it") from None


class RayCrew:
    """`count` tasks of Ray, of one core each, which run `work_on` until the study is finished. A context.

    A task whose node is lost is placed anew, and its trial runs again.
    """

    def __init__(self, count: int, *job: Any) -> None:
        import ray

        self._ray = ray
        self._work = ray.remote(num_cpus=1, max_retries=0)(work_on)
        self._count, self._job = count, job
        self._tasks: list[Any] = []
        self._deaths = 0

    def __enter__(self) -> RayCrew:
        self._tasks = [self._work.remote(*self._job) for _ in range(self._count)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=True)

    def tend(self, *, progressed: bool) -> None:
        """Place tasks anew that have failed; raise WorkerLost if task after task fails although no trial ends."""
        self._deaths *= not progressed
        ended, _ = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        for task in ended:
            try:
                self._ray.get(task)
            except Exception as error:
                self._deaths += 1
                if self._deaths > MAX_DEATHS:
                    raise WorkerLost(f"{self._deaths} tasks of Ray failed one after the other: {error}") from error
                self._tasks[self._tasks.index(task)] = self._work.remote(*self._job)
