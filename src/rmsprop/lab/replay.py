"""Where a training went wrong: its last steps done again from a checkpoint, and every one measured.

A training is bit for bit reproducible, so that the steps before a divergence need not be measured while it goes on: a
healthy run pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rmsprop.lab.training import Record, Training
from rmsprop.monitor import Monitor, PostMortem

MOST = 1000  # steps that are measured; those before them are only repeated


@dataclass(frozen=True)
class Replay:
    """What came of it."""

    first: int  # of the steps that were measured
    last: int
    same: bool  # whether it met the losses of the run, bit for bit
    post_mortem: PostMortem | None

    def to_dict(self) -> dict[str, Any]:
        """Return it without the post-mortem."""
        return {"first": self.first, "last": self.last, "same": self.same}


def replay(again: Training, ended: Training, records: list[Record], listen: Callable[[Training], None]) -> Replay:
    """Train `again`, which stands at an earlier step of the same run, to where `ended` is, and measure on the way.

    `records` are those that the monitor made in the run, for what was before. `listen` is called after every step, and
    may raise.
    """
    first = max(again.step, ended.step - MOST)
    steps = again.run()
    if again.step == 0:
        next(steps)  # before the first step

    def go_to(step: int) -> None:
        while again.step < step and not again.diverged:
            next(steps)
            listen(again)

    go_to(first)
    with Monitor(again.optimizer, again.model, every=1, last=max(1, ended.step - first)) as monitor:
        monitor.records += [record for record in records if record["step"] <= again.step]
        go_to(ended.step)
        same = (again.step, again.losses_crc) == (ended.step, ended.losses_crc)
        return Replay(first + 1, again.step, same, monitor.post_mortem())
