"""Check an implementation of RMSprop against the vectors: `python conformance/run.py [--json] [FILE.py:FUNCTION]`.

With a function, it checks that function and needs NumPy only; README.md describes its arguments and its result.
Without one, it checks this project's implementations whose frameworks are installed.
Exit status 0 only if every vector that was tried passes.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from vectors import QUANTITIES, SQUARES, Array, Implementation, Vector, load_all

TOLERANCE = 1e-12


# -- comparison -------------------------------------------------------------------------------------------------------


class Error:
    """The largest relative error of a run, collected step by step.

    A parameter or a momentum buffer may pass through zero. So each number's error is relative to the largest magnitude
    that the number has had in the run. The square average and its maximum have no sign: their errors are relative to
    themselves.
    """

    def __init__(self, start: Array) -> None:
        self.largest = 0.0
        self._largest_magnitude: dict[str, Array] = {"params": np.abs(start)}

    def add(self, name: str, found: Any, expected: Any) -> None:
        found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
        if found.shape != expected.shape:
            raise ValueError(f"{name} has shape {found.shape}, not {expected.shape}")
        scale = np.abs(expected)
        if name not in SQUARES:
            scale = self._largest_magnitude[name] = np.maximum(scale, self._largest_magnitude.get(name, scale))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            errors = np.where(found == expected, 0.0, np.abs(found - expected) / scale)
        self.largest = max(self.largest, math.inf if np.isnan(errors).any() else float(errors.max(initial=0.0)))


class ResultError(ValueError):
    """The result of an implementation is not one that README.md allows."""


def check(run: Implementation, vector: Vector, complete: bool = False) -> float | None:
    """Return the largest relative error of an implementation on a vector, None if it lacks the variant.

    With `complete`, the implementation must report every quantity of the vector. Raises ResultError.
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


def load_function(where: str) -> Implementation:
    """Load the function that FILE.py:FUNCTION names."""
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("function", nargs="*", help="FILE.py:FUNCTION (default: this project's implementations)")
    parser.add_argument("--json", action="store_true", help="print every error as JSON")
    options = parser.parse_args(arguments)
    missing: dict[str, str] = {}
    if options.function:
        chosen = {where: load_function(where) for where in options.function}
    else:
        from implementations import implementations

        chosen, missing = implementations()
    known = load_all()
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
        print(f"{name} supports none of the vectors", file=sys.stderr)
    return 0 if tried and not untried and all(e <= TOLERANCE for e in tried) else 1


def _check(name: str, run: Implementation, vector: Vector, complete: bool) -> float | None:
    """Check a vector. Exits with one line for a bad result; adds a note to an exception of the function."""
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
    """Yield the lines of a table of largest relative errors: a row per framework, a column per implementation.

    A cell says how many vectors were tried unless all were. Lines below the table name the vectors that failed.
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
