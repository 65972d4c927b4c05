"""rmsprop.keras on the TensorFlow, JAX and PyTorch backends: runs keras_checks.py in a process for each."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKS = Path(__file__).parent / "keras_checks.py"


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments and environment variables. Keras reads KERAS_BACKEND when it is imported."""
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_the_optimizer_on_one_backend(backend: str, tmp_path: Path) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: pip install 'rmsprop[conformance]'")
    options = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    # JAX caches compilations on disk: models of one shape are compiled once.
    kept = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    result = python(*options, str(CHECKS), KERAS_BACKEND=backend, KERAS_HOME=str(tmp_path), **kept)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("keras", "ModuleNotFoundError: rmsprop.keras needs Keras: pip install 'rmsprop[keras]'"),
        ("jax", "ModuleNotFoundError: Keras found no jax: set KERAS_BACKEND to torch, jax or tensorflow"),
    ],
    ids=["keras", "its backend"],
)
def test_what_is_missing_is_said_in_one_line(missing: str, message: str, tmp_path: Path) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; import rmsprop.keras"
    result = python("-c", program, KERAS_BACKEND="jax", KERAS_HOME=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(message)


def test_an_unknown_backend_is_said_in_one_line(tmp_path: Path) -> None:
    result = python("-c", "import rmsprop.keras", KERAS_BACKEND="numbers", KERAS_HOME=str(tmp_path))
    assert result.returncode == 1
    message = "KERAS_BACKEND must be torch, jax or tensorflow, got 'numbers'; set it before Keras is imported"
    assert result.stderr.splitlines()[-1] == f"rmsprop.errors.InputError: {message}"


@pytest.mark.slow
def test_a_saved_model_loads_in_another_process_that_imports_the_class(tmp_path: Path) -> None:
    path = str(tmp_path / "model.keras")
    build = (
        "import keras, numpy as np; from rmsprop.keras import RMSprop;"
        "m = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]);"
        "m.compile(optimizer=RMSprop(0.5, nesterov=True, momentum=0.5), loss='mse');"
        f"m.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0); m.save({path!r})"
    )
    load = (
        f"import keras, rmsprop.keras; o = keras.models.load_model({path!r}).optimizer;"
        "print(type(o).__module__, o.nesterov, int(o.iterations), len(o.variables))"
    )
    for program in (build, load):
        result = python("-c", program, KERAS_BACKEND="jax", KERAS_HOME=str(tmp_path))
        assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["rmsprop.keras", "True", "1", "6"]
