"""Find a training loss that ran away but stayed finite."""

from __future__ import annotations

from rmsprop.lab.findings.loss_history import LossHistory
from rmsprop.monitor.findings import Finding
from rmsprop.monitor.findings.finding import lower

RUNAWAY_FACTOR = 3.0  # a loss ran away if it ends above this multiple of the loss before the first step
RISE_AFTER_FALL = 0.5  # or if it ends above this multiple,
DEEP_FALL = 0.1  # and an earlier epoch was below this one


def find_runaway_loss(history: LossHistory, lr: float) -> Finding | None:
    """Return the finding that a training's loss has run away; None if it has not.

    Compares training losses, since validation losses also rise with overfitting. Returns None if losses have no scale
    (see `LossHistory`).
    """
    if not (history.has_scale and history.before and history.training):
        return None
    known, before, losses = history.losses, history.before, history.training
    last, best = max(losses), min(losses, key=lambda epoch: losses[epoch])
    end, least = losses[last], losses[best]
    lost = end > RISE_AFTER_FALL * before and least < DEEP_FALL * before
    if not (lost or end > RUNAWAY_FACTOR * before):
        return None
    limit = before * (RISE_AFTER_FALL if lost else RUNAWAY_FACTOR)
    steps = [0, *(loss.step for loss in known)]
    rose = next(i for i, loss in enumerate(known) if loss.value > limit and (not lost or loss.epoch > best))
    good, high = steps[rose], steps[rose + 1]
    when = f"at step {high}" if high == good + 1 else f"between steps {good} and {high}"
    fell = f" It had fallen to {least:.3g} in epoch {best}." if lost else ""
    return Finding(
        kind="loss",
        tensor=None,
        step=steps[-1],
        sentence=f"The training loss has run away: in epoch {last} it is {end:.3g}, {end / before:.3g} times its "
        f"value before the first step ({before:.3g}).{fell} It was first above {limit:.3g} {when}.",
        cause=f"steps at lr = {lr:g} are too long, and later steps did not recover",
        evidence={
            "before": before, "least": least, "last": end, "times_before": end / before, "step_before": good,
            "step_above": high,
        },
        threshold=f"{RUNAWAY_FACTOR:g} times the loss before the first step, or {RISE_AFTER_FALL:g} times where it "
        f"was once below {DEEP_FALL:g} times; medians of epochs",
        changes=({"lr": lower(lr)},),
    )  # fmt: skip
