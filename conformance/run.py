"""Hold an implementation of RMSprop against the vectors: `python conformance/run.py [--json] [FILE.py:FUNCTION]`.

Without a function it checks this project's implementations, as far as their frameworks are installed. With one it
checks that function, and needs nothing but NumPy. README.md, beside this file, says what the function gets and returns.
Exit status 0 only if every vector that was tried is followed.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Vector = dict[str, Any]
Result = dict[str, Array]  # what there is after a step: params, and square_avg, grad_avg, momentum_buffer where given
Implementation = Callable[..., list[Result]]

VECTORS = Path(__file__).resolve().parent / "vectors"
TOLERANCE = 1e-12
QUANTITIES = ("params", "square_avg", "grad_avg", "momentum_buffer")
HYPERPARAMETERS = {
    "lr": float, "decay": float, "eps": float, "momentum": float, "weight_decay": float, "centered": bool,
    "nesterov": bool, "eps_inside_sqrt": bool, "initial_square_avg": float, "lr_in_momentum": bool,
    "bias_correction": bool, "decoupled_weight_decay": bool, "maximize": bool,
}  # fmt: skip
REQUIRED: dict[str, Any] = {
    "format": int, "name": str, "framework": str, "framework_version": str, "script": str, "profile": str,
    "arguments": dict, "hyperparameters": dict, "dtype": str, "momentum_buffer_holds": (str, type(None)),
    "learning_rates": list, "initial_params": list, "gradients": list, "expected": list,
}  # fmt: skip
OPTIONAL: dict[str, Any] = {"source": str, "row_semantics": str, "rows": list}


# -- vectors ----------------------------------------------------------------------------------------------------------


def load(path: Path) -> Vector:
    """Return the content of a vector's file; ValueError if it is not what README.md says."""

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
    return dict(vector)


def fault(vector: Any) -> str | None:
    """Return what is wrong with a vector, None if nothing is."""
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
    if {name: type(value) for name, value in rule.items()} != HYPERPARAMETERS or not all(
        map(math.isfinite, rule.values())
    ):
        return "hyperparameters are not those of README.md"
    holds = "learning rate times update" if rule["lr_in_momentum"] else "update"
    if vector["momentum_buffer_holds"] != (holds if rule["momentum"] else None):
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


def shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of nested lists of finite numbers; None for anything else, empty lists included."""
    if isinstance(value, list):
        inner = {shape(x) for x in value}
        one = inner.pop() if len(inner) == 1 else None
        return None if one is None else (len(value), *one)
    return () if type(value) in (int, float) and abs(value) <= sys.float_info.max else None


def vectors() -> list[Vector]:
    """Return all vectors, by name."""
    return [load(path) for path in sorted(VECTORS.glob("*.json"))]


# -- comparison -------------------------------------------------------------------------------------------------------


class Error:
    """The largest relative error of a run, step by step.

    Each number is compared relative to the largest magnitude it has had so far in the run, because a parameter or a
    momentum buffer may pass through zero. The square average has no sign, and is compared relative to itself.
    """

    def __init__(self, start: Array) -> None:
        self.largest = 0.0
        self._seen: dict[str, Array] = {"params": np.abs(start)}

    def add(self, name: str, found: Any, expected: Any) -> None:
        """Take in one quantity after one step."""
        found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
        if found.shape != expected.shape:
            raise ValueError(f"{name} has shape {found.shape}, not {expected.shape}")
        scale = np.abs(expected)
        if name != "square_avg":
            scale = self._seen[name] = np.maximum(scale, self._seen.get(name, scale))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            errors = np.where(found == expected, 0.0, np.abs(found - expected) / scale)
        self.largest = max(self.largest, math.inf if np.isnan(errors).any() else float(errors.max(initial=0.0)))


class ResultError(ValueError):
    """What an implementation returned cannot be compared."""


def check(run: Implementation, vector: Vector, complete: bool = False) -> float | None:
    """Return the largest relative error of an implementation on a vector; None if it does not take that variant.

    With `complete`, each quantity of the vector must be there. ResultError for what README.md does not allow.
    """
    extra = {}
    if "rows" in vector:
        if "rows" not in inspect.signature(run).parameters:
            return None
        extra["rows"] = [np.array(r) for r in vector["rows"]]
    start = np.array(vector["initial_params"], dtype=float)
    gradients = [np.array(g, dtype=float) for g in vector["gradients"]]
    try:
        results = run(dict(vector["hyperparameters"]), list(vector["learning_rates"]), start.copy(), gradients, **extra)
    except NotImplementedError:
        return None
    if not isinstance(results, list | tuple) or len(results) != len(gradients):
        found = f"{len(results)} results" if isinstance(results, list | tuple) else f"a {type(results).__name__}"
        raise ResultError(f"{found} for {len(gradients)} steps")
    for step, result in enumerate(results, start=1):
        if not isinstance(result, dict) or "params" not in result or set(result) - set(QUANTITIES):
            found = str(list(result)) if isinstance(result, dict) else f"a {type(result).__name__}"
            raise ResultError(f"step {step} has {found}: params must be there, and nothing but {', '.join(QUANTITIES)}")
    error = Error(start)
    for record in vector["expected"]:
        step = record["step"]
        for name in record.keys() - {"step"}:
            if name in results[step - 1]:
                try:
                    error.add(name, results[step - 1][name], record[name])
                except (TypeError, ValueError) as problem:
                    raise ResultError(f"step {step}: {problem}") from None
            elif complete:
                raise ResultError(f"step {step} has no {name}")
    first, last = results[0], results[-1]
    for name in first if len(results) > 1 else ():
        if name in last and np.shares_memory(np.asarray(first[name]), np.asarray(last[name])):
            raise ResultError(f"{name} of the first and the last step is the same array: return copies")
    return error.largest


# -- implementations --------------------------------------------------------------------------------------------------


def foreign(where: str) -> Implementation:
    """Return the function that FILE.py:FUNCTION names."""
    file, _, name = where.rpartition(":")
    if not Path(file).is_file() or not name:
        raise SystemExit(f"{where!r}: say FILE.py:FUNCTION, with a file that exists")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Implementation | None = getattr(module, name, None)
    if not callable(function):
        raise SystemExit(f"{file} has no function {name}")
    return function


def main(arguments: list[str]) -> int:
    """Parse, check, print; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("function", nargs="*", help="FILE.py:FUNCTION; without one, this project's implementations")
    parser.add_argument("--json", action="store_true", help="print every error as JSON")
    options = parser.parse_args(arguments)
    missing: dict[str, str] = {}
    if options.function:
        chosen = {where: foreign(where) for where in options.function}
    else:
        from implementations import implementations

        chosen, missing = implementations()
    known = vectors()
    ours = not options.function
    errors = {name: {v["name"]: _check(name, run, v, ours) for v in known} for name, run in chosen.items()}
    if options.json:
        shown = {name: {v: _number(e) for v, e in found.items()} for name, found in errors.items()}
        print(json.dumps({"tolerance": TOLERANCE, "errors": shown, "missing": missing}, indent=1, allow_nan=False))
    else:
        print("\n".join(table(known, errors)))
        for name, how in missing.items():
            print(f"not checked: {name}: {how}")
    tried = [e for found in errors.values() for e in found.values() if e is not None]
    untried = [name for name, found in errors.items() if all(e is None for e in found.values())]
    for name in untried:
        print(f"{name} takes none of the vectors", file=sys.stderr)
    return 0 if tried and not untried and all(e <= TOLERANCE for e in tried) else 1


def _check(name: str, run: Implementation, vector: Vector, complete: bool) -> float | None:
    """Check, and say where it went wrong: in one line for a result, in a note for an exception of the function."""
    where = f"{name} on {vector['name']}"
    try:
        return check(run, vector, complete)
    except ResultError as error:
        raise SystemExit(f"{where}: {error}") from None
    except Exception as error:
        error.add_note(where)
        raise


def _number(error: float | None) -> float | str | None:
    return "infinite" if error == math.inf else error


def table(known: list[Vector], errors: dict[str, dict[str, float | None]]) -> Iterable[str]:
    """Yield the lines of a table: largest relative error, a row for each framework, a column for each implementation.

    A cell says how many of the vectors were tried if not all were, and names those that failed below the table.
    """
    frameworks: dict[str, list[str]] = {}
    for v in known:
        title = v["profile"] if v["framework"] == "formula" else v["framework"]
        kind = " (rows)" if "rows" in v else ""
        frameworks.setdefault(f"{title} {v['framework_version']}{kind}", []).append(v["name"])
    body = [["framework", "vectors", *errors]]
    for framework, names in frameworks.items():
        cells = []
        for found in errors.values():
            tried = [e for e in (found[name] for name in names) if e is not None]
            part = "" if len(tried) == len(names) else f" ({len(tried)} of {len(names)})"
            cells.append(f"{max(tried):.1e}{part}" if tried else "-")
        body.append([framework, str(len(names)), *cells])
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    for row in body:
        first = row[0].ljust(widths[0])
        yield "  ".join([first, *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
    failed = [(n, v, e) for n, found in errors.items() for v, e in found.items() if e is not None and e > TOLERANCE]
    yield from (f"FAILED: {name} on {vector}: {error:.1e}" for name, vector, error in failed)
    if not failed:
        yield f"every relative error is at most {TOLERANCE:g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
