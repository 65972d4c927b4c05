"""The commands about rules and their state: explain, recipes, convert."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from rmsprop.cli.common import Failure, Flag, print_result, stdout
from rmsprop.cli.rule_options import NO_OPTIONS, NOTHING_KNOWN, KnownOptions, RuleOptions, chosen_rule, given_values
from rmsprop.errors import InputError, Received
from rmsprop.profiles import PROFILES


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
            from rmsprop.cli.terminal import worked_table

            stdout.print()
            stdout.print(worked_table(steps))

    print_result(json, facts, show)


def recipes(*, json: Flag = False) -> None:
    """List the published trainings that explain --recipe knows.

    In a program, rmsprop.recipe(NAME) makes them ready to use.

    Try:
      rmsprop recipes
      rmsprop explain --recipe efficientnet-v1

    Parameters
    ----------
    json
        Print all of them, with every number and source, as JSON.
    """
    from rmsprop.cli.terminal import show_recipes
    from rmsprop.recipes import RECIPES

    print_result(json, {name: each.facts() for name, each in RECIPES.items()}, lambda: show_recipes(stdout, RECIPES))


def convert(
    source: Path,
    target: Path,
    /,
    *,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    to: str | None = None,
    lr: float | None = None,
    like: Path | None = None,
    map_: Annotated[Path | None, Parameter(name="--map")] = None,
    weights: Flag = False,
    dry_run: Flag = False,
    known: KnownOptions = NOTHING_KNOWN,
    json: Flag = False,
) -> None:
    """Move an optimizer's state from one library's checkpoint to another's.

    Kinds: torch, rmsprop.torch, timm, sb3, bitsandbytes (read only), keras,
    rmsprop.keras, tf1, optax, rmsprop.jax.

    The options from --decay to --maximize say of the source's rule what its
    file does not state; --momentum and --centered for a Keras .weights.h5.

    Try:
      rmsprop convert model.keras run.pt --like start.pt --weights
      rmsprop convert model.keras state.pt --to rmsprop.torch
      rmsprop convert state.pt new.keras --like old.keras --map axes.json
      rmsprop convert state.pt new.keras --like old.keras --dry-run
      rmsprop convert model.ckpt-100 state.msgpack --from tf1 --to optax

    Parameters
    ----------
    source
        Checkpoint to read. Nothing in it is executed.
    target
        Checkpoint to write; must not exist.
    from_
        Kind of the source; told by the file if left out.
    to
        Kind of the target; that of --like, else told by its name, if left out.
    lr
        Learning rate of the next step; the file's if left out.
    like
        A checkpoint of the program that will go on: its names, order, groups and shapes, and all else in it, are kept.
    map_
        JSON of {source name: target name, or {"to": name, "transpose": [axes]}}; --dry-run prints one.
    weights
        Move the model's weights, too, between a .keras file and a .pt with the model beside the optimizer.
    dry_run
        Write nothing; name every mismatch, print the map, and fail if there is a mismatch.
    json
        Print what was done as JSON.
    """
    from rmsprop.checkpoint import convert as convert_checkpoint
    from rmsprop.checkpoint import plan, read, write
    from rmsprop.checkpoint.files import read_mapping, target_kind
    from rmsprop.cli.terminal import conversion_facts, show_conversion

    state = read(source, from_, weights=weights, **given_values(known))
    template = None
    if like is not None:
        said = state.groups[0] if like.suffix == ".h5" else {}  # such a file holds the same variables as the source
        template = read(
            like, to, weights=weights, **{name: said[name] for name in ("momentum", "centered") if name in said}
        )
        to = template.kind
    to = to or target_kind(target)
    if to is None:
        raise InputError("--to", "given where the target's name does not tell", Received("none"), "say --to optax")
    mapping = None if map_ is None else read_mapping(map_)
    make = plan if dry_run else convert_checkpoint
    conversion = make(state, to, lr=lr, like=template, mapping=mapping)
    if not dry_run:
        write(conversion.checkpoint, target, like=like)
    facts = conversion_facts(state, conversion, None if dry_run else target)
    print_result(json, facts, lambda: show_conversion(stdout, facts))
    if conversion.problems:
        raise Failure
