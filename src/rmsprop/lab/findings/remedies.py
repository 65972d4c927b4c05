"""Write remedies as commands: the run's own command with options changed; for a task made in Python, its call."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any, cast

from rmsprop.lab.runs.schema import CompareConfig, FindingFacts, GivenOptions, RunConfig, TrainConfig
from rmsprop.lab_options import CompareOptions, TrainOptions, option_name, result_options
from rmsprop.monitor.findings import Finding
from rmsprop.recipes import recipe
from rmsprop.rule import Rule

_RULE: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Rule)}
_OPTIONS = {name: value for name, value in result_options(TrainOptions()).items() if name != "every"}


def with_commands(
    finding: Finding, config: TrainConfig, given: GivenOptions, *, range_test: bool = True
) -> FindingFacts:
    """Return a finding about the run of `config` as plain values, with its remedy as commands.

    `range_test` tells whether a range test can judge the task.
    """
    parts = [finding.spelled(lambda change: train_command(config, given, change))]
    if range_test and any("lr" in change and "group" not in change for change in finding.changes):
        parts.append(f"or measure a rate: {find_lr_command(config, given)}")
    return cast(FindingFacts, finding.to_dict() | {"remedy": "; ".join(part for part in parts if part)})


def train_command(config: TrainConfig, given: GivenOptions, change: dict[str, Any]) -> str | None:
    """Return the command that repeats the run of `config` with a change; None if no option makes the change.

    A recipe's own values are left out: its name stands for them.
    """
    if not change.keys() <= {*_RULE, *_OPTIONS}:
        return None
    known = {name: config.get(name, _OPTIONS[name]) for name in _OPTIONS}
    if known["schedule"] == "constant":
        known["schedule"] = None
    usual, asked = {**_RULE, **_OPTIONS}, {**config["rule"], **known, **given}
    own: dict[str, Any] = {}
    if (name := config.get("recipe")) is not None:
        usual |= vars(recipe(name).changed(**config["rule"]).rule())
        own["recipe"] = name
    own |= {name: asked[name] for name in usual if asked[name] != usual[name] and name not in change}
    new = {name: value for name, value in change.items() if value != usual[name]}
    return _command("train", config, {**own, **new})


def compare_command(config: CompareConfig, change: dict[str, Any]) -> str:
    """Return the command that compares the rule of `config`, with a change, on its task."""
    usual = {name: value for name, value in _RULE.items() if name != "lr"}
    asked = {**usual, **config["rule"]}
    own = {name: asked[name] for name in usual if asked[name] != usual[name] and name not in change}
    if config.get("schedule") not in (None, CompareOptions.schedule):
        own["schedule"] = config["schedule"]
    return _command("compare", config, {**own, **change})


def find_lr_command(config: TrainConfig, given: GivenOptions) -> str:
    """Return the command of a range test for the task and rule of `config`."""
    asked = {**config["rule"], "batch_size": given["batch_size"]}
    usual = {**_RULE, "batch_size": None}
    return _command("find-lr", config, {k: x for k, x in asked.items() if k != "lr" and x != usual[k]})


def _command(name: str, config: RunConfig, options: dict[str, Any]) -> str:
    if config.get("from_python"):
        return _call(name.replace("-", "_"), dict(options))
    words = ["rmsprop", name, config["task"]]
    for option, value in options.items():
        words.append(f"--{option_name(option)}")
        if value is not True:
            words.append(value if isinstance(value, str) else _number(value))
    return shlex.join(words)


def _call(function: str, options: dict[str, Any]) -> str:
    """Return the call of `rmsprop.lab` that does what the command of these options does."""
    published = options.pop("recipe", None)
    rule = ", ".join(f"{name}={_literal(options.pop(name))}" for name in list(options) if name in _RULE)
    arguments = ["task"]
    if published is not None:
        arguments.append(f"recipe({published!r})" + (f".changed({rule})" if rule else ""))
    elif rule:
        arguments.append(f"Rule({rule})")
    return f"{function}({', '.join([*arguments, *(f'{name}={_literal(x)}' for name, x in options.items())])})"


def _literal(value: Any) -> str:
    return _number(value) if isinstance(value, float) else repr(value)


def _number(value: float) -> str:
    """Return the shortest text that gives exactly this number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
