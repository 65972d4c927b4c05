"""A training that writes its records and checkpoints to a run directory, and goes on after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rmsprop.lab.runs.checkpoints import Saver
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.interrupts import Interrupted, stop_signals
from rmsprop.lab.runs.measured_steps import StepRecorder
from rmsprop.lab.runs.schema import TrainRecord
from rmsprop.lab.runs.trackers import Trackers
from rmsprop.lab.runs.training import TrainingLoop

_PAUSE = 0.2  # seconds between two writes of records
Listener = Callable[[TrainingLoop, list[TrainRecord]], None]


class RecordedTraining:
    """A training whose records and checkpoints rank 0 writes to a run directory."""

    def __init__(self, run: RunDirectory, training: TrainingLoop, every: int, trackers: Trackers) -> None:
        self.run, self.training, self.every, self._trackers = run, training, every, trackers
        self.processes = training.processes
        measured = every if self.processes.is_first else 0  # replicas are equal
        self.steps = StepRecorder(run, training, measured, trackers.sinks)
        self._records = 0  # lines of records.jsonl, as the checkpoint counts them
        self._unwritten: list[TrainRecord] = []
        self._next_write = 0.0

    @property
    def lost_records(self) -> int:
        """Number of records that a crash has cost."""
        return max(0, self._records - len(self.run.records()))

    def restore(self) -> None:
        """Restore the run's checkpoint and drop the records of later steps. Without a checkpoint, drop all records."""
        read: list[dict[str, Any]] = []
        location = None if self.processes.count == 1 else "cpu"  # another process has another device
        self.processes.on_first(lambda: self.run.load_checkpoint(read.append, location))
        for state in self.processes.on_first(lambda: read):
            with self.processes.together(), self.run.checking_checkpoint():
                self._load_state_dict(state)
        step = self.training.step if read else -1
        if self.processes.is_first:
            self.run.keep_records_until(step, self._records)
            self.steps.begin(step)

    def run_to_end(self, listen: Listener) -> None:
        """Train to the end, with checkpoints. After SIGINT or SIGTERM of any process, save and raise Interrupted."""
        saver = Saver(self.run)
        is_first = self.processes.is_first
        with stop_signals() as stopped, self._writing():
            for new in self.training.run():
                if is_first:
                    self._write_records(new)
                    listen(self.training, new)
                    self._trackers.show(new, float(self.training.scheduler.get_last_lr()[0]))
                self._records += len(new)
                step = self.training.step  # 0 is the start, which needs no checkpoint
                stop, due = self.processes.any(bool(stopped), is_first and saver.due())
                if step and self.training.resumable and (stop or due):
                    self._save(saver)
                if stop:
                    self.processes.on_first(lambda: _interrupt(self.training))
            self._save(saver)

    def _write_records(self, new: list[TrainRecord]) -> None:
        """Write new records, at most every `_PAUSE` seconds: opening a file takes as long as a small network's step."""
        self._unwritten += new
        if self._unwritten and (now := monotonic()) >= self._next_write:
            self._flush()
            self._next_write = now + _PAUSE

    def _flush(self) -> None:
        records, self._unwritten = self._unwritten, []
        self.run.append(records)  # after an error, they are not written twice

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write all records at the end, also after an error."""
        try:
            yield
        finally:
            self._flush()

    def _save(self, saver: Saver) -> None:
        self._flush()  # before the checkpoint, which counts them
        state = self._state_dict()
        self.processes.on_first(lambda: saver.save(state))

    def _state_dict(self) -> dict[str, Any]:
        self.steps.write()
        return {
            "training": self.training.state_dict(),
            "watch": self.steps.state_dict(),
            "records": self._records,
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.training.load_state_dict(state["training"])
        self.steps.load_state_dict(state["watch"])
        self._records = state["records"]


def _interrupt(training: TrainingLoop) -> None:
    raise Interrupted(f"stopped after step {training.step} of {training.total_steps}")
