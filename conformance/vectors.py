"""Read and check the conformance vectors. README.md describes the format."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from numpy.typing import NDArray

Array = NDArray[Any]
Result = dict[str, Array]  # after one step: params, and the other quantities that the implementation reports
Implementation = Callable[..., list[Result]]


class Vector(TypedDict):
    """Content of one file."""

    format: int
    name: str
    framework: str
    framework_version: str
    source: NotRequired[str]
    script: str
    profile: str
    arguments: dict[str, Any]
    implied: NotRequired[dict[str, Any]]
    hyperparameters: dict[str, Any]
    dtype: str
    momentum_buffer_holds: str | None
    row_semantics: NotRequired[str]
    rows: NotRequired[list[list[int]]]
    learning_rates: list[float]
    initial_params: list[Any]
    gradients: list[list[Any]]
    expected: list[dict[str, Any]]


FOLDER = Path(__file__).resolve().parent / "vectors"
QUANTITIES = ("params", "square_avg", "grad_avg", "momentum_buffer", "max_square_avg")
SQUARES = ("square_avg", "max_square_avg")
# The fields of Rule that every vector of format 1 names.
HYPERPARAMETERS = {
    "lr": float, "decay": float, "eps": float, "momentum": float, "weight_decay": float, "centered": bool,
    "nesterov": bool, "eps_inside_sqrt": bool, "initial_square_avg": float, "lr_in_momentum": bool,
    "bias_correction": bool, "decoupled_weight_decay": bool, "maximize": bool,
}  # fmt: skip
# Fields that a vector names only where they are neither 0 nor false.
OPTIONAL_HYPERPARAMETERS = {"first_moment": bool, "momentum_decay": float, "amsgrad": bool}
REQUIRED: dict[str, Any] = {
    "format": int, "name": str, "framework": str, "framework_version": str, "script": str, "profile": str,
    "arguments": dict, "hyperparameters": dict, "dtype": str, "momentum_buffer_holds": (str, type(None)),
    "learning_rates": list, "initial_params": list, "gradients": list, "expected": list,
}  # fmt: skip
OPTIONAL: dict[str, Any] = {"source": str, "implied": dict, "row_semantics": str, "rows": list}


def load(path: Path) -> Vector:
    """Return the content of a vector's file; ValueError if the file breaks the format."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{path}: {constant} is not JSON")

    def finite(number: str) -> float:
        if math.isinf(float(number)):
            raise ValueError(f"{path}: {number} is more than a float64 holds")
        return float(number)

    vector = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse, parse_float=finite)
    problem = fault(vector)
    if problem is None and vector["name"] != path.stem:
        problem = f"name is {vector['name']!r}"
    if problem:
        raise ValueError(f"{path}: {problem}")
    content: Vector = vector
    return content


def fault(vector: Any) -> str | None:
    """Return the first error in a vector, None for a valid one."""
    if not isinstance(vector, dict):
        return "not an object"
    allowed = {**REQUIRED, **OPTIONAL}
    if set(REQUIRED) - set(vector) or set(vector) - set(allowed):
        return f"keys missing or unknown: {sorted(map(str, set(vector) ^ set(REQUIRED)))}"
    for key, value in vector.items():
        if not isinstance(value, allowed[key]):
            return f"{key} is a {type(value).__name__}"
    if (vector["format"], vector["dtype"]) != (1, "float64"):
        return "format and dtype must be 1 and float64"
    rule, rates, gradients = vector["hyperparameters"], vector["learning_rates"], vector["gradients"]
    wanted_types = {**HYPERPARAMETERS, **{k: v for k, v in OPTIONAL_HYPERPARAMETERS.items() if rule.get(k)}}
    if {name: type(value) for name, value in rule.items()} != wanted_types or not all(
        map(math.isfinite, rule.values())
    ):
        return "hyperparameters are not those of README.md"
    if vector["momentum_buffer_holds"] != holds(rule):
        return "momentum_buffer_holds contradicts hyperparameters"
    if shape(rates) != (len(gradients),) or rates[0] != rule["lr"]:
        return "learning_rates do not fit lr or gradients"
    start = shape(vector["initial_params"])
    if start is None:
        return "initial_params is not an array of finite numbers"
    rows = vector.get("rows", [list(range(start[0]))] * len(gradients))
    if len(rows) != len(gradients):
        return "rows do not fit gradients"
    for gradient, touched in zip(gradients, rows, strict=True):
        if not isinstance(touched, list) or any(type(row) is not int or not 0 <= row < start[0] for row in touched):
            return f"rows has {touched}"
        if shape(gradient) != (len(touched), *start[1:]):
            return "a gradient has another shape than its parameters, or a number that is not finite"
    wanted = {"params", "square_avg", "step"}
    wanted |= {"grad_avg"} if rule["centered"] else set()
    wanted |= {"momentum_buffer"} if rule["momentum"] else set()
    wanted |= {"max_square_avg"} if rule.get("amsgrad") else set()
    before = 0
    for record in vector["expected"]:
        if not isinstance(record, dict) or set(record) != wanted:
            return f"expected has {record if not isinstance(record, dict) else list(record)}, not {sorted(wanted)}"
        if type(record["step"]) is not int or not before < record["step"] <= len(gradients):
            return f"expected has step {record['step']} after step {before}, of {len(gradients)}"
        before = record["step"]
        if any(shape(record[name]) != start for name in wanted - {"step"}):
            return f"expected has another shape than the parameters, or a number that is not finite, at step {before}"
    return None if before else "expected is empty"


def holds(rule: dict[str, Any]) -> str | None:
    """Return what the momentum buffer of a rule holds; None without momentum."""
    if not rule["momentum"]:
        return None
    if rule.get("first_moment"):
        return "gradient"
    return "learning rate times update" if rule["lr_in_momentum"] else "update"


def profile_arguments(arguments: dict[str, Any], implied: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `rmsprop.profile` for a framework's own; `betas` are its momentum and decay."""
    values = {**arguments, **implied}
    if "betas" in values:
        values["momentum"], values["decay"] = values.pop("betas")
    for name, field in (("b1", "momentum"), ("b2", "decay")):
        if name in values:
            values[field] = values.pop(name)
    return values


def shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of nested lists of finite numbers; None for anything else, empty lists included."""
    if isinstance(value, list):
        inner = {shape(x) for x in value}
        one = inner.pop() if len(inner) == 1 else None
        return None if one is None else (len(value), *one)
    return () if type(value) in (int, float) and abs(value) <= sys.float_info.max else None


def load_all() -> list[Vector]:
    return [load(path) for path in sorted(FOLDER.glob("*.json"))]
