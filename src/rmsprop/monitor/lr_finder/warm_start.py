"""The warm-up of a range test: how many steps at a rate of 0 an optimizer's averages need.

The test predicts a training at a constant rate, after its start is forgotten. v and m need 2/(1−β) steps to represent
the gradients; a momentum buffer needs 2/(1−μ), and so does an average of gradients. With bias correction, as in Adam, v
needs no warm-up, unless the rule is centered.

Two settings distort a short test but not a long training, so the test switches them off. v₀ = 1 is most of v for many
steps where gradients are small. A training with amsgrad never forgets v₀: there v₀ stays. With `lr_in_momentum`, the
buffer holds the rates of earlier steps, which in a test are all lower.
"""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer

from rmsprop.rule import Rule
from rmsprop.scaling import steps_to_forget

NEARLY = 0.9  # share of μ at which NAdam's schedule counts as over
START_LEFT = 1e-4  # weight in v at which v₀ counts as forgotten: small, as squared gradients are

Group = dict[str, Any]


def forget_start(group: Group) -> None:
    """Let v start at 0 and the buffer sum u instead of η·u, in a group of rmsprop.torch.RMSprop."""
    if _start(group):
        group["initial_square_avg"] = 0.0
    if group.get("lr_in_momentum"):
        group["lr_in_momentum"] = False


def _start(group: Group) -> float:
    """Return the v₀ that a training forgets: 0 with bias correction, which removes v₀, and amsgrad, which keeps it."""
    none = group.get("bias_correction") or group.get("amsgrad")
    return 0.0 if none else float(group.get("initial_square_avg", 0.0))


def warm_steps(optimizer: Optimizer) -> tuple[int, int]:
    """Return how many warm-up steps are missing, and how many are needed in total."""
    worst = (0, 0)
    for group in optimizer.param_groups:
        # β needs no warm-up where the bias of v is corrected, nor does the second of Adam's betas.
        unbiased = group.get("bias_correction") and not group.get("centered")
        alpha, betas = 0.0 if unbiased else group.get("alpha", 0.0), group.get("betas", ())[:1]
        decays = (alpha, group.get("rho", 0.0), group.get("momentum", 0.0), *betas)
        slowest = max(float(x) for x in decays)
        usual = round(2 / (1 - slowest)) if 0 < slowest < 1 else 0
        for p in group["params"]:
            state = optimizer.state.get(p) or {}
            begun = steps_to_forget(Rule(decay=group["alpha"]), START_LEFT) if state and _start(group) else 0
            needed = max(usual, begun)
            made = state.get("step", needed if state else 0)  # SGD counts no steps; its buffer counts as warm
            if p.requires_grad:
                worst = max(worst, (needed - int(made), needed))
    return worst


def warm_notes(optimizer: Optimizer, warm: int) -> list[str]:
    """Return notes on a test that begins with `warm` steps at a rate of 0."""
    lacking, needed = warm_steps(optimizer)
    notes = []
    if warm < lacking:
        notes.append(
            f"only {needed - lacking + warm} of {needed} warm-up steps were run: "
            "low rates may look better than they are"
        )
    for group in optimizer.param_groups:
        start, decay = _start(group), group.get("alpha", 0.0)
        made = [int(optimizer.state[p]["step"]) for p in group["params"] if start and optimizer.state.get(p)]
        if start and len(made) < len(group["params"]):
            count = steps_to_forget(Rule(decay=decay))
            notes.append(
                f"the test began with v = 0 instead of {start:g}: where squared gradients are below that, a training's "
                f"first steps are shorter (v has 1 % of it left after {count} step{'s' * (count > 1)})"
            )
        if made and (left := decay ** (min(made) + warm)) > START_LEFT:
            notes.append(
                f"v still had {100 * left:.2g} % of its start, {start:g}, when the rate began to rise: where squared "
                f"gradients are not far above {left * start:.2g}, steps were too short and the suggestion is too high"
            )
        if psi := group.get("momentum_decay", 0.0):
            mu = group.get("momentum") or group.get("betas", (0.0,))[0]
            begun = max((int(optimizer.state[p]["step"]) for p in group["params"] if optimizer.state.get(p)), default=0)
            reached = 1 - 0.5 * 0.96 ** (psi * (begun + warm))  # μₜ/μ
            if reached < NEARLY:
                steps = math.ceil(math.log(2 * (1 - NEARLY)) / (psi * math.log(0.96)))
                notes.append(
                    f"NAdam's μ was {reached * mu:.2g} when the rate began to rise, and comes near {mu:g} after "
                    f"{steps} steps: later steps bear higher rates"
                )
    return list(dict.fromkeys(notes))
