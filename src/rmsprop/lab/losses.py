"""What the losses of a training say by themselves: that it ran away, although they stayed finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from rmsprop.monitor.findings import Finding
from rmsprop.monitor.history import lower

TIMES = 3.0  # the loss before the first step: not training would have been better
LOST = 0.5, 0.1  # of it: it ends above the first share, and was once below the second one


def ran_away(records: Sequence[dict[str, Any]], lr: float) -> Finding | None:
    """Return the finding that a training's loss has run away, None if it has not.

    The loss before the first step is the larger one of the validation loss then and the training loss of the first
    step, since a model may behave otherwise in training (dropout). Later ones are medians of the training loss over an
    epoch, which a few bad batches do not move; validation losses also rise where a model only learns its training data
    by heart. A loss that is ever negative, or starts at 0, has no scale, and nothing is said of it.
    """
    known = [r for r in records if r["kind"] == "loss" and r["loss"] is not None]
    validation = [r["validation_loss"] for r in records if r["kind"] == "epoch"]
    start = [r["validation_loss"] for r in records if r["kind"] == "epoch" and r["step"] == 0]
    start += [r["first_loss"] for r in known if "first_loss" in r]
    if len(start) < 2 or None in start or max(start) == 0:
        return None
    if any(loss is not None and loss < 0 for loss in (*start, *validation, *(r["loss"] for r in known))):
        return None
    before = max(start)
    epochs: dict[int, list[float]] = {}
    for record in known:
        epochs.setdefault(math.ceil(record["epoch"]), []).append(record["loss"])
    losses = {epoch: median(values) for epoch, values in epochs.items()}
    last, best = max(losses), min(losses, key=lambda epoch: losses[epoch])
    end, least = losses[last], losses[best]
    lost = end > LOST[0] * before and least < LOST[1] * before
    if not (lost or end > TIMES * before):
        return None
    limit = before * (LOST[0] if lost else TIMES)
    steps = [0, *(r["step"] for r in known)]
    rose = next(i for i, r in enumerate(known) if r["loss"] > limit and (not lost or r["epoch"] > best))
    good, high = steps[rose], steps[rose + 1]
    when = f"at step {high}" if high == good + 1 else f"between steps {good} and {high}"
    fell = f" It had fallen to {least:.3g} in epoch {best}." if lost else ""
    return Finding(
        kind="loss",
        tensor=None,
        step=steps[-1],
        sentence=f"The training loss has run away: in epoch {last} it is {end:.3g}, {end / before:.3g} times what it "
        f"was before the first step ({before:.3g}).{fell} It was first above {limit:.3g} {when}.",
        cause=f"steps at lr = {lr:g} went further than their gradients hold, and later ones have not led back",
        evidence={
            "before": before, "least": least, "last": end, "times_before": end / before, "step_before": good,
            "step_above": high,
        },
        threshold=f"{TIMES:g} times the loss before the first step, or {LOST[0]:g} times where it was once below "
        f"{LOST[1]:g} times; medians of epochs",
        advice="a smaller lr, such as rmsprop find-lr suggests",
        changes=({"lr": lower(lr)},),
    )  # fmt: skip
