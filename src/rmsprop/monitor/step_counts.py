"""How many steps an optimizer executed and skipped, as far as its monitor knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmsprop.monitor.torch_record import executed_steps

if TYPE_CHECKING:
    from rmsprop.torch import RMSprop


class StepCounts:
    """Counts steps as the optimizer does: skipped steps and those that raise are not executed.

    A device may skip a step without telling the host. Such a step counts as executed until `sync`.

    Attributes
    ----------
    skipped
        Steps skipped so far, for nonfinite="skip" or by a GradScaler.
    skipped_last
        The newest of these in a row, up to now.
    """

    def __init__(self, optimizer: RMSprop) -> None:
        self._optimizer = optimizer
        self._step: int | None = None  # with the one in progress; None: read it later, a state may yet be loaded
        self._in_progress = False  # also after a step that raised: the next one has its number
        self._unsynced = 0  # steps since `sync`
        self.skipped = self.skipped_last = 0
        self._nonfinite_offsets = -int(optimizer.nonfinite_steps), 0  # see `nonfinite`

    def begin(self) -> int:
        """Return the number of the step that begins."""
        step = self.step
        if not self._in_progress:
            self._in_progress = True
            step += 1
            self._step = step
        return step

    def end(self) -> int | None:
        """Return the number of the step that was executed, None if a state was loaded in it."""
        if not self._in_progress:
            return None
        self._in_progress = False
        self._unsynced += 1
        if self._optimizer.step_state.unsynced_skips is None:  # else only `sync` tells whether it was skipped
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
        """The newest step, executed or in progress."""
        if self._step is None:
            self._step = executed_steps(self._optimizer.state)
        return self._step

    @property
    def executed(self) -> int:
        """The number of executed steps."""
        return self.step - self._in_progress

    def sync(self) -> None:
        """Ask the devices which steps they skipped, and take these back."""
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
        """Return how many steps met a gradient that was not finite; `measured` are those that the ring saw.

        The optimizer counts them, but not in every mode. What was measured and skipped is then the better count.
        """
        by_optimizer, by_monitor = self._nonfinite_offsets
        return max(by_optimizer + int(self._optimizer.nonfinite_steps), by_monitor + measured + self.skipped)

    def restart(self, step: int, *, nonfinite: int, measured: int, skipped: int) -> None:
        """Go on from a state that the optimizer has loaded; `measured` of its `nonfinite` steps are in the ring."""
        self._step, self._in_progress = step, False
        self.skipped, self.skipped_last = skipped, 0
        self._nonfinite_offsets = nonfinite - int(self._optimizer.nonfinite_steps), nonfinite - measured - skipped
