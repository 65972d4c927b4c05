"""The plan of a study: everything that decides its trials. Workers get it from its storage, on any host."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmsprop.errors import InputError
from rmsprop.lab.intervals import least_pairs
from rmsprop.lab.tuning.draws import startup_trials
from rmsprop.lab.tuning.space import DIMENSIONS, RULES, Choices, Range, Setting, Space, chosen_space, grid
from rmsprop.lab.verdicts import CONFIDENCE
from rmsprop.lab_options import TuneOptions
from rmsprop.profiles import profile
from rmsprop.rule import Rule

USUAL_TRIALS = 40
NOISE_SEEDS = 3  # trainings of the default in its trial: their spread is the noise of a seed
CONFIRMING_SEED = 1000  # first seed of the trainings that confirm: those of the search are smaller
SEARCH_SHARE = 0.6  # of the minutes; the rest confirms

_NOT_ADAMS = ("centered", "bias_correction")  # with another value, Adam would be another optimizer
_OF_TORCH = ("lr", "schedule", "warmup")  # what an optimizer of torch is tuned by
_OF_TRAININGS = ("schedule", "warmup", "eps")  # a function of a rule and a seed has none of them
_DEFAULT_RATES = {"SGD": 0.001, "momentum": 0.001, "AdaGrad": 0.01, "Adadelta": 1.0}  # of torch's classes


@dataclass(frozen=True)
class Plan:
    """What a study tries.

    Attributes
    ----------
    trials
        Slots of each search; an estimate if the budget is in epochs or minutes.
    total_epochs, seconds
        Budgets of the whole study, or None.
    defaults, spaces
        The default setting and the domains of each optimizer, by name; RMSprop comes first.
    gradient_rms
        √v̂ of the probe run, the unit of the coordinate eps; None if eps is not tuned.
    suggested
        Rate that the range test suggests, the second trial of RMSprop; None if it suggests none.
    """

    trials: int
    total_epochs: int | None
    seconds: float | None
    defaults: dict[str, Setting]
    spaces: dict[str, Space]
    sampler: str
    pruner: str
    seed: int
    top: int
    seeds: int
    cost: int
    confirming_cost: int
    higher_is_better: bool
    gradient_rms: float | None = None
    suggested: float | None = None

    def first(self, optimizer: str) -> list[Setting]:
        """Return the settings that are tried before any is drawn: the default, and at the suggested rate."""
        default = self.defaults[optimizer]
        if optimizer != "RMSprop" or self.suggested is None:
            return [default]
        rule = dataclasses.replace(default.rule, lr=self.suggested)
        return [default, dataclasses.replace(default, rule=rule)]

    def grid_slots(self, optimizer: str) -> int:
        """Return the number of slots of a grid, which may be smaller than the budget."""
        first = len(self.first(optimizer))
        return first + len(grid(self.spaces[optimizer], self.trials - first))

    def full_cost(self, slot: int) -> int:
        """Return the epochs of a search trial that is not stopped."""
        return self.cost * (NOISE_SEEDS if slot == 0 else 1)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return {
            **dataclasses.asdict(self),
            "defaults": {name: setting.to_json() for name, setting in self.defaults.items()},
            "spaces": {name: space_to_json(space) for name, space in self.spaces.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """Return the plan of `to_json`."""
        return cls(
            **{
                **values,
                "defaults": {name: Setting.from_json(each) for name, each in values["defaults"].items()},
                "spaces": {name: space_from_json(each) for name, each in values["spaces"].items()},
            }
        )


def space_to_json(space: Space) -> dict[str, Any]:
    """Return the domains as plain values."""
    return {name: dataclasses.asdict(domain) for name, domain in space.items()}


def space_from_json(values: Mapping[str, Any]) -> Space:
    """Return the domains of `space_to_json`."""
    return {
        name: Choices(tuple(each["values"])) if "values" in each else Range(**each) for name, each in values.items()
    }


def make_plan(
    rule: Rule,
    options: TuneOptions,
    *,
    cost: int,
    confirming_cost: int,
    higher_is_better: bool,
    seconds_of_epoch: float,
    workers: int,
    trains: bool = True,
) -> Plan:
    """Return the plan of a study, without what a probe measures.

    `seconds_of_epoch` and `workers` estimate the number of trials from a budget in minutes. `trains` tells whether a
    trial is a training, with epochs and a schedule, and not a call of a function.

    Raises
    ------
    InputError
        If the budget is too small, or the space has an unknown name or an empty range.
    """
    names = ["RMSprop", *dict.fromkeys(options.baseline or ())]
    least = least_pairs(1 - (1 - CONFIDENCE) / (options.top + len(names) - 1))
    if options.seeds < least:
        remedy = f"fewer cannot show that one of {options.top + len(names) - 1} settings is better; or lower --top"
        raise InputError("--seeds", f"at least {least} here", options.seeds, remedy)
    confirming = (options.top + len(names)) * options.seeds * confirming_cost
    seconds = None if options.minutes is None else 60 * options.minutes
    trials = options.trials or USUAL_TRIALS
    if options.total_epochs is not None:
        trials = (options.total_epochs - confirming) // (cost * len(names)) - NOISE_SEEDS + 1
        needed = confirming + len(names) * cost * (NOISE_SEEDS + 1)
        if trials < 2:
            remedy = f"{confirming} of them confirm the best: fewer --seeds or --top need fewer"
            raise InputError("--total-epochs", f"at least {needed} here", options.total_epochs, remedy)
    elif seconds is not None:
        fitting = seconds * SEARCH_SHARE * workers / max(cost * seconds_of_epoch, 1e-9) / len(names)
        trials = int(min(max(fitting, 2), 100_000))
    spaces, defaults = {}, {}
    for name in names:
        defaults[name] = dataclasses.replace(_default(name, rule), schedule=options.schedule or "constant")
        only = [d for d in _coordinates(name) if trains or d not in _OF_TRAININGS]
        if options.schedule is not None:
            only.remove("schedule")
        spaces[name] = chosen_space(
            options.space or (), trials, everything=options.all_parameters, only=only, strict=name == "RMSprop"
        )
        if options.sampler == "grid":
            grid(spaces[name], trials - 1)  # raises if the budget is too small for it
    if seconds is not None and options.sampler == "grid":
        raise InputError("--sampler", "another with --minutes", options.sampler, "a grid needs a number of --trials")
    return Plan(
        trials=trials,
        total_epochs=options.total_epochs,
        seconds=seconds,
        defaults=defaults,
        spaces=spaces,
        sampler=options.sampler,
        pruner=options.pruner,
        seed=options.seed,
        top=options.top,
        seeds=options.seeds,
        cost=cost,
        confirming_cost=confirming_cost,
        higher_is_better=higher_is_better,
    )


def _default(name: str, rule: Rule) -> Setting:
    """Return what an optimizer trains with before any tuning."""
    if name == "RMSprop":
        return Setting(rule)
    if name in RULES:
        return Setting(profile(RULES[name], lr=0.001), optimizer=name)
    return Setting(Rule(lr=_DEFAULT_RATES[name]), optimizer=name)


def _coordinates(name: str) -> list[str]:
    """Return the coordinates that an optimizer is tuned by."""
    if name not in RULES:
        return list(_OF_TORCH)
    return [d for d in DIMENSIONS if name == "RMSprop" or d not in _NOT_ADAMS]


def phase(plan: Plan, slot: int) -> str:
    """Return how the values of a slot are chosen, in a word for the table."""
    if slot == 0:
        return "default"
    if slot == 1 and plan.suggested is not None:
        return "find-lr"
    return "qmc" if plan.sampler == "tpe" and slot < startup_trials(plan.trials) else plan.sampler
