"""Where a training went wrong: steps of it done again, from the start or a checkpoint, and every one measured.

A training is bit for bit reproducible, so that the steps before a divergence need not be measured while it goes on: a
healthy run pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rmsprop.lab.runs.training import Record, Training
from rmsprop.monitor import Monitor, PostMortem
from rmsprop.monitor.record import Record as StepRecord

MOST = 1000  # steps that are measured; those before them are only repeated


@dataclass(frozen=True)
class Replay:
    """What came of it."""

    first: int  # of the steps that were to be measured
    last: int  # of those that were; before `first` where the replay stopped being finite on the way there
    same: bool  # whether it met the losses of the run, bit for bit
    post_mortem: PostMortem | None

    def to_dict(self) -> dict[str, Any]:
        """Return it without the post-mortem, but whether there is one."""
        return {"first": self.first, "last": self.last, "same": self.same, "went_wrong": self.post_mortem is not None}


def replay(
    again: Training, last: int, losses: list[Record], statistics: list[StepRecord], listen: Callable[[Training], None]
) -> Replay:
    """Train `again`, which stands at an earlier step of a run, to step `last`, and measure on the way.

    `losses` are the run's records; the replay goes on, unmeasured, to the next one of them, so that they can be
    compared. `statistics` are those that the monitor made in the run, for what was before. `listen` is called after
    every step, and may raise.
    """
    first = max(again.step, last - MOST)
    sums = {r["step"]: r["losses_crc"] for r in losses if r["kind"] == "loss"}
    steps, same = again.run(), False
    if again.step == 0:
        next(steps)  # before the first step

    def go_to(step: int) -> None:
        nonlocal same
        while again.step < step and not again.diverged:
            for new in next(steps):
                if new["kind"] == "loss" and new["step"] in sums:  # some may be lost, but a sum is of all losses so far
                    same = sums.get(new["step"]) == new["losses_crc"]
            listen(again)

    go_to(first)
    with Monitor(again.optimizer, again.model, every=1, last=max(1, last - first)) as monitor:
        monitor.records += [record for record in statistics if record["step"] <= again.step]
        go_to(last)
        measured, seen = again.step, monitor.post_mortem()
    go_to(min((step for step in sums if step >= last), default=last))
    return Replay(first + 1, measured, same, seen)
