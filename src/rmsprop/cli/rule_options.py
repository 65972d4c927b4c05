"""Options for the fields of a rule. Names, types, help and defaults are those of `rmsprop.Rule`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from rmsprop.cli.terminal import stdout
from rmsprop.errors import InputError
from rmsprop.profiles import PROFILES, profile
from rmsprop.rule import Rule

_FIELDS = dataclasses.fields(Rule)
_PROFILE = Parameter(
    help=f"Whose RMSprop, for what is not given below: {', '.join(PROFILES)}. [default: torch, as shown]"
)


def _options(name: str, *fields: tuple[str, Any, None], group: str = "Rule") -> Any:
    """Return a dataclass of options, each of them None until it is given, as a command's annotation."""
    namespace = {"__doc__": stdout.shown(Rule.__doc__ or ""), "__module__": __name__}
    options = dataclasses.make_dataclass(name, fields, namespace=namespace, eq=False, repr=False)
    return Annotated[options | None, Parameter(name="*", group=group)]


def _field(field: Any, *, show: bool = True) -> tuple[str, Any, None]:
    """Return the option of a field. Help shows the default of the rule that the option changes, unless it is 0."""
    parameter = Parameter(show=show, show_default=lambda _: field.default or None)
    return field.name, Annotated[type(field.default) | None, parameter], None


if TYPE_CHECKING:
    RuleOptions: TypeAlias = Any
    RatelessOptions: TypeAlias = Any
    KnownOptions: TypeAlias = Any
else:
    # The whole rule.
    RuleOptions = _options("RuleOptions", ("profile", Annotated[str | None, _PROFILE], None), *map(_field, _FIELDS))
    # The rule of a command that has rates of its own: help hides --lr, and `rule_without_rate` refuses it.
    RatelessOptions = _options(
        "RatelessOptions",
        ("profile", Annotated[str | None, _PROFILE], None),
        *(_field(field, show=field.name != "lr") for field in _FIELDS),
    )
    # What the user knows of a rule: without defaults, and without lr, which convert has itself.
    KnownOptions = _options(
        "KnownOptions",
        *((field.name, type(field.default) | None, None) for field in _FIELDS if field.name != "lr"),
        group="Rule of the source, where its file does not tell",
    )


def chosen_rule(options: RuleOptions) -> Rule:
    """Return the rule that the options describe: the profile's, with the values that are given."""
    return _rule(options, given_values(options))


def rule_without_rate(options: RatelessOptions, remedy: str) -> Rule:
    """Return the rule that the options describe, for a command that has rates of its own: --lr is refused."""
    values = given_values(options)
    if "lr" in values:
        raise InputError("--lr", "left out", values["lr"], remedy)
    return _rule(options, {"lr": Rule.lr, **values})  # some profiles demand a rate


def _rule(options: Any, values: dict[str, Any]) -> Rule:
    name = chosen_profile(options)
    return profile("torch" if name is None else name, **values)


def chosen_profile(options: RuleOptions) -> str | None:
    """Return the profile that is given."""
    name: str | None = None if options is None else options.profile
    return name


def given_values(options: RuleOptions) -> dict[str, Any]:
    """Return the values of the rule's fields that are given."""
    values = {} if options is None else vars(options)
    return {name: value for name, value in values.items() if value is not None and name != "profile"}
