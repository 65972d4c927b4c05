"""Shared by the scripts of this folder: the problem of a vector, its file, and the command line.

A script describes each way to call its framework as a `Family`: its cases, and a function that starts the framework's
optimizer and returns a function for one step. `main` writes a file for every case.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmsprop import Rule, profile

sys.path.append(str(Path(__file__).resolve().parent.parent))  # vectors.py is there
from vectors import FOLDER, HYPERPARAMETERS, QUANTITIES, holds, profile_arguments

Array = NDArray[Any]
# step(gradient, lr) returns params and square_avg, and the other averages if the rule has them. With sparse
# gradients it is step(gradient, lr, rows).
Step = Callable[..., dict[str, Array]]

FORMAT = 1
STEPS, CUT = 40, 20  # the learning rate falls to a tenth after step CUT
RECORDED = (1, 2, 3, 5, 10, 20, 21, 22, 30, 40)


@dataclass(frozen=True)
class Family:
    """One way to call a framework, and the cases to call it with.

    Parameters
    ----------
    prefix
        Beginning of the files' names.
    framework, version
        What is called, and its version.
    profile
        Its name in `rmsprop.profile`.
    start
        `start(arguments, params)` returns a `Step`; the dtype is that of `params`.
    cases
        The framework's own arguments, by the end of the file's name.
    implied
        Fields of `Rule` that the function's name sets, without an argument.
    rows
        For gradients of a table's rows: what happens to touched and to untouched rows. None for dense gradients.
    source
        Where a formula is published.
    vectors
        Whether files are written. Cases without files are only compared with the rule.
    """

    prefix: str
    framework: str
    version: str
    profile: str
    start: Callable[[dict[str, Any], Array], Step]
    cases: Mapping[str, dict[str, Any]]
    implied: Mapping[str, Any] = field(default_factory=dict)
    rows: str | None = None
    source: str | None = None
    vectors: bool = True


def rule_of(family: Family, arguments: Mapping[str, Any]) -> Rule:
    return profile(family.profile, **profile_arguments(dict(arguments), dict(family.implied)))


def problem(rule: Rule) -> tuple[Array, list[Array]]:
    """Return six parameters and their gradients: sizes from 1e-3 to 1e2, both signs, zeros, short decimal numbers.

    For a centered, bias-corrected rule the first gradient is 0. Any other gives variance 0 at the first step, and the
    step would consist of rounding errors.
    """
    generator = np.random.default_rng(20121)
    scale = np.array([1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0])
    gradients = (generator.standard_normal((STEPS, 6)) + 0.3) * scale
    gradients[generator.random((STEPS, 6)) < 0.1] = 0.0
    gradients[:3, 2] = 0.0  # a parameter whose first gradients are 0
    gradients[6] = 0.0  # a step without any gradient
    if rule.centered and rule.bias_correction:
        gradients[0] = 0.0
    short = [np.array([float(f"{x:.3g}") + 0.0 for x in g]) for g in gradients]
    return np.array([0.5, -1.25, 2.0, -0.03, 0.0, 8.0]), short


def row_problem(duplicates: bool) -> tuple[Array, list[list[int]], list[Array]]:
    """Return a table of five rows, the rows that each step touches, and their gradients."""
    generator = np.random.default_rng(20122)
    scale = np.array([1e-2, 1.0, 50.0])
    table = np.array([float(f"{x:.3g}") for x in generator.standard_normal(15)]).reshape(5, 3)
    rows = [sorted(generator.choice(4, size=2, replace=duplicates).tolist(), reverse=True) for _ in range(STEPS)]
    if duplicates:
        rows[1] = [3, 0, 3]
    gradients = [generator.standard_normal((len(r), 3)) * scale for r in rows]
    return table, rows, [np.array([[float(f"{x:.3g}") for x in row] for row in g]) for g in gradients]


def learning_rates(rule: Rule) -> list[float]:
    """Return the learning rate of each step. Its fall to a tenth shows whether the buffer holds the learning rate."""
    return [rule.lr if t <= CUT else float(f"{rule.lr / 10:.12g}") for t in range(1, STEPS + 1)]


def make(family: Family, case: str) -> dict[str, Any]:
    arguments = family.cases[case]
    rule = rule_of(family, arguments)
    rows: list[list[int]] | None = None
    if family.rows:
        start, rows, gradients = row_problem("duplicate" in case)
    else:
        start, gradients = problem(rule)
    rates = learning_rates(rule)
    step = family.start(dict(arguments), start.copy())
    expected = []
    for t in range(1, STEPS + 1):
        touched = () if rows is None else (rows[t - 1],)
        result = step(gradients[t - 1].copy(), rates[t - 1], *touched)
        if t in RECORDED:
            expected.append({"step": t, **{name: result[name].tolist() for name in QUANTITIES if name in result}})
    return {
        "format": FORMAT,
        "name": f"{family.prefix}-{case}",
        "framework": family.framework,
        "framework_version": family.version,
        **({"source": family.source} if family.source else {}),
        "script": f"conformance/generate/{Path(sys.modules[family.start.__module__].__file__ or '').name}",
        "profile": family.profile,
        "arguments": arguments,
        **({"implied": dict(family.implied)} if family.implied else {}),
        "hyperparameters": _hyperparameters(rule),
        "dtype": "float64",
        "momentum_buffer_holds": holds(_hyperparameters(rule)),
        **({"row_semantics": family.rows, "rows": rows} if family.rows else {}),
        "learning_rates": rates,
        "initial_params": start.tolist(),
        "gradients": [g.tolist() for g in gradients],
        "expected": expected,
    }


def _hyperparameters(rule: Rule) -> dict[str, Any]:
    """Return the fields of format 1, and any later field that differs from its default."""
    return {
        field.name: getattr(rule, field.name)
        for field in dataclasses.fields(rule)
        if field.name in HYPERPARAMETERS or getattr(rule, field.name) != field.default
    }


def to_text(vector: Mapping[str, Any]) -> str:
    """Return strict JSON with one line per key and per step, for readable diffs.

    Python writes the shortest decimal that reads back as the same float64.
    """

    def one_line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    lines = []
    for key, value in vector.items():
        if key in ("gradients", "expected"):
            inner = ",\n".join(f"    {one_line(item)}" for item in value)
            lines.append(f"  {one_line(key)}: [\n{inner}\n  ]")
        else:
            lines.append(f"  {one_line(key)}: {one_line(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write(families: list[Family], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for family in families:
        for case in family.cases if family.vectors else ():
            vector = make(family, case)
            name = f"{vector['name']}.json"
            temporary = folder / f".{name}.{os.getpid()}.tmp"
            temporary.write_text(to_text(vector), encoding="utf-8")
            written.append(temporary.replace(folder / name))
    return written


def main(families: list[Family]) -> None:
    """Write the files: `python conformance/generate/from_….py [--out FOLDER]`."""
    parser = argparse.ArgumentParser(description="Write the vectors of one framework.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: conformance/vectors)")
    for path in write(families, parser.parse_args().out):
        print(path)
