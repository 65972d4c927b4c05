"""The table of hyperparameters: one entry for each field of `rmsprop.Rule`, in the same order.

The table has ranges, names in other libraries, and the averages that a rule keeps. Defaults and descriptions are in
`Rule`, which readers open first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from rmsprop.errors import check_flag, check_number, require


@dataclass(frozen=True)
class Hyperparameter:
    """One field of `Rule`: its range, its names in other libraries, its average.

    Parameters
    ----------
    name
        The field.
    below
        Numbers lie in [0, below). None means True or False.
    remedy
        The end of the message for a value out of range.
    names
        Its name in each library that uses another one, by profile.
    average
        The average that the rule keeps only while this value is neither 0 nor False.
    """

    name: str
    below: float | None = None
    remedy: str = "pass True or False"
    names: Mapping[str, str] = field(default_factory=dict)
    average: str | None = None

    def checked(self, value: object, name: str = "") -> float | bool:
        """Return `value` as a float or bool, or raise InputError, with `name` in place of the field's name."""
        name = name or self.name
        if self.below is None:
            return check_flag(name, value, self.remedy)
        return check_number(name, value, self.remedy, below=self.below)

    def name_in(self, library: str) -> str:
        """Return the field's name in a library. `library` is a profile."""
        return self.names.get(library, self.name)


def _called(**libraries: str) -> dict[str, str]:
    """Return {profile: argument} from argument="profile profile"."""
    return {library.replace("_", "-"): name for name, of in libraries.items() for library in of.split()}


HYPERPARAMETERS: dict[str, Hyperparameter] = {
    each.name: each
    for each in (
        Hyperparameter(
            "lr", math.inf, "1e-4 to 1e-2 is usual",
            _called(learning_rate="tf1 keras keras-legacy optax lasagne"),
        ),
        Hyperparameter(
            "decay", 1.0, "0.9 averages over about 10 steps, 0.99 over about 100",
            _called(alpha="torch timm sb3", rho="keras keras-legacy lasagne", beta2="adam-b1-0"),
        ),
        Hyperparameter(
            "eps", math.inf, "1e-8 is usual",
            _called(epsilon="tf1 keras keras-legacy lasagne"),
        ),
        Hyperparameter("momentum", 1.0, "0 switches momentum off, 0.9 is usual", average="momentum_buffer"),
        Hyperparameter("weight_decay", math.inf, "1e-5 to 1e-2 is usual"),
        Hyperparameter("centered", average="grad_avg"),
        Hyperparameter("nesterov"),
        Hyperparameter("eps_inside_sqrt", names=_called(eps_in_sqrt="optax")),
        Hyperparameter(
            "initial_square_avg", math.inf, "0 (PyTorch) or 1 (TensorFlow 1) is usual",
            _called(initial_scale="optax"),
        ),
        Hyperparameter("lr_in_momentum"),
        Hyperparameter("bias_correction"),
        Hyperparameter("decoupled_weight_decay", names=_called(decoupled_decay="timm")),
        Hyperparameter("maximize"),
        Hyperparameter("first_moment"),
        Hyperparameter("momentum_decay", math.inf, "0 keeps momentum constant; NAdam: 4e-3 (PyTorch) or 1 (Keras)"),
        Hyperparameter("amsgrad", average="max_square_avg"),
    )
}  # fmt: skip

# The fields that `explain` and every adapter implement. A module that implements more adds them in its FIELDS.
EVERYWHERE = (
    "lr", "decay", "eps", "momentum", "weight_decay", "centered", "nesterov", "eps_inside_sqrt", "initial_square_avg",
    "lr_in_momentum", "bias_correction", "decoupled_weight_decay", "maximize", "first_moment", "momentum_decay",
    "amsgrad",
)  # fmt: skip

# {name in another library: field of Rule}
ALIASES: dict[str, str] = {name: each.name for each in HYPERPARAMETERS.values() for name in each.names.values()}


def names_in(library: str, fields: Collection[str] = HYPERPARAMETERS.keys()) -> dict[str, str]:
    """Return {argument of the library: field of Rule} for `fields`, in the order of the table.

    >>> names_in("keras", ("lr", "decay"))
    {'learning_rate': 'lr', 'rho': 'decay'}
    """
    return {each.name_in(library): each.name for each in HYPERPARAMETERS.values() if each.name in fields}


def averages(rule: Any) -> tuple[str, ...]:
    """Return the names of the averages that a rule keeps for each parameter.

    >>> from rmsprop import Rule
    >>> averages(Rule(momentum=0.9))
    ('square_avg', 'momentum_buffer')
    """
    formed = (each.average for each in HYPERPARAMETERS.values() if each.average and getattr(rule, each.name))
    return ("square_avg", *formed)


def missing_fields(rule: Any, fields: Collection[str]) -> list[str]:
    """Return the fields of a rule that differ from their default and are not among `fields`."""
    own = dataclasses.fields(rule)
    return [each.name for each in own if each.name not in fields and getattr(rule, each.name) != each.default]


def check_fields(rule: Any, fields: Collection[str], adapter: str) -> None:
    """Raise InputError if a rule sets a field outside `fields`, the fields that `adapter` implements."""
    defaults = {each.name: each.default for each in dataclasses.fields(rule)}
    for name in missing_fields(rule, fields):
        allowed = f"{defaults[name]!r} in {adapter}"
        require(False, name, allowed, getattr(rule, name), f"{adapter} lacks this variant; rmsprop.update has all")
