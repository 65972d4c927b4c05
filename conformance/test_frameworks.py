"""Compare each profile with the installed framework for up to a thousand steps, and regenerate the committed vectors.

Each test runs a framework in its own process (trajectories.py) and the rule in this one.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controls import perturbed
from numpy.typing import NDArray
from run import Error
from trajectories import START, gradient, lr_at
from vectors import FOLDER, QUANTITIES, load

from rmsprop import Rule, State, init, update
from rmsprop.rule import moment_weights

Array = NDArray[Any]
Run = dict[str, Array]  # a framework's values after each step, by quantity
HERE = Path(__file__).resolve().parent
# Slowest first, so that parallel workers finish together.
FRAMEWORKS = {
    "Keras, TensorFlow": ("from_keras", {"KERAS_BACKEND": "tensorflow"}),
    "Keras, JAX": ("from_keras", {"KERAS_BACKEND": "jax"}),
    "Keras, PyTorch": ("from_keras", {"KERAS_BACKEND": "torch"}),
    "legacy Keras": ("from_tf_keras", {}),
    "optax": ("from_optax", {}),
    "TensorFlow 1": ("from_tensorflow", {}),
    "PyTorch": ("from_torch", {}),
    "Stable-Baselines3": ("from_stable_baselines3", {}),
    "timm": ("from_timm", {}),
    "PyMC": ("from_pymc", {}),
    "formulas": ("from_formula", {}),
}


def run_framework(module: str, settings: dict[str, str], folder: Path) -> None:
    """Run trajectories.py with a framework, without Python's warnings from the framework."""
    command = [sys.executable, "-W", "ignore", str(HERE / "trajectories.py"), module, str(folder)]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def read(folder: Path) -> dict[str, tuple[Rule, dict[str, Run]]]:
    with np.load(folder / "trajectories.npz") as arrays:
        cases: dict[str, tuple[Rule, dict[str, Run]]] = {}
        for key in (k for k in arrays if "/" not in k):
            rule, runs = Rule(**json.loads(str(arrays[key]))), dict[str, Run]()
            for dtype in ("float64", "float32"):
                prefix = f"{key}/{dtype}/"
                runs[dtype] = {k.removeprefix(prefix): arrays[k] for k in arrays if k.startswith(prefix)}
            cases[key] = rule, runs
        return cases


# -- float64: all steps by itself -------------------------------------------------------------------------------------


def largest_error(rule: Rule, run: Run, reference: Rule, stop_above: float = math.inf) -> float:
    """Return the largest relative error of `rule` against the framework's run.

    `rule` gets the gradients at its own parameters. `reference` is the framework's rule. The run stops at the first
    error above `stop_above`.
    """
    params, state = START.copy(), init(rule, START)
    error = Error(START)
    for t in range(1, len(run["params"]) + 1):
        g = gradient(reference, params, t)
        params, state = update(dataclasses.replace(rule, lr=lr_at(reference, t)), params, g, state)
        found = {"params": params, **{name: getattr(state, name) for name in QUANTITIES[1:]}}
        for name, expected in run.items():
            if found[name] is not None:  # a wrong rule may lack a quantity
                error.add(name, found[name], expected[t - 1])
        if error.largest > stop_above:
            break
    return error.largest


def check_float64(name: str, rule: Rule, run: Run) -> None:
    optional = {"grad_avg": rule.centered, "momentum_buffer": rule.momentum > 0, "max_square_avg": rule.amsgrad}
    assert set(run) == {"params", "square_avg", *(key for key, there in optional.items() if there)}
    error = largest_error(rule, run, rule)
    assert error <= 1e-10, f"{name}: {error:.1e}"
    for what, wrong in perturbed(rule).items():
        assert largest_error(wrong, run, rule, stop_above=1e-8) > 1e-8, f"{name} does not notice: {what}"


# -- float32: each step from the framework's state --------------------------------------------------------------------


