"""Is this installation sound? Versions, and real steps down every path, held against the rule in NumPy."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np

from rmsprop import native
from rmsprop.environment import environment
from rmsprop.native import update
from rmsprop.rule import Rule, init

Array: TypeAlias = np.ndarray[Any, Any]
Walked: TypeAlias = Iterator[tuple[str, str, Array, bool]]  # path, dtype, parameters, whether they must be equal

# Every operation of the rule takes part in one of them; eps and the weights are large enough to matter.
RULES = (
    Rule(
        0.03, 0.8, 1e-3, 0.7, 0.1, centered=True, nesterov=True, initial_square_avg=0.7, lr_in_momentum=True,
        maximize=True,
    ),
    Rule(0.03, 0.8, 1e-3, 0.7, 0.1, eps_inside_sqrt=True, bias_correction=True, decoupled_weight_decay=True),
)  # fmt: skip
_STEPS = 5
_EXTRAS = {
    "torch": "torch", "jax": "jax", "optax": "jax", "keras": "keras", "pytensor": "pytensor",
    "sklearn": "lab", "mlxtend": "lab", "matplotlib": "lab", "jinja2": "lab", "scipy": "lab",
    "h5py": "convert", "msgpack": "convert", "safetensors": "convert",
}  # fmt: skip
# Units in the last place of the largest parameter after _STEPS steps; a rate that is 1 % off is 4e4 units away in
# float32, and 1.7 in bfloat16, whose parameters are rounded alike on both sides.
_TOLERANCE = {"float32": 64.0, "float64": 64.0, "bfloat16": 1.0}


def examine() -> dict[str, Any]:
    """Return the environment, one entry per path with its distance to the rule, and notes in words."""
    missing = {extra for name, extra in _EXTRAS.items() if find_spec(name) is None}
    notes = [f"rmsprop[{extra}] is not installed: pip install 'rmsprop[{extra}]'" for extra in sorted(missing)]
    if native.kernel is None:
        notes.append(native.missing() or "")
    else:
        notes.append(f"the native kernel uses {native.kernel.instruction_set()}")
    paths: list[dict[str, Any]] = []
    broken = False
    if "torch" not in missing and native.kernel is not None and (reason := _torch_without_kernel()):
        notes.append(reason)
    for framework, walk in _WALKS.items():
        if framework in missing:
            continue
        try:
            paths += _findings(walk)
        except ImportError as error:  # Keras without its backend, say
            notes.append(f"rmsprop.{framework} was not tried: {error}")
        except Exception as error:  # an installation that is broken is what one comes to a doctor with
            broken = True
            words = " ".join(str(error).split())
            notes.append(f"rmsprop.{framework} failed: {type(error).__name__}: {words}")
    adapters = {name: version(name) for name in ("jax", "optax", "keras", "tensorflow", "pytensor") if find_spec(name)}
    healthy = not broken and all(p["ok"] for p in paths)
    return {"environment": environment() | adapters, "paths": paths, "notes": notes, "healthy": healthy}


def _findings(walk: Callable[[Rule, Array, list[Array]], Walked]) -> list[dict[str, Any]]:
    """Return an entry for each path that `walk` takes: the largest distance to the rule, in units in the last place."""
    worst: dict[tuple[str, str], tuple[float, bool]] = {}
    start = np.linspace(-1, 1, 1000)
    generator = np.random.default_rng(0)
    gradients: list[Array] = [generator.standard_normal(1000).astype(np.float32) for _ in range(_STEPS)]
    for rule in RULES:
        for path, dtype, result, exactly in walk(rule, start, gradients):
            expected = _expected(rule, start, gradients, dtype)
            unit = 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)
            ulps = float(np.max(np.abs(result - expected)) / (unit * np.max(np.abs(expected))))
            ulps = ulps if math.isfinite(ulps) else math.inf
            worst[path, dtype] = max(worst.get((path, dtype), (0.0, exactly)), (ulps, exactly))
    return [
        {
            "path": path,
            "dtype": dtype,
            "ulps": ulps if math.isfinite(ulps) else None,
            "ok": ulps == 0 if exactly else ulps < _TOLERANCE[dtype],
        }
        for (path, dtype), (ulps, exactly) in worst.items()
    ]


def _expected(rule: Rule, start: Array, gradients: list[Array], dtype: str) -> Array:
    """Return the rule's parameters; for bfloat16 those of float32, rounded to bfloat16 at every step."""

    def rounded(x: Array) -> Array:
        if dtype != "bfloat16":
            return x.astype(dtype)
        import torch

        return torch.from_numpy(x).to(torch.bfloat16).float().numpy()

    param = rounded(start)
    state = init(rule, param)
    for gradient in gradients:
        param, state = update(rule, param, rounded(gradient), state)
        param = rounded(param)
    return param.astype(np.float64)


