"""The vectors of conformance/ are well formed and have their profile's rule; rule and torch paths follow them."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import itertools
import json
import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop import Rule, native, profile
from rmsprop.hyperparameters import HYPERPARAMETERS, missing_fields
from rmsprop.profiles import PROFILES

CONFORMANCE = Path(__file__).resolve().parent.parent / "conformance"
sys.path.insert(0, str(CONFORMANCE))
run, vectors, implementations, controls = (
    importlib.import_module(name) for name in ("run", "vectors", "implementations", "controls")
)
VECTORS: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in vectors.load_all()}
OURS = implementations.implementations()[0]
HERE = [name for name in OURS if name in ("rule", "kernel") or name.startswith("torch")]


def followed(name: str, vector: dict[str, Any]) -> float | None:
    error: float | None = run.check(OURS[name], vector, complete=True)
    return error


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_has_the_hyperparameters_of_its_profile(name: str) -> None:
    vector = VECTORS[name]
    given = vectors.profile_arguments(vector["arguments"], vector.get("implied", {}))
    assert profile(vector["profile"], **given) == Rule(**vector["hyperparameters"])
    assert Path(CONFORMANCE.parent / vector["script"]).is_file()
    early, late = vector["learning_rates"][0], vector["learning_rates"][-1]
    assert late == pytest.approx(early / 10, rel=1e-9)


def test_every_profile_has_vectors_with_the_variants_that_it_has() -> None:
    for name in PROFILES:
        rules = [Rule(**v["hyperparameters"]) for v in VECTORS.values() if v["profile"] == name]
        assert len(rules) >= 2
        if name in ("torch", "tf1", "keras", "keras-legacy", "optax", "timm", "sb3"):
            assert {(r.centered, r.momentum > 0) for r in rules} == {
                (a, b) for a in (False, True) for b in (False, True)
            }
        if name in ("torch", "keras", "timm", "sb3"):
            assert any(r.weight_decay for r in rules)


@pytest.mark.parametrize("implementation", HERE)
def test_an_implementation_follows_the_vectors(implementation: str) -> None:
    errors = {name: followed(implementation, vector) for name, vector in VECTORS.items()}
    assert {name: e for name, e in errors.items() if e is not None and not e <= run.TOLERANCE} == {}
    fields = native.FIELDS if "kernel" in implementation else HYPERPARAMETERS
    lacking = {name for name, v in VECTORS.items() if missing_fields(Rule(**v["hyperparameters"]), fields)}
    assert {name for name, e in errors.items() if e is None} == lacking


def test_the_kernel_and_torch_are_among_them() -> None:
    assert {"rule", "torch", "torch foreach"} <= set(HERE)
    assert ({"kernel", "torch kernel"} <= set(HERE)) == (native.kernel is not None)


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_notices_a_wrong_rule(name: str) -> None:
    """Switch every variant, and change every number but eps by 1 %."""
    vector = VECTORS[name]
    right = Rule(**vector["hyperparameters"])
    wrong = controls.perturbed(right)
    assert {"momentum before or after the division", "nesterov", "momentum -1 %"} <= set(wrong) or not right.momentum
    assert "learning rate in the buffer" in wrong or not right.momentum or right.first_moment
    assert "momentum_decay -1 %" in wrong or not right.momentum_decay
    assert {"decoupled", "weight decay -1 %"} <= set(wrong) or not right.weight_decay
    for what, rule in wrong.items():
        changed = {**vector, "hyperparameters": dataclasses.asdict(rule)}
        error = run.check(OURS["rule"], changed)
        assert error is not None
        assert error > 10 * run.TOLERANCE, what


def test_every_quantity_of_a_vector_is_compared() -> None:
    for name, record, quantity in itertools.product(("torch-all", "torch-amsgrad-plain"), (0, -1), vectors.QUANTITIES):
        changed = copy.deepcopy(VECTORS[name])
        records = changed["expected"]
        if quantity in records[0]:
            sizes = [abs(r[quantity][5]) for r in records]
            records[record][quantity][5] += 1e-11 * (sizes[record] if quantity in vectors.SQUARES else max(sizes))
            error = followed("rule", changed)
            assert error is not None
            assert 1e-12 < error < 1e-9


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("dtype", "float32"),
        ("name", None),
        ("source", 3),
        ("unknown", 3),
        ("hyperparameters", {"lr": 0.1}),
        ("momentum_buffer_holds", "learning rate times update"),
        ("momentum_buffer_holds", "gradient"),
        ("implied", 3),
        ("hyperparameters", {**VECTORS["torch-momentum"]["hyperparameters"], "first_moment": False}),
        ("hyperparameters", {**VECTORS["torch-momentum"]["hyperparameters"], "amsgrad": True}),
        ("learning_rates", [0.03]),
        ("learning_rates", []),
        ("learning_rates", [0.03] + ["x"] * 39),
        ("learning_rates", [0.03] + [math.inf] * 39),
        ("hyperparameters", {**VECTORS["torch-momentum"]["hyperparameters"], "eps": math.inf}),
        ("gradients", []),
        ("gradients", [[1.0]] * 40),
        ("gradients", [["x"] * 6] * 40),
        ("gradients", [["1.0"] * 6] * 40),
        ("gradients", [[math.inf] * 6] * 40),
        ("initial_params", [1.0]),
        ("initial_params", []),
        ("initial_params", [1.0, [2.0]]),
        ("initial_params", [math.inf] * 6),
        ("initial_params", [10**400] * 6),
        ("rows", [[0]]),
        ("rows", [5] * 40),
        ("rows", [[0, 1, 2, 3, 4, 6]] * 40),
        ("expected", []),
        ("expected", [5]),
        ("expected", [{"step": 1, "params": [0.0] * 6}]),
        ("expected", [{**VECTORS["torch-momentum"]["expected"][0], "step": "1"}]),
        ("expected", [{**VECTORS["torch-momentum"]["expected"][0], "params": [math.inf] * 6}]),
        ("expected", VECTORS["torch-momentum"]["expected"][::-1]),
    ],
)
def test_a_file_that_is_not_a_vector_is_refused(key: str, value: object) -> None:
    vector = VECTORS["torch-momentum"]
    assert vectors.fault(vector) is None
    assert vectors.fault({**vector, key: value})
    assert vectors.fault({name: x for name, x in vector.items() if name != "script"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
@settings(max_examples=50)
def test_no_content_makes_the_check_of_a_file_raise(data: st.DataObject) -> None:
    """Put any JSON at any place, down to one number of a list."""
    vector = copy.deepcopy(VECTORS["torch-momentum"])
    place: Any = vector
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    assert isinstance(vectors.fault(vector), str | None)


def test_a_file_that_is_not_strict_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "torch-plain.json"
    text = (vectors.FOLDER / "torch-plain.json").read_text()
    for bad in (math.nan, math.inf):
        path.write_text(re.sub(r'"lr": [0-9.]+', f'"lr": {json.dumps(bad)}', text))
        with pytest.raises(ValueError, match="not JSON"):
            vectors.load(path)
    path.write_text(re.sub(r'"lr": [0-9.]+', '"lr": 1e999', text, count=1))
    with pytest.raises(ValueError, match="1e999 is more than a float64 holds"):
        vectors.load(path)
    path.write_text(text.replace('"name": "torch-plain"', '"name": "another"'))
    with pytest.raises(ValueError, match="another"):
        vectors.load(path)


def test_nan_is_an_error() -> None:
    def broken(*arguments: Any) -> Any:
        results = implementations.numpy_rule(*arguments)
        results[0]["params"][0] = np.nan
        return results

    assert run.check(broken, VECTORS["torch-plain"]) == math.inf


@pytest.mark.parametrize("quantity", vectors.QUANTITIES)
def test_our_implementations_must_report_every_quantity(quantity: str) -> None:
    """Otherwise, a state that is no longer reported would no longer be compared."""

    def silent(*arguments: Any) -> Any:
        return [{k: x for k, x in r.items() if k != quantity} for r in implementations.numpy_rule(*arguments)]

    vector = VECTORS["torch-amsgrad-plain" if quantity == "max_square_avg" else "torch-all"]
    assert quantity == "params" or run.check(silent, vector) <= run.TOLERANCE
    with pytest.raises(run.ResultError, match=rf"step 1 has (no {quantity}|\['square_avg)"):
        run.check(silent, vector, complete=True)


def test_arrays_changed_in_place_are_refused() -> None:
    def in_place(*arguments: Any) -> Any:
        results = implementations.numpy_rule(*arguments)
        return [{**r, "square_avg": results[-1]["square_avg"]} for r in results]

    with pytest.raises(run.ResultError, match="square_avg of the first and the last step is the same array"):
        run.check(in_place, VECTORS["torch-plain"])


# -- the runner, as other libraries use it ----------------------------------------------------------------------------


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Return a file with README's example."""
    (block,) = re.findall(r"```python\n(.*?)```", (CONFORMANCE / "README.md").read_text(), flags=re.DOTALL)
    path = tmp_path / "mine.py"
    path.write_text(block)
    return path


