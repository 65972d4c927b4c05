"""A setting as a line of Python, and as a file that `rmsprop train --rule` takes."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

from rmsprop.errors import InputError, Received
from rmsprop.files import write_atomically
from rmsprop.lab.tuning.space import Setting
from rmsprop.rule import Rule

BEST = "best.toml"
# Fields of a rule by their name as arguments of rmsprop.torch.RMSprop; a rule with another field needs from_rule.
_ARGUMENTS = {
    "lr": "lr", "decay": "alpha", "eps": "eps", "momentum": "momentum", "weight_decay": "weight_decay",
    "centered": "centered", "bias_correction": "bias_correction",
}  # fmt: skip


def python_line(setting: Setting) -> str:
    """Return the line of Python that makes the optimizer.

    >>> python_line(Setting(Rule(lr=0.003, momentum=0.9)))
    'RMSprop(model.parameters(), lr=0.003, momentum=0.9)'
    """
    if setting.optimizer == "SGD":
        return f"torch.optim.SGD(model.parameters(), lr={setting.rule.lr:g})"
    names = {"momentum": "SGD", "AdaGrad": "Adagrad", "Adadelta": "Adadelta"}
    if setting.optimizer in names:
        more = ", momentum=0.9" if setting.optimizer == "momentum" else ""
        return f"torch.optim.{names[setting.optimizer]}(model.parameters(), lr={setting.rule.lr:g}{more})"
    changed = [
        f"{field.name}={getattr(setting.rule, field.name)!r}"
        for field in dataclasses.fields(Rule)
        if field.name == "lr" or getattr(setting.rule, field.name) != field.default
    ]
    fields = ", ".join(changed)
    if all(field in _ARGUMENTS for field in (c.partition("=")[0] for c in changed)):
        fields = ", ".join(f"{_ARGUMENTS[name]}={value}" for name, _, value in (c.partition("=") for c in changed))
        return f"RMSprop(model.parameters(), {fields})"
    return f"RMSprop.from_rule(model.parameters(), Rule({fields}))"


def write_best(setting: Setting, path: Path, comment: str) -> None:
    """Write a setting to a file in TOML, which `rmsprop train --rule` takes."""
    lines = [f"# {comment}", "", "[rule]"]
    lines += [f"{name} = {_toml(value)}" for name, value in dataclasses.asdict(setting.rule).items()]
    lines += ["", "[training]", f'schedule = "{setting.schedule}"', f"warmup = {setting.warmup}"]
    write_atomically(path, "\n".join(lines) + "\n")


def read_best(path: Path) -> Setting:
    """Return the setting in a file of `write_best`.

    Raises
    ------
    InputError
        If the file cannot be read, or holds something else.
    """
    remedy = f"give the {BEST} of a run of rmsprop tune"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("--rule", "a readable file", Received(f"{path}: {error.strerror}"), remedy) from None
    except ValueError as error:
        raise InputError("--rule", "a file in TOML", Received(f"{path}: {error}"), remedy) from None
    rule, training = content.get("rule"), content.get("training", {})
    fields = {field.name for field in dataclasses.fields(Rule)}
    if not isinstance(rule, dict) or not isinstance(training, dict) or set(content) - {"rule", "training"}:
        raise InputError("--rule", "a file with the tables [rule] and [training]", Received(str(path)), remedy)
    unknown = sorted((set(rule) - fields) | (set(training) - {"schedule", "warmup"}))
    if unknown:
        raise InputError(f"{unknown[0]} in {path}", f"omitted; a rule has {', '.join(sorted(fields))}", unknown[0], "")
    return Setting(Rule(**rule), training.get("schedule", "constant"), training.get("warmup", 0))


def _toml(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(float(value))
