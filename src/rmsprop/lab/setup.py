"""How a model is trained: its optimizer, schedule, clipping and average, made for the length of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rmsprop.lab_options import TrainOptions
from rmsprop.recipes import Clip, Recipe, Training
from rmsprop.recipes.schedules import (
    Constant,
    Cosine,
    Linear,
    RunFacts,
    Schedule,
    Steps,
    Warmup,
    WeightEma,
)
from rmsprop.recipes.torch_parts import clipping
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop

CONSTANT = Constant()


class RunLength(NamedTuple):
    """Steps of an epoch and of the whole run, and examples of a step; None if they are not fixed."""

    steps_per_epoch: int
    total_steps: int
    batch_size: int | None


Setup: TypeAlias = Callable[[nn.Module, RunLength], Training]

# By the name of --schedule.
SCHEDULES: dict[str, Constant | Linear | Cosine | Steps] = {
    "constant": CONSTANT,
    "linear": Linear(),
    "cosine": Cosine(),
    "steps": Steps(),
}


class ConstantRate(LambdaLR):
    """A LambdaLR whose rate stays: a step counts, and sets no rate."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer, lambda _step: 1.0)

    def step(self, epoch: int | None = None) -> None:
        """Count a step. `epoch` is torch's argument; it is not used."""
        if self.last_epoch < 0:  # the constructor's own step
            super().step()
        else:
            self.last_epoch += 1


def with_optimizer(
    make: Callable[[Iterable[nn.Parameter]], Optimizer], schedule: Schedule = CONSTANT, clip: float | None = None
) -> Setup:
    """Return the setup of an optimizer, made from the model's parameters, a schedule, and a largest gradient norm."""

    def setup(model: nn.Module, length: RunLength) -> Training:
        optimizer: Any = make(model.parameters())
        run = RunFacts(1.0, length.steps_per_epoch, length.total_steps)
        scheduler = (
            ConstantRate(optimizer)
            if isinstance(schedule, Constant)
            else LambdaLR(optimizer, lambda step: float(schedule.fraction(step, run)))
        )
        clips = None if clip is None else clipping(Clip("norm", clip))
        return Training(optimizer, scheduler, clip=clips, clamp=None, ema=None)

    return setup


def with_recipe(used: Recipe, make: Callable[..., Any] = RMSprop.from_rule, **arguments: Any) -> Setup:
    """Return the setup of a recipe. `arguments` are those of `RMSprop` that are no fields of a rule.

    `make` makes the optimizer from parameters, rule and arguments.
    """

    def setup(model: nn.Module, length: RunLength) -> Training:
        known = {name: getattr(length, name) for name in used.schedule.needs}
        if used.rate_follows_batch:
            known["batch_size"] = length.batch_size
        made = used.torch(model, optimizer=lambda params, rule: make(params, rule, **arguments), **known)
        return made._replace(scheduler=ConstantRate(made.optimizer)) if isinstance(used.schedule, Constant) else made

    return setup


def recipe_of(rule: Rule | Recipe, options: TrainOptions) -> Recipe:
    """Return the recipe of a training: `rule`, with schedule, warm-up, clipping and average from the options.

    Parts that the options leave out are those of the recipe, if `rule` is one.
    """
    if isinstance(rule, Rule):
        rule = Recipe("own", "a rule with options", "torch", vars(rule), CONSTANT, sources=())
    changes: dict[str, Any] = {}
    if options.schedule is not None or options.warmup:
        schedule = SCHEDULES[options.schedule or "constant"]
        changes["schedule"] = Warmup(options.warmup, schedule) if options.warmup else schedule
    if options.clip is not None:
        changes["clip"] = Clip("norm", options.clip)
    if options.average is not None:
        changes["weight_ema"] = WeightEma(options.average)
    return dataclasses.replace(rule, **changes)