def excess(rule: Rule, run: Run, reference: Rule, stop_above: float = math.inf) -> float:
    """Return the largest error of a step in float32, as a multiple of the bound for rounding; > 1 is too much.

    The run stops at the first multiple above `stop_above`. Every step starts from the framework's state. The bound
    takes ε₃₂ as the spacing at 1 and each operation as correct to a few ε₃₂:

    - G = |g| + λ|p| for the gradient, whose terms may cancel;
    - v and m: the rounding of G² and G, and of 1−β, which some frameworks compute in float32, where digits cancel;
    - s: the errors of v and m, larger where v − m² is small; with bias correction also those of 1 − βᵗ;
    - u = g/d: the rounding of G/d, and half the relative error of s;
    - b and p: the rounding of the terms, and the error of u;
    - with first_moment, n = a·b + c·g in place of g, with the roundings of b and of 1 − μᵗ.
    """
    few = 4 * float(np.finfo(np.float32).eps)
    before = {"params": START.astype(np.float32)}
    first = init(rule, before["params"])
    before |= {name: getattr(first, name) for name in run if name != "params"}
    worst = 0.0
    for t in range(1, len(run["params"]) + 1):
        p, eta = before["params"], lr_at(reference, t)
        g = gradient(reference, p, t)
        state = State(t - 1, **{name: before[name] for name in before if name != "params"})
        value, new = update(dataclasses.replace(rule, lr=eta), p, g, state)
        found = {"params": value, **{name: getattr(new, name) for name in QUANTITIES[1:]}}
        found = {name: x for name, x in found.items() if x is not None}

        big = {name: np.abs(np.asarray(x, dtype=np.float64)) for name, x in found.items()}
        G = np.abs(g.astype(np.float64)) + (0 if rule.decoupled_weight_decay else rule.weight_decay) * np.abs(p)
        allowed = {"square_avg": few * (big["square_avg"] + G**2)}
        if rule.amsgrad:
            allowed["max_square_avg"] = allowed["square_avg"]
        s, error_of_s = big["max_square_avg" if rule.amsgrad else "square_avg"], allowed["square_avg"]
        weight = 1 - rule.decay**t if rule.bias_correction else 1.0
        s, error_of_s = s / weight, error_of_s / weight
        if rule.centered:
            m = big["grad_avg"] / weight
            allowed["grad_avg"] = few * (big["grad_avg"] + G)
            error_of_s = error_of_s + few * (s + m * m) + 2 * m * allowed["grad_avg"] / weight
            s = np.maximum(s - m * m, 1e-30)
        inside = s + rule.eps if rule.eps_inside_sqrt else s
        d = np.sqrt(inside) if rule.eps_inside_sqrt else np.sqrt(s) + rule.eps
        relative = few * (1 + 1 / weight) + 0.5 * error_of_s / np.maximum(inside, 1e-30)
        N, error_of_n = G, few * G
        if rule.momentum and rule.first_moment:
            allowed["momentum_buffer"] = few * (np.abs(before["momentum_buffer"]) + (1 - rule.momentum) * G)
            a, c = moment_weights(rule, t)
            N = a * big["momentum_buffer"] + c * G
            error_of_n = a * allowed["momentum_buffer"] + few * (1 + a * (1 - rule.momentum)) * N
        error_of_u = np.divide(error_of_n + N * relative, d, out=np.zeros_like(G), where=d > 0)
        u = np.divide(N, d, out=np.zeros_like(G), where=d > 0)
        scale = eta if rule.lr_in_momentum else 1.0
        step, error_of_step = scale * u, scale * error_of_u
        if rule.momentum and not rule.first_moment:
            allowed["momentum_buffer"] = few * (np.abs(before["momentum_buffer"]) + step) + error_of_step
            step, error_of_step = step + big["momentum_buffer"], error_of_step + allowed["momentum_buffer"]
        out = 1.0 if rule.lr_in_momentum else eta
        allowed["params"] = few * (np.abs(p) + out * step) + out * error_of_step
        for name in run.keys() & allowed.keys():  # a wrong rule may lack a quantity
            difference = np.abs(found[name].astype(np.float64) - run[name][t - 1])
            bound = allowed[name] + 1e-37
            worst = max(worst, float(np.max(np.where(np.isnan(difference), math.inf, difference / bound))))
        if worst > stop_above:
            break
        before = {name: values[t - 1] for name, values in run.items()}
    return worst


def check_float32(name: str, rule: Rule, run: Run) -> None:
    assert all(values.dtype == np.float32 for values in run.values())
    multiple = excess(rule, run, rule)
    assert multiple <= 1, f"{name}: {multiple:.3g} times what rounding explains"
    for what, wrong in perturbed(rule).items():
        if what == "eps place" and rule.eps < 1e-3:
            continue  # the rounding of p hides it; float64 shows it
        if what == "weight decay -1 %" and rule.decoupled_weight_decay and rule.lr * rule.weight_decay < 1e-3:
            continue  # the same
        if what in ("amsgrad", "momentum_decay -1 %") and rule.lr < 0.01:
            continue  # the same
        if what == "amsgrad" and not rule.amsgrad:
            continue  # the framework's state has no maximum: each step would start a new one at v; float64 shows it
        assert excess(wrong, run, rule, stop_above=10) > 10, f"{name} does not notice: {what}"


# -- vectors ----------------------------------------------------------------------------------------------------------


def check_vector(made: Path, same_framework: bool) -> None:
    """Check a new file against the committed one. Numbers agree within 1e-13: compilers contract and reorder."""
    new, old = (dict[str, Any](load(path)) for path in (made, FOLDER / made.name))
    for key in old.keys() - {"expected", "framework_version"} - (set() if same_framework else {"framework"}):
        assert new[key] == old[key], f"{made.name}: {key} was {old[key]}, and is {new[key]} now"
    error = Error(np.array(old["initial_params"]))
    for a, b in zip(new["expected"], old["expected"], strict=True):
        for name in b:
            error.add(name, a[name], b[name])
    versions = f"{old['framework_version']} made the file, {new['framework_version']} is installed"
    assert error.largest <= 1e-13, f"{made.name}: {error.largest:.1e}; {versions}"


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_rule_follows_the_framework_and_the_vectors_are_its_numbers(framework: str, tmp_path: Path) -> None:
    module, settings = FRAMEWORKS[framework]
    if module == "from_timm" and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed (its vectors are): pip install --no-deps timm==1.0.31")
    run_framework(module, settings, tmp_path)
    cases = read(tmp_path)
    assert cases
    for name, (rule, runs) in cases.items():
        check_float64(name, rule, runs["float64"])
        if module != "from_formula":
            check_float32(name, rule, runs["float32"])
    made = sorted(tmp_path.glob("*.json"))
    script = f"conformance/generate/{module}.py"
    assert [path.name for path in made] == [
        p.name for p in sorted(FOLDER.glob("*.json")) if load(p)["script"] == script
    ]
    for path in made:
        check_vector(path, same_framework=settings.get("KERAS_BACKEND", "tensorflow") == "tensorflow")


@pytest.mark.slow
def test_every_implementation_of_this_project_follows_the_vectors() -> None:
    command = [sys.executable, "-W", "ignore", str(HERE / "run.py"), "--json"]
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["missing"] == {}
    assert {"rule", "kernel", "torch", "torch kernel", "jax", "keras (torch)", "pytensor"} <= set(found["errors"])
