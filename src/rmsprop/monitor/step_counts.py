"""Count the steps that an optimizer executed and skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmsprop.monitor.torch_record import executed_steps

if TYPE_CHECKING:
    from rmsprop.torch import RMSprop


class StepCounts:
    """Counts steps as the optimizer does: skipped steps and steps that raise are not executed.

    A device may skip a step without reporting it to the host. Such a step counts as executed until `sync`.

    Attributes
    ----------
    skipped
        Steps skipped so far, by nonfinite="skip" or a GradScaler.
    skipped_last
        Steps skipped since the newest executed step.
    """

    def __init__(self, optimizer: RMSprop) -> None:
        self._optimizer = optimizer
        self._step: int | None = None  # counts the step in progress; None: not read yet, a state may be loaded first
        self._in_progress = False  # stays True after a step that raised: the next step gets its number
        self._unsynced = 0  # steps ended since `sync`
        self.skipped = self.skipped_last = 0
        self._nonfinite_offsets = -int(optimizer.nonfinite_steps), 0  # see `nonfinite`

    def begin(self) -> int:
        """Begin a step, and return its number."""
        step = self.step
        if not self._in_progress:
            self._in_progress = True
            step += 1
            self._step = step
        return step

    def end(self) -> int | None:
        """End the step in progress, and return its number; None if a state was loaded during the step."""
        if not self._in_progress:
            return None
        self._in_progress = False
        self._unsynced += 1
        if self._optimizer.step_state.unsynced_skips is None:  # else only `sync` knows whether it was skipped
            self.skipped_last = 0
        return self._step

    def skip(self) -> None:
        """Count the step in progress as skipped."""
        self._step = self.executed
        self._in_progress = False
        self.skipped += 1
        self.skipped_last += 1

    @property
    def step(self) -> int:
        """The number of the newest step, executed or in progress."""
        if self._step is None:
            self._step = executed_steps(self._optimizer.state)
        return self._step

    @property
    def executed(self) -> int:
        """The number of executed steps."""
        return self.step - self._in_progress

    def sync(self) -> None:
        """Ask the devices how many steps they skipped, and count these as skipped."""
        shared, unsynced = self._optimizer.step_state, self._unsynced
        self._unsynced = 0
        if shared.unsynced_skips is None:
            return
        skips, shared.unsynced_skips = int(shared.unsynced_skips), None
        self.skipped_last = self.skipped_last + skips if skips == unsynced else 0
        self.skipped += skips
        if self._step is not None:
            self._step -= skips

    def nonfinite(self, measured: int) -> int:
        """Return how many steps met a non-finite gradient; `measured` is the number that the ring knows.

        The optimizer does not count them in every mode. So the larger of two counts is returned: the optimizer's, and
        measured plus skipped steps.
        """
        by_optimizer, by_monitor = self._nonfinite_offsets
        return max(by_optimizer + int(self._optimizer.nonfinite_steps), by_monitor + measured + self.skipped)

    def restart(self, step: int, *, nonfinite: int, measured: int, skipped: int) -> None:
        """Continue from a state that the optimizer has loaded; the ring knows `measured` of its `nonfinite` steps."""
        self._step, self._in_progress = step, False
        self.skipped, self.skipped_last = skipped, 0
        self._nonfinite_offsets = nonfinite - int(self._optimizer.nonfinite_steps), nonfinite - measured - skipped
