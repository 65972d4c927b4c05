"""`rmsprop convert`: move the state of an optimizer from one checkpoint to another."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from rmsprop.cli.common import Failure, Flag, print_result
from rmsprop.cli.rule_options import KnownOptions, given_values
from rmsprop.cli.terminal import stdout
from rmsprop.errors import InputError, Received

if TYPE_CHECKING:
    from rmsprop.checkpoint import Checkpoint, Conversion


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
    known: KnownOptions = None,
    json: Flag = False,
) -> None:
    """Move an optimizer's state from one library's checkpoint to another's.

    Kinds: torch, rmsprop.torch, adam, nadam, timm, sb3, bitsandbytes (read only),
    keras, rmsprop.keras, keras-adam, keras-nadam, tf1, optax, optax-adam, rmsprop.jax.

    Options of the rule give the values that the source's file does not state. A
    Keras .weights.h5 needs --momentum and --centered, or --from keras-adam. A tree
    of optax.adam needs --from optax-adam.

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
        Kind of the source; read from the file if omitted.
    to
        Kind of the target; if omitted that of --like, else that of the target's name.
    lr
        Learning rate of the next step; the file's if omitted.
    like
        A checkpoint of the program that will load the target. The target keeps its names, order, groups, shapes and
        all other contents.
    map_
        JSON file of {source name: target name or {"to": name, "transpose": [axes]}}; --dry-run prints one.
    weights
        Move the model's weights, too: between a .keras file and a .pt that holds model and optimizer.
    dry_run
        Write nothing; print every mismatch and the map. Exit status 1 if there is a mismatch.
    json
        Print what was done as JSON.
    """
    from rmsprop.checkpoint import convert as convert_checkpoint
    from rmsprop.checkpoint import plan, read
    from rmsprop.checkpoint.files import read_mapping, read_template, target_kind, write_checkpoint

    state = read(source, from_, weights=weights, **given_values(known))
    template = None
    if like is not None:
        template = read_template(like, state, to, weights=weights)
        to = template.state.kind
    to = to or target_kind(target)
    if to is None:
        raise InputError("--to", "given if TARGET's name implies no kind", Received("none"), "for example --to optax")
    mapping = None if map_ is None else read_mapping(map_)
    make = plan if dry_run else convert_checkpoint
    conversion = make(state, to, lr=lr, like=template.state if template else None, mapping=mapping)
    if not dry_run:
        write_checkpoint(conversion.checkpoint, target, template)
    facts = conversion_facts(state, conversion, None if dry_run else target)
    print_result(json, facts, lambda: show_conversion(stdout, facts))
    if conversion.problems:
        raise Failure


def conversion_facts(source: Checkpoint, conversion: Conversion, target: Path | None) -> dict[str, Any]:
    """Return what was read, what moved, and the problems."""
    from rmsprop.checkpoint import AVERAGES, WEIGHTS

    converted = conversion.checkpoint
    done = not conversion.problems
    moved = [name for name in (*AVERAGES, *WEIGHTS) if any(getattr(p, name) is not None for p in converted.parameters)]
    return {
        "from": source.kind,
        "to": converted.kind,
        "parameters": sum(p.square_avg is not None for p in source.parameters),
        "step": source.step,
        "source_rule": [dict(group) for group in source.groups],
        "moved": moved if done else [],
        "target_rule": [dict(group) for group in converted.groups] if done else [],
        "notes": list(conversion.notes) if done else [],
        "problems": list(conversion.problems),
        "written": str(target) if target else None,
        **({} if target else {"map": dict(conversion.mapping)}),
    }


def show_conversion(console: Console, facts: dict[str, Any]) -> None:
    """Print what moved, what is not bit for bit the same, and the problems."""
    step = "steps unknown" if facts["step"] is None else f"step {facts['step']}"
    console.print(f"{facts['from']} to {facts['to']}: {facts['parameters']} parameters, {step}", markup=False)
    for problem in facts["problems"]:
        console.print(f"  PROBLEM  {problem}", markup=False)
    if facts["moved"]:
        console.print(f"  moved    {', '.join(facts['moved'])}; copied bit for bit unless noted", markup=False)
    for note in facts["notes"]:
        console.print(f"  note     {note}", markup=False)
    done = f"written: {facts['written']}" if facts["written"] else "nothing was written"
    console.print(done, markup=False)
    if "map" in facts:
        entries = ",\n".join(f"  {dumps(name)}: {dumps(entry)}" for name, entry in facts["map"].items())
        console.print(f"the map, for --map FILE:\n{{\n{entries}\n}}", markup=False)
