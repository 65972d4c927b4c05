"""The processes of one training, as torchrun starts them: who they are, and how they agree.

Each process is a rank. Rank 0 writes the run. One process alone is the plain case, without a process group.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from rmsprop.errors import InputError, Received

T = TypeVar("T")

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_GRACE = 2.0  # seconds from SIGTERM to the end of a process that may have to say why it ends
# What torch's errors say when another process has ended. Those of gloo are plain RuntimeErrors.
_LOST = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset|was aborted)|Broken pipe")


class ProcessLost(Exception):  # noqa: N818  (named for what happened)
    """Another process of this training has ended; the run can be resumed from its checkpoint."""


class ToldElsewhere(Exception):  # noqa: N818  (named for what happened)
    """Ends a process for a reason that another process tells the user.

    `lost` says whether a process was lost; otherwise all processes end in good order.
    """

    def __init__(self, *, lost: bool) -> None:
        super().__init__("another process of this training says why it ended")
        self.lost = lost


@dataclass(frozen=True)
class Processes:
    """The processes of one training.

    Attributes
    ----------
    rank, count
        Index of this process, and number of processes.
    """

    rank: int = 0
    count: int = 1
    _group: Any = None  # on the CPU: flags and plain values never wait for a GPU

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes the run and speaks to the user."""
        return self.rank == 0

    def on_first(self, function: Callable[[], T]) -> T:
        """Call `function` on rank 0 and return its result on every rank. Collective.

        If it raises, every rank raises: rank 0 the error, the others ToldElsewhere.
        """
        if self.count == 1:
            return function()
        result: Any = None
        error = None
        if self.is_first:
            try:
                result = function()
            except Exception as raised:
                error = raised
        sent = [result if error is None else _Failed()]
        distributed.broadcast_object_list(sent, src=0, group=self._group)
        if error is not None:
            raise error
        if self.is_first:
            return cast(T, result)
        if isinstance(sent[0], _Failed):
            raise ToldElsewhere(lost=False)
        return cast(T, sent[0])

    def gathered(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order. Collective."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self._group)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set on any rank. Collective."""
        if self.count == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.uint8)
        distributed.all_reduce(votes, op=distributed.ReduceOp.MAX, group=self._group)
        return [bool(vote) for vote in votes.tolist()]

    def sum(self, values: Tensor) -> Tensor:
        """Add up a tensor of all ranks in place, on its device. Collective."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let every rank end if one raises InputError in this context: rank 0 raises it. Collective at the end."""
        error: InputError | None = None
        try:
            yield
        except InputError as raised:
            if self.count == 1:
                raise
            error = raised
        first = next((each for each in self.gathered(error) if each is not None), None)
        if first is not None:
            raise first if self.is_first else ToldElsewhere(lost=False)


class _Failed:
    """Stands for the result of a function that raised on rank 0."""


def several() -> bool:
    """Return whether this process is one of several: in a process group, or started by torchrun."""
    return _rank_and_count()[1] > 1


def is_first() -> bool:
    """Return whether this process is rank 0, or the only one."""
    return _rank_and_count()[0] == 0


def _rank_and_count() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    if not all(os.environ.get(name) for name in _ENVIRONMENT):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def check_alone(command: str) -> None:
    """Raise InputError on rank 0 if there are several processes: only `train` shares its work among them."""
    count = _rank_and_count()[1]
    if not is_first():
        raise ToldElsewhere(lost=False)
    if count > 1:
        remedy = "start it without torchrun" + ("; --jobs trains several at a time" if command == "compare" else "")
        raise InputError(f"the processes of {command}", "one", count, remedy)


def device_of_this_process(name: str) -> str:
    """Return the device that `name` means here: among several processes, each has a GPU of its own.

    Raises
    ------
    InputError
        If several processes cannot share the device.
    """
    if not several():
        return name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
    if name != "cpu":
        allowed = "cpu, cuda or auto for several processes"
        raise InputError("--device", allowed, name, "cuda gives each process a GPU of its own")
    return name


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes of this training, if torchrun has started several; leave them at the end.

    `device` is where this process computes. A process group that exists already is used as it is.

    Raises
    ------
    ProcessLost, ToldElsewhere
        If another process ends before its time. One of the processes that are left raises the first.
    """
    rank, count = _rank_and_count()
    if count == 1:
        yield Processes()
        return
    if not distributed.is_available():
        raise InputError("torch", "built with torch.distributed for several processes", Received("one without"), "")
    exists = distributed.is_initialized()
    try:
        if not exists:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        group: Any = distributed.new_group(backend="gloo")
        yield Processes(rank, count, group)
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and not _LOST.search(str(error)):
            raise
        if not _first_to_tell():
            raise ToldElsewhere(lost=True) from error
        raise ProcessLost(f"another of the {count} processes has ended") from error
    if not exists:  # after an error, leaving could wait for a process that is gone
        distributed.destroy_process_group()


def _first_to_tell() -> bool:
    """Return whether no other process has told the user about the end. torchrun keeps the count."""
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store: Any = distributed.TCPStore(  # type: ignore[attr-defined]
            address, port, is_master=False, timeout=timedelta(seconds=_GRACE)
        )
        return bool(store.add(f"rmsprop told {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", 1) == 1)
    except (KeyError, RuntimeError):
        return True


def end_gently() -> None:
    """After SIGTERM, end within two seconds: torchrun sends it when a process is lost, and this one may say why."""

    def end(number: int, _frame: object) -> None:
        timer = threading.Timer(_GRACE, os._exit, (128 + number,))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, end)
