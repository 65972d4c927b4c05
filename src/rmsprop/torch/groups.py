"""Check the hyperparameters of parameter groups, and convert groups to rules and back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, wraps
from operator import itemgetter
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from rmsprop.errors import InputError, Received, check_flag, may_change, plain, require
from rmsprop.hyperparameters import ALIASES, EVERYWHERE, HYPERPARAMETERS, names_in
from rmsprop.profiles import VERSION, VERSION_KEY
from rmsprop.rule import Rule
from rmsprop.torch.private import dispatch_modes
from rmsprop.torch.state import state_dtype

# {key in a parameter group: field of Rule}, for the fields that tensor operations implement.
FIELDS = names_in("torch", EVERYWHERE)
# {key of a group: field of Rule}, for fields that no engine implements.
_MISSING_FIELDS = names_in("torch", HYPERPARAMETERS.keys() - set(FIELDS.values()))
# The other arguments of RMSprop, with their defaults: how a step is executed and what its state is stored in.
EXECUTION = {
    "capturable": False,
    "foreach": None,
    "differentiable": False,
    "fused": None,
    "state_dtype": None,
    "stochastic_rounding": False,
    "sparse": "exact",
    "nonfinite": "propagate",
}
# The arguments that torch.optim.RMSprop has, too.
_OF_TORCH = (
    *("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize"),
    *("capturable", "foreach", "differentiable"),
)
# {argument: (allowed values, remedy for another value)}.
_CHOICES: dict[str, tuple[tuple[str | None, ...], str]] = {
    "state_dtype": ((None, "bfloat16", "uint8"), "None keeps float32 for float16 and bfloat16 parameters"),
    "sparse": (("exact", "lazy"), "'exact' equals dense gradients, 'lazy' is TensorFlow's rule"),
    "nonfinite": (("propagate", "skip", "zero"), "'skip' skips the whole step, 'zero' zeroes the elements"),
}
RULE_NAMES = tuple(name for name in FIELDS if name != "lr")
STORAGE = (*_CHOICES, "stochastic_rounding")
_FLAGS = tuple(name for name, field in FIELDS.items() if HYPERPARAMETERS[field].below is None)
_TORCH_NAMES = {field: name for name, field in FIELDS.items()}
# {name in another library or in Rule: key in a parameter group}; `add_param_group` warns of these names.
_OTHER_NAMES = {
    name: _TORCH_NAMES[field]
    for name, field in {**ALIASES, **{field: field for field in _TORCH_NAMES}}.items()
    if field in _TORCH_NAMES and name not in FIELDS
}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def from_group(*keys: str) -> Callable[[Callable[..., Result]], Callable[[dict[str, Any]], Result]]:
    """Decorate a function of the values of `keys`: the caller passes a group, and results are cached."""
    values_of = itemgetter(*keys)

    def decorate(function: Callable[..., Result]) -> Callable[[dict[str, Any]], Result]:
        @lru_cache(maxsize=256, typed=True)
        def cached(*values: Any) -> Result:
            if any(map(may_change, values)):
                raise TypeError("a number that may change in place")
            return function(*values)

        @wraps(function)
        def of_group(group: dict[str, Any]) -> Result:
            values = values_of(group)
            try:
                return cached(*values)
            except TypeError:  # not cacheable: unhashable, or a number that may change in place
                return function(*values)

        return of_group

    return decorate


def complete_groups(groups: Iterable[dict[str, Any]], defaults: Mapping[str, Any]) -> None:
    """Add to groups the arguments that torch's class lacks: who rewrote the groups may know torch's only."""
    for index, group in enumerate(groups):
        if VERSION_KEY in group:
            continue
        for name in _OF_TORCH:
            require(name in group, f"group {index}", f"one with {name}", Received("one without"), "keep what it had")
        for name in (*FIELDS, *EXECUTION):
            default = EXECUTION[name] if name in EXECUTION else getattr(Rule, FIELDS[name])
            group.setdefault(name, defaults.get(name, default))
        group[VERSION_KEY] = VERSION


def lr_number(lr: float | Tensor) -> float:
    """Return a learning rate as a float."""
    return float(lr.item()) if isinstance(lr, Tensor) else float(lr)


def rule_of(group: dict[str, Any]) -> Rule:
    """Check a group and return its rule. The rule's lr is the default, since reading a Tensor lr may synchronize."""
    lr = group["lr"]
    if type(lr) is not float or not 0 <= lr < math.inf:
        check_lr(group)
    if torch.compiler.is_compiling():  # dynamo cannot trace itemgetter, and would trace into the cache
        return rule_from(*[group[name] for name in RULE_NAMES])
    return _cached_rule(group)


def group_of(rule: Rule) -> dict[str, Any]:
    """Return the hyperparameters of a group that follows `rule`, with the default execution."""
    return {**{name: getattr(rule, field) for name, field in FIELDS.items()}, **EXECUTION}


def check_lr(group: dict[str, Any]) -> None:
    """Raise InputError if a group's lr is out of range. A Tensor off the CPU is not read: the host would wait."""
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if lr.device.type != "cpu" or torch.compiler.is_compiling() or dispatch_modes():
            return
        try:
            lr = lr.item()
        except RuntimeError:
            _check_one_element(lr)
            return  # only a transform of torch.func knows its value
        if 0 <= lr < math.inf:
            return
    # A schedule that falls to 0 may end below 0 by a rounding error, as LinearLR does.
    is_noise = isinstance(lr, float) and -1e-12 * group.get("initial_lr", 0.0) <= lr < 0
    HYPERPARAMETERS["lr"].checked(0.0 if is_noise else lr)


