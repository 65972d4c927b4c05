"""When a training saves: often, to resume from the newest checkpoint, and apart, to replay its last steps from another.

checkpoint.pt is the newest state. before-STEP.pt are two older ones, APART steps or more between them. Of any step to
come, one of them, or the start of the run, is therefore at least APART steps behind and not much more.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rmsprop.lab.runs.directory import RunDirectory

APART = 100
NEAR = 1000
_KEPT = 2
_NAME = "before-{}.pt"


class Saver:
    """Saves once a second, or so that saving takes at most a twentieth of the time.

    At the end of a run, and when it is stopped, only checkpoint.pt is written, by `RunDirectory.save_checkpoint`: what
    a replay of the steps just made may need is not pushed out.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._pause, self._saved = 1.0, time.monotonic()

    def due(self) -> bool:
        """Return whether it is time to save."""
        return time.monotonic() - self._saved > self._pause

    def save(self, state: dict[str, Any], step: int) -> None:
        """Save the state after `step`."""
        began = time.monotonic()
        before = _kept(self._run)
        if not before or step - max(before) >= APART:
            self._run.save_checkpoint(state, _NAME.format(step))
            for _, old in sorted(before.items())[: 1 - _KEPT]:
                old.unlink()
        else:
            self._run.save_checkpoint(state)
        self._saved = time.monotonic()
        self._pause = max(1.0, 20 * (self._saved - began))


def before(run: RunDirectory, step: int, good: int) -> tuple[int, str | None]:
    """Return the step and the name of the checkpoint from which the last steps of a run are replayed.

    It is the newest that is APART steps or more before `step` and not after `good`, the last step known to be so. Where
    there is none, it is 0 and None, the start, if that is near or the only one; else the oldest.
    """
    steps = sorted(at for at in _kept(run) if at <= step - APART)
    usable = [at for at in steps if at <= good]
    if not steps or (not usable and step <= NEAR):
        return 0, None
    chosen = usable[-1] if usable else steps[0]
    return chosen, _NAME.format(chosen)


def forget(run: RunDirectory) -> None:
    """Delete the checkpoints that only a replay needs."""
    for path in _kept(run).values():
        path.unlink()


def _kept(run: RunDirectory) -> dict[int, Path]:
    """Return the files of the older checkpoints by their steps."""
    paths = {path.stem.partition("-")[2]: path for path in run.path.glob(_NAME.format("*"))}
    return {int(step): path for step, path in paths.items() if step.isascii() and step.isdecimal()}
