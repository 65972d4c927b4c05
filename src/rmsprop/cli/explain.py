"""`rmsprop explain`: print a rule in equations and numbers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rmsprop.cli.common import Flag, print_result
from rmsprop.cli.rule_options import RuleOptions, chosen_profile, chosen_rule, given_values
from rmsprop.cli.terminal import print_table, stdout
from rmsprop.errors import InputError
from rmsprop.lab_options import option_name
from rmsprop.profiles import PROFILES

if TYPE_CHECKING:
    from rmsprop.explain import WorkedStep


def explain(
    *,
    recipe: str | None = None,
    rule: RuleOptions = None,
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
        A published training instead of a profile; rmsprop recipes lists them.
    worked_example
        Add two steps of two parameters whose gradients differ a thousandfold, computed by hand.
    json
        Print the numbers as JSON.
    """
    from rmsprop.explain import equations, numbers
    from rmsprop.explain import worked_example as work
    from rmsprop.recipes import recipe as published

    given, profile = given_values(rule), chosen_profile(rule)
    trained = None if recipe is None else published(recipe).changed(**given)
    if trained and profile is not None:
        raise InputError("--profile", "omitted with --recipe", profile, "a recipe has its profile")
    missing = [f"--{option_name(name)}" for name in trained.open] if trained else []
    if missing and worked_example:
        raise InputError("--worked-example", f"given with {', '.join(missing)}", True, "the source leaves them open")
    explained = None if missing else trained.rule() if trained else chosen_rule(rule)
    steps = work(explained) if worked_example and explained else []

    facts: dict[str, Any] = {}
    lines: list[str] = []
    if profile is not None:
        whose = PROFILES[profile]
        facts["profile"] = {"title": whose.title, "differs": whose.differs, "source": whose.source}
        lines += [whose.title, whose.differs, f"Source: {whose.source}", ""]
    if trained:
        facts["recipe"] = {**trained.facts(), "changed": sorted(given)}
        lines += [trained.explain(), ""]
        lines += [f"Not as published, but as given here: {', '.join(given)}", ""] if given else []
    if explained:
        facts |= {"rule": dataclasses.asdict(explained), "equations": equations(explained)}
        facts |= numbers(explained)._asdict()
        lines.append(explained.explain())
    else:
        lines.append(f"For the equations give what the source leaves open: {', '.join(missing)}")
    if worked_example:
        facts["worked_example"] = [step._asdict() for step in steps]
    print_result(json, facts, lambda: show_rule(stdout, lines, steps))


def show_rule(console: Console, lines: list[str], steps: list[WorkedStep]) -> None:
    """Print a rule in words and equations, and the worked example if there is one."""
    console.print("\n".join(lines), markup=False)
    if steps:
        console.print()
        print_table(console, worked_table(steps))


def worked_table(steps: list[WorkedStep]) -> Table:
    """Return the worked example as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "parameter", "gradient", "v", "rate η/d", "change of p"):
        table.add_column(name, justify="left" if name == "parameter" else "right")
    for s in steps:
        values = (f"{x:.6g}" for x in (s.gradient, s.square_avg, s.rate, s.change))
        table.add_row(str(s.step), s.parameter, *values)
    return table