def _check_one_element(lr: Tensor) -> None:
    got = Received(f"shape {tuple(lr.shape)}")
    require(lr.numel() == 1, "lr", "a number or a one-element Tensor", got, "give each rate a parameter group")


def rule_from(*values: Any) -> Rule:
    """Check the values of a group, in the order of RULE_NAMES, and return their rule."""
    try:
        return Rule(**{FIELDS[name]: value for name, value in zip(RULE_NAMES, values, strict=True)})
    except InputError as error:
        raise InputError(_TORCH_NAMES[error.name], error.allowed, error.value, error.remedy) from None


_cached_rule = from_group(*RULE_NAMES)(rule_from)


def other_names(group: Mapping[str, Any]) -> dict[str, str]:
    """Return {key: argument} for every key that is another library's name of an argument which `group` lacks."""
    return {name: ours for name, ours in _OTHER_NAMES.items() if name in group and ours not in group}


def answers_other_names(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a constructor: TypeErrors for other libraries' names say ours, which Python's own would not."""

    @wraps(function)
    def answering(*positional: Arguments.args, **arguments: Arguments.kwargs) -> Result:
        for name, ours in other_names(arguments).items():
            raise TypeError(f"{name} must be omitted, got {arguments[name]!r}; its name here, as in torch, is {ours}")
        if "betas" in arguments:
            remedy = "β₂ is alpha; β₁ is momentum with first_moment=True"
            raise TypeError(f"betas must be omitted, got {arguments['betas']!r}; {remedy}")
        return function(*positional, **arguments)

    return answering


@from_group(*STORAGE)
def check_storage(*values: Any) -> None:
    """Raise InputError if a group's state_dtype, sparse, nonfinite or stochastic_rounding is out of range."""
    for (name, (choices, remedy)), value in zip(_CHOICES.items(), values, strict=False):
        allowed = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
        require((value is None or isinstance(value, str)) and value in choices, name, allowed, value, remedy)
    seed = plain(values[-1])
    is_seed = seed is False or (isinstance(seed, int) and 0 < seed < 2**31)
    allowed = "False, True or a seed from 1 to 2³¹ − 1"
    require(is_seed, "stochastic_rounding", allowed, seed, "True is the seed 1")


def warn_of_other_names(others: dict[str, str]) -> None:
    """Warn of `other_names` at the caller of `add_param_group`, if there are any."""
    if others:
        advice = " and ".join(f"{ours!r} instead of {name!r}" for name, ours in others.items())
        text = f"rmsprop: {', '.join(others)} in a parameter group is kept for wrappers and does not affect steps"
        warnings.warn(f"{text}; if meant for this optimizer, pass {advice}", stacklevel=3)


def check_params(group: dict[str, Any], explicit_rounding: Any) -> None:
    """Raise InputError for state, rounding or execution that parameters of a group cannot have."""
    for p in group["params"]:
        state_dtype(group, p)
        if group["fused"] and group["capturable"] and p.device.type == "cpu":
            allowed = "None or False with capturable=True on the CPU"
            raise InputError("fused", allowed, True, "omit fused or capturable")
    if explicit_rounding and all(p.dtype != torch.bfloat16 for p in group["params"]):
        raise nothing_to_round(explicit_rounding)


def nothing_to_round(stochastic_rounding: Any) -> InputError:
    """Return the error of an argument that has no parameter to act on."""
    return InputError("stochastic_rounding", "False without bfloat16 parameters", stochastic_rounding, "omit it")


def check_values(group: dict[str, Any], *, restored: bool = False) -> dict[str, Any]:
    """Check `group` and return a copy with hyperparameters as Python numbers. Other keys stay.

    A number in a Tensor stays a Tensor, since its owner may change the number, unless it was `restored` from a file. A
    Tensor lr always stays. Raises InputError for a value out of range.
    """
    group = dict(group)
    for name in (*FIELDS, *EXECUTION):
        is_kept = isinstance(group[name], Tensor) if name == "lr" else may_change(group[name]) and not restored
        if not is_kept:
            group[name] = plain(group[name])
    lr = group["lr"]
    if isinstance(lr, Tensor):
        _check_one_element(lr)
        if lr.device.type not in ("cpu", "meta"):  # no step waits for this synchronization
            HYPERPARAMETERS["lr"].checked(lr)
    for name, field in _MISSING_FIELDS.items():
        default = getattr(Rule, field)
        require(
            group.get(name, default) == default, name, f"{default!r} in rmsprop.torch", group.get(name), f"omit {name}"
        )
    rule = rule_of(group)
    group |= {name: getattr(rule, FIELDS[name]) for name in _FLAGS}
    for name in ("capturable", "differentiable"):
        group[name] = check_flag(name, group[name])
    for name in ("foreach", "fused"):
        if group[name] is not None:
            group[name] = check_flag(name, group[name], "pass True, False or None")
    check_storage(group)
    if group["differentiable"]:
        require(not group["foreach"], "foreach", "None or False with differentiable=True", True, "omit foreach")
        for name in ("state_dtype", "stochastic_rounding"):
            allowed = f"{EXECUTION[name]} with differentiable=True"
            require(not group[name], name, allowed, group[name], f"omit {name}")
    if group["fused"]:
        for name in ("foreach", "differentiable"):
            allowed = f"None or False with {name}=True"
            require(not group[name], "fused", allowed, True, f"omit fused or {name}")
    return group