def _numpy(rule: Rule, start: Array, gradients: list[Array]) -> Walked:
    """Take `update(..., out=...)`; with the kernel it must be the rule to the bit."""
    for dtype in ("float32", "float64"):
        param = start.astype(dtype)
        state = init(rule, param)
        for gradient in gradients:
            param, state = update(rule, param, gradient.astype(dtype), state, out=(param, state))
        yield ("NumPy" if native.kernel is None else "NumPy, native kernel"), dtype, param, True


def _torch(rule: Rule, start: Array, gradients: list[Array]) -> Walked:
    import torch

    from rmsprop.torch import RMSprop
    from rmsprop.torch.engines.cpu_kernel import UNAVAILABLE

    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        ways = {"one by one": {"foreach": False}, "foreach": {"foreach": True}, "capturable": {"capturable": True}}
        if device == "cpu" and not UNAVAILABLE:
            ways = {"native kernel": {"fused": True}, **ways}
        for name, options in ways.items():
            for dtype in (torch.float32, torch.float64, torch.bfloat16):
                there = torch.from_numpy(start).to(dtype).to(device)
                params = [there.clone(), there.clone()]  # two, so that foreach has a list
                optimizer = RMSprop.from_rule(params, rule, **options)
                for gradient in gradients:
                    for p in params:
                        p.grad = torch.from_numpy(gradient).to(device=device, dtype=dtype)
                    optimizer.step()
                kind = str(dtype).removeprefix("torch.")
                result = params[1].double().cpu().numpy()
                yield f"torch, {device}, {name}", kind, result, name == "native kernel"


def _torch_without_kernel() -> str | None:
    """Return None if the kernel steps torch tensors, else why not."""
    try:
        from rmsprop.torch.engines.cpu_kernel import UNAVAILABLE
    except Exception:  # a torch that is broken is found where it is tried
        return None
    return UNAVAILABLE


def _jax(rule: Rule, start: Array, gradients: list[Array]) -> Walked:
    import jax

    from rmsprop.jax import rmsprop

    optimizer = rmsprop(rule)
    param = jax.numpy.asarray(start.astype(np.float32))
    state = optimizer.init(param)
    step = jax.jit(optimizer.update)
    for gradient in gradients:
        change, state = step(gradient, state, param)
        param = param + change
    yield f"jax, {jax.default_backend()}", "float32", np.asarray(param), False


def _keras(rule: Rule, start: Array, gradients: list[Array]) -> Walked:
    from rmsprop import keras as adapter  # says what is missing, where Keras itself would not

    keras: Any = sys.modules["keras"]
    variable = keras.Variable(start.astype(np.float32))
    optimizer = adapter.RMSprop.from_rule(rule)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    result = np.asarray(keras.ops.convert_to_numpy(variable.value))
    yield f"keras, {keras.backend.backend()} backend", "float32", result, False


def _pytensor(rule: Rule, start: Array, gradients: list[Array]) -> Walked:
    import pytensor

    from rmsprop.pytensor import updates

    param = pytensor.shared(start.astype(np.float32))
    gradient = pytensor.tensor.vector("gradient", dtype="float32")
    # Not compiled: this is about numbers, and takes a second instead of many.
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of the BLAS that it does not find
        mode = pytensor.compile.Mode("py")
        step = pytensor.function([gradient], updates=updates([gradient], [param], rule), mode=mode)
    for g in gradients:
        step(g)
    yield "pytensor", "float32", param.get_value(), False


_WALKS = {"numpy": _numpy, "torch": _torch, "jax": _jax, "keras": _keras, "pytensor": _pytensor}
