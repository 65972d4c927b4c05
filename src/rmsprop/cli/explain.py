"""`rmsprop explain`: a rule in equations and numbers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.table import Table

from rmsprop.cli.common import Flag, print_result
from rmsprop.cli.rule_options import NO_OPTIONS, RuleOptions, chosen_rule, given_values
from rmsprop.cli.terminal import stdout
from rmsprop.errors import InputError
from rmsprop.profiles import PROFILES

if TYPE_CHECKING:
    from rmsprop.explain import WorkedStep


def explain(
    *,
    recipe: str | None = None,
    options: RuleOptions = NO_OPTIONS,
    worked_example: Flag = False,
    json: Flag = False,
) -> None:
    """Print a rule in equations and numbers.

    Try:
      rmsprop explain
      rmsprop explain --lr 0.01 --decay 0.9 --worked-example
      rmsprop explain --profile tf1 --lr 0.045 --momentum 0.9 --eps 1
      rmsprop explain --recipe impala-atari

    Parameters
    ----------
    recipe
        A published training in place of a profile; rmsprop recipes lists them.
    worked_example
        Add two steps, by hand, of two parameters whose gradients differ a thousandfold.
    json
        Print the numbers as JSON.
    """
    from rmsprop.explain import equations, numbers
    from rmsprop.explain import worked_example as work
    from rmsprop.recipes import recipe as published

    given = given_values(options)
    whole = None if recipe is None else published(recipe).changed(**given)
    if whole and options.profile is not None:
        raise InputError("--profile", "left out with --recipe", options.profile, "a recipe has its profile")
    unsaid = ["--" + name.replace("_", "-") for name in whole.open] if whole else []
    if unsaid and worked_example:
        raise InputError("--worked-example", f"given with {', '.join(unsaid)}", True, "the source leaves them open")
    rule = None if unsaid else whole.rule() if whole else chosen_rule(options)
    steps = work(rule) if worked_example and rule else []
    facts: dict[str, Any] = {}
    about: list[str] = []
    if options.profile is not None:
        whose = PROFILES[options.profile]
        facts["profile"] = {"title": whose.title, "differs": whose.differs, "source": whose.source}
        about += [whose.title, whose.differs, f"Source: {whose.source}", ""]
    if whole:
        facts["recipe"] = {**whole.facts(), "changed": sorted(given)}
        about += [whole.explain(), ""]
        about += [f"Not as published, but as given here: {', '.join(given)}", ""] if given else []
    if rule:
        facts |= {"rule": dataclasses.asdict(rule), "equations": equations(rule), **numbers(rule)._asdict()}
        about.append(rule.explain())
    else:
        about.append(f"For the equations give what the source leaves open: {', '.join(unsaid)}")
    if worked_example:
        facts["worked_example"] = [step._asdict() for step in steps]

    def show() -> None:
        stdout.print("\n".join(about), markup=False)
        if steps:
            stdout.print()
            stdout.print(worked_table(steps))

    print_result(json, facts, show)


def worked_table(steps: list[WorkedStep]) -> Table:
    """Return the worked example as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "parameter", "gradient", "v", "rate η/d", "change of p"):
        table.add_column(name, justify="left" if name == "parameter" else "right")
    for s in steps:
        values = (f"{x:.6g}" for x in (s.gradient, s.square_avg, s.rate, s.change))
        table.add_row(str(s.step), s.parameter, *values)
    return table
