"""Write the steps that a run's monitor measures to statistics.jsonl, and keep them in step with the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.training import TrainingLoop
from rmsprop.monitor import Monitor, PostMortem
from rmsprop.monitor.findings.findings_record import findings_record
from rmsprop.monitor.record import Record as StepRecord

STATISTICS = "statistics.jsonl"
KEPT = 1000  # newest steps whose sums stay in memory and in the checkpoint, for a post-mortem


class StepRecorder:
    """Measure the steps of a training and write the records to its run's directory.

    The monitor also keeps sums of each of the newest `KEPT` steps, so that a divergence is explained step by step.

    Parameters
    ----------
    run
        Directory for the records.
    training
        Training whose optimizer is measured.
    every
        Steps from one measured step to the next; 0 measures nothing.
    sinks
        Other functions that take each new record.
    """

    def __init__(
        self,
        run: RunDirectory,
        training: TrainingLoop,
        every: int,
        sinks: Sequence[Callable[[dict[str, Any]], None]] = (),
    ) -> None:
        self._run = run
        self._new: list[dict[str, Any]] = []  # not yet in the file
        self._written = 0
        self._monitor = (
            Monitor(training.optimizer, training.model, every=every, last=KEPT, sinks=[self._new.append, *sinks])
            if every
            else None
        )

    def write(self) -> None:
        """Append the new records to the file."""
        if self._new:
            self._run.append(self._new, STATISTICS)
            self._written += len(self._new)
            self._new.clear()

    def write_findings(self) -> None:
        """Append the findings in the file's records to the file."""
        if records := measured_steps(self._run):
            self._run.append([findings_record(records)], STATISTICS)

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which a resumed run goes on to measure without a gap."""
        monitor = None if self._monitor is None else self._monitor.state_dict()
        return {"written": self._written, "monitor": monitor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self._written = state["written"]
        if self._monitor is not None:
            self._monitor.load_state_dict(state["monitor"])

    def begin(self, step: int) -> None:
        """Drop records after `step`, the checkpoint's step. Give the others to the monitor."""
        if self._monitor is not None:
            self._run.keep_records_until(step, self._written, STATISTICS)
            self._monitor.records[:] = measured_steps(self._run)

    def post_mortem(self) -> PostMortem | None:
        """Return where the run diverged; None if it did not diverge or nothing was measured."""
        return None if self._monitor is None else self._monitor.post_mortem()


def measured_steps(run: RunDirectory) -> list[StepRecord]:
    """Return the records of the measured steps; an empty list if nothing was measured."""
    return run.records(STATISTICS)
