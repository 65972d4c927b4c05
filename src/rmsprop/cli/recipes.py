"""`rmsprop recipes`: list the published trainings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console

from rmsprop.cli.common import Flag, print_result
from rmsprop.cli.terminal import stdout

if TYPE_CHECKING:
    from rmsprop.recipes.training_recipe import Recipe


def recipes(*, json: Flag = False) -> None:
    """List the published trainings that explain --recipe knows.

    In a program, rmsprop.recipe(NAME) returns one, ready to use.

    Try:
      rmsprop recipes
      rmsprop explain --recipe efficientnet-v1

    Parameters
    ----------
    json
        Print all of them, with every number and source, as JSON.
    """
    from rmsprop.recipes import RECIPES

    print_result(json, {name: each.facts() for name, each in RECIPES.items()}, lambda: show_recipes(stdout, RECIPES))


def show_recipes(console: Console, recipes: Mapping[str, Recipe]) -> None:
    """Print a table with a line for each recipe."""
    row = "{:<24} {:>7} {:>5} {:>6} {:<7} {:>4}  {}"
    console.print(row.format("recipe", "lr", "decay", "eps", "root", "mom.", "trained"))
    for name, each in recipes.items():
        rule = {field: "open" if value is None else value for field, value in each.facts()["rule"].items()}
        values = (f"{rule[field]:g}" if rule[field] != "open" else "open" for field in ("lr", "decay", "eps"))
        inside = "inside" if rule["eps_inside_sqrt"] else "outside"
        centered = ", centered" if rule["centered"] else ""
        line = row.format(name, *values, inside, f"{rule['momentum']:g}", each.title + centered)
        console.print(line, markup=False)
    console.print("\nrmsprop explain --recipe NAME has schedule, clipping, averaging, sources and notes.", markup=False)