def test_the_example_in_readme_passes(example: Path) -> None:
    command = [sys.executable, str(CONFORMANCE / "run.py"), "--json", f"{example}:my_rmsprop"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    tried = json.loads(done.stdout)["errors"][f"{example}:my_rmsprop"]
    assert tried["torch-momentum"] < 1e-14
    assert tried["tf1-plain"] is None


def test_a_table_is_printed(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([f"{example}:my_rmsprop"]) == 0
    assert "every relative error is at most 1e-12" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("good", "bad"),
    [("eps", "2 * eps"), ("mu * b", "0.99 * mu * b"), ("p - lr * b", "p + lr * b"), ("[p, v, b]", "[p, v, -b]")],
)
def test_a_wrong_function_fails(example: Path, good: str, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = example.read_text()
    last = text.rindex(good)
    example.write_text(text[:last] + bad + text[last + len(good) :])
    assert run.main([f"{example}:my_rmsprop"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_function_that_takes_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.py"
    path.write_text("def f(*a):\n    raise NotImplementedError\n")
    assert run.main([f"{path}:f"]) == 1
    assert "supports none of the vectors" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["no-such-file.py:f", "mine.py", ":f"])
def test_a_function_that_is_not_there_is_one_line(where: str) -> None:
    with pytest.raises(SystemExit, match=r"^[^\n]+$"):
        run.main([where])


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("5", "a int for 40 steps"),
        ("[{'params': p}]", "1 results for 40 steps"),
        ("[p] * 40", "step 1 has a ndarray: params must be there, and nothing but params, square_avg"),
        ("[{'p': p}] * 40", r"step 1 has \['p'\]: params must be there"),
        ("[{'params': p[:2]}] * 40", r"step 1: params has shape \(2,\), not \(6,\)"),
        ("[{'params': ['x'] * 6}] * 40", "step 1: could not convert string to float: 'x'"),
        ("[{'params': p}] * 40", "params of the first and the last step is the same array: return copies"),
    ],
)
def test_a_result_that_cannot_be_compared_is_one_line(result: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(f"def f(h, rates, p, gradients):\n    return {result}\n")
    with pytest.raises(SystemExit, match=rf"^{re.escape(str(path))}:f on adam-[a-z0-9-]+: {said}[^\n]*$"):
        run.main([f"{path}:f"])


def test_an_exception_of_the_function_says_on_which_vector(tmp_path: Path) -> None:
    path = tmp_path / "boom.py"
    path.write_text("def f(h, rates, p, gradients):\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError) as error:
        run.main([f"{path}:f"])
    assert error.value.__notes__ == [f"{path}:f on {next(n for n, v in VECTORS.items() if 'rows' not in v)}"]


def test_rows_are_given_only_to_functions_that_take_them() -> None:
    vector = VECTORS["tf1-sparse-duplicate-rows"]
    plain = implementations.numpy_rule
    assert run.check(plain, vector) <= run.TOLERANCE
    assert run.check(lambda a, b, c, d: plain(a, b, c, d), vector) is None
    dense = partial(lambda a, b, c, d, rows: plain(a, b, c, [_dense(c, g, r) for g, r in zip(d, rows, strict=True)]))
    assert run.check(dense, vector) > 0.01  # a dense step decays all rows


def _dense(table: Any, gradient: Any, rows: Any) -> Any:
    full = np.zeros_like(table)
    np.add.at(full, rows, gradient)
    return full
