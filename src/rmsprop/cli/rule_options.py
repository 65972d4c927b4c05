"""Options for the fields of a rule, with the names, types, help and defaults of `rmsprop.Rule`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from rmsprop.cli.help_text import joined
from rmsprop.cli.terminal import stdout
from rmsprop.errors import InputError
from rmsprop.profiles import PROFILES, profile
from rmsprop.recipes import Recipe, recipe
from rmsprop.rule import Rule

_FIELDS = dataclasses.fields(Rule)
_PROFILE = Parameter(
    help=f"The library whose RMSprop has the values that you do not set: {', '.join(PROFILES)}. [default: torch, as "
    "shown]"
)


def _options(name: str, *fields: tuple[str, Any, None], group: str = "Rule") -> Any:
    """Return the annotation of a parameter that holds options: a dataclass with None for each option not given."""
    namespace = {"__doc__": joined(stdout.shown(Rule.__doc__ or "")), "__module__": __name__}
    options = dataclasses.make_dataclass(name, fields, namespace=namespace, eq=False, repr=False)
    return Annotated[options | None, Parameter(name="*", group=group)]


def _field(field: Any, *, show: bool = True) -> tuple[str, Any, None]:
    """Return the option of a field. Help shows the rule's default, unless it is 0 or False."""
    parameter = Parameter(show=show, show_default=lambda _: field.default or None)
    return field.name, Annotated[type(field.default) | None, parameter], None


if TYPE_CHECKING:
    RuleOptions: TypeAlias = Any
    RatelessOptions: TypeAlias = Any
    KnownOptions: TypeAlias = Any
else:
    # All fields of a rule.
    RuleOptions = _options("RuleOptions", ("profile", Annotated[str | None, _PROFILE], None), *map(_field, _FIELDS))
    # For a command that chooses the rate itself: help hides --lr, and `rule_without_rate` refuses it.
    RatelessOptions = _options(
        "RatelessOptions",
        ("profile", Annotated[str | None, _PROFILE], None),
        *(_field(field, show=field.name != "lr") for field in _FIELDS),
    )
    # Fields that a source's file does not state. No defaults, and no lr: convert has its own --lr.
    KnownOptions = _options(
        "KnownOptions",
        *((field.name, type(field.default) | None, None) for field in _FIELDS if field.name != "lr"),
        group="Rule of the source, where its file does not state it",
    )


def chosen_rule(options: RuleOptions) -> Rule:
    """Return the rule of the given profile, with the given values."""
    return _rule(options, given_values(options))


def chosen_recipe(name: str | None, options: RuleOptions) -> Rule | Recipe:
    """Return the recipe of this name with the given values; without a name, the rule of the options."""
    if name is None:
        return chosen_rule(options)
    if chosen_profile(options) is not None:
        raise InputError("--profile", "omitted with --recipe", chosen_profile(options), "a recipe has its profile")
    return recipe(name).changed(**given_values(options))


def rule_without_rate(options: RatelessOptions, remedy: str) -> Rule:
    """Return the rule of the options, for a command that chooses the rate itself; InputError if --lr is given."""
    values = given_values(options)
    if "lr" in values:
        raise InputError("--lr", "omitted", values["lr"], remedy)
    return _rule(options, {"lr": Rule.lr, **values})  # some profiles have no default rate


def _rule(options: Any, values: dict[str, Any]) -> Rule:
    name = chosen_profile(options)
    return profile("torch" if name is None else name, **values)


def chosen_profile(options: RuleOptions) -> str | None:
    """Return the given profile, or None."""
    name: str | None = None if options is None else options.profile
    return name


def given_values(options: RuleOptions) -> dict[str, Any]:
    """Return the given fields of the rule with their values."""
    values = {} if options is None else vars(options)
    return {name: value for name, value in values.items() if value is not None and name != "profile"}
