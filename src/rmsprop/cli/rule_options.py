"""Options that say a rule: one for every field of Rule, made from it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from rmsprop.errors import InputError
from rmsprop.profiles import PROFILES, profile
from rmsprop.rule import Rule


def _rule_options(*, rate: bool) -> Any:
    """Return a class with an option for every field of Rule, None where it is not given, and one for the profile.

    Without `rate` help does not show --lr, which the command refuses in its own words.
    """
    chosen = Parameter(
        help=f"Whose RMSprop, for what is not given below: {', '.join(PROFILES)}. [default: torch, as shown]"
    )
    options: list[tuple[str, Any, Any]] = [("profile", Annotated[str | None, chosen], None)]
    for field in dataclasses.fields(Rule):
        default = Parameter(
            show=rate or field.name != "lr",
            show_default=lambda _, value=field.default: value or None,  # type: ignore[misc]
        )
        options.append((field.name, Annotated[type(field.default) | None, default], None))
    named = {"__doc__": Rule.__doc__, "__module__": __name__}
    return dataclasses.make_dataclass("RuleOptions", options, frozen=True, namespace=named)


_Options, _RatelessOptions = _rule_options(rate=True), _rule_options(rate=False)
# What is known of a rule: an option for every field but lr, which convert has itself.
_Known = dataclasses.make_dataclass(
    "KnownOptions",
    [(field.name, type(field.default) | None, None) for field in dataclasses.fields(Rule) if field.name != "lr"],
    frozen=True,
    namespace={"__doc__": Rule.__doc__, "__module__": __name__},
)
if TYPE_CHECKING:
    RuleOptions: TypeAlias = Any
    RatelessOptions: TypeAlias = Any
    KnownOptions: TypeAlias = Any
else:
    RuleOptions = Annotated[_Options, Parameter(name="*")]
    RatelessOptions = Annotated[_RatelessOptions, Parameter(name="*")]
    KnownOptions = Annotated[_Known, Parameter(name="*")]
# Nothing given.
NO_OPTIONS, NO_RATELESS, NOTHING_KNOWN = _Options(), _RatelessOptions(), _Known()


def chosen_rule(options: Any) -> Rule:
    """Return the rule that the options describe: the profile's, with the values that are given."""
    return profile("torch" if options.profile is None else options.profile, **given_values(options))


def rule_without_rate(options: Any, remedy: str) -> Rule:
    """Return the rule that the options describe, of a command that has rates of its own: --lr is refused."""
    if options.lr is not None:
        raise InputError("--lr", "left out", options.lr, remedy)
    return chosen_rule(dataclasses.replace(options, lr=Rule.lr))  # some profiles demand a rate


def given_values(options: Any) -> dict[str, Any]:
    """Return the values of the rule's fields that are given."""
    values = dataclasses.asdict(options)
    return {name: value for name, value in values.items() if value is not None and name != "profile"}
