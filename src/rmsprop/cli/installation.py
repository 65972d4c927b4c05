"""Check an installation: list versions, and compare steps of each implementation with the rule in NumPy."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeAlias, TypedDict

import numpy as np

from rmsprop import native
from rmsprop.environment import environment
from rmsprop.native import update
from rmsprop.rule import Rule, init

Array: TypeAlias = np.ndarray[Any, Any]


class Stepped(NamedTuple):
    """Parameters after the steps of one path. A path is one way to execute the rule, in one dtype."""

    path: str
    dtype: str
    param: Array
    exact: bool = False  # must equal the rule bit for bit


class CheckedPath(TypedDict):
    """The distance of one path to the rule."""

    path: str
    dtype: str
    ulps: float | None  # None: not finite
    ok: bool


class Installation(TypedDict):
    """The result of the check."""

    environment: dict[str, str]
    paths: list[CheckedPath]
    notes: list[str]
    healthy: bool


# Together these rules use every operation. Their eps and weight decay are large enough to change the result.
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
# Paths that need not be exact stay below this distance to the rule after _STEPS steps, in ulp of the largest parameter.
# For comparison, a learning rate that is 1 % off gives 4e4 ulp in float32. In bfloat16 it gives 1.7 ulp, since both
# sides are rounded at every step.
_TOLERANCE = {"float32": 64.0, "float64": 64.0, "bfloat16": 1.0}


def check_installation() -> Installation:
    """Return versions, the distance of each path to the rule, and notes on what is missing or broken."""
    missing = {extra for name, extra in _EXTRAS.items() if find_spec(name) is None}
    notes = [f"rmsprop[{extra}] is not installed: pip install 'rmsprop[{extra}]'" for extra in sorted(missing)]
    if native.kernel is None:
        notes.append(native.missing() or "")
    else:
        notes.append(f"the native kernel uses {native.kernel.instruction_set()}")
    if "torch" not in missing and native.kernel is not None and (reason := _torch_without_kernel()):
        notes.append(reason)
    paths: list[CheckedPath] = []
    broken = False
    for framework, step in _FRAMEWORKS.items():
        if framework in missing:
            continue
        try:
            paths += _checked(step)
        except ImportError as error:  # such as Keras without its backend
            notes.append(f"rmsprop.{framework} was not tried: {error}")
        except Exception as error:  # finding a broken framework is what this check is for
            broken = True
            words = " ".join(str(error).split())
            notes.append(f"rmsprop.{framework} failed: {type(error).__name__}: {words}")
    adapters = {name: version(name) for name in ("jax", "optax", "keras", "tensorflow", "pytensor") if find_spec(name)}
    healthy = not broken and all(path["ok"] for path in paths)
    return {"environment": environment() | adapters, "paths": paths, "notes": notes, "healthy": healthy}


def _checked(step: Callable[[Rule, Array, list[Array]], Iterator[Stepped]]) -> list[CheckedPath]:
    """Return the largest distance to the rule of each path of one framework."""
    ulps: dict[tuple[str, str], float] = {}
    exact: dict[tuple[str, str], bool] = {}
    start = np.linspace(-1, 1, 1000)
    generator = np.random.default_rng(0)
    gradients: list[Array] = [generator.standard_normal(1000).astype(np.float32) for _ in range(_STEPS)]
    for rule in RULES:
        for stepped in step(rule, start, gradients):
            expected = _expected(rule, start, gradients, stepped.dtype)
            unit = 2.0**-7 if stepped.dtype == "bfloat16" else float(np.finfo(stepped.dtype).eps)
            distance = float(np.max(np.abs(stepped.param - expected)) / (unit * np.max(np.abs(expected))))
            key = stepped.path, stepped.dtype
            ulps[key] = max(ulps.get(key, 0.0), distance if math.isfinite(distance) else math.inf)
            exact[key] = stepped.exact
    return [
        {
            "path": path,
            "dtype": dtype,
            "ulps": distance if math.isfinite(distance) else None,
            "ok": distance == 0 if exact[path, dtype] else distance < _TOLERANCE[dtype],
        }
        for (path, dtype), distance in ulps.items()
    ]


def _expected(rule: Rule, start: Array, gradients: list[Array], dtype: str) -> Array:
    """Return the parameters after the steps of the rule in NumPy, rounded to `dtype` after every step."""

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


def _numpy(rule: Rule, start: Array, gradients: list[Array]) -> Iterator[Stepped]:
    for dtype in ("float32", "float64"):
        param = start.astype(dtype)
        state = init(rule, param)
        for gradient in gradients:
            param, state = update(rule, param, gradient.astype(dtype), state, out=(param, state))
        yield Stepped("NumPy" if native.kernel is None else "NumPy, native kernel", dtype, param, exact=True)


def _torch(rule: Rule, start: Array, gradients: list[Array]) -> Iterator[Stepped]:
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
                params = [there.clone(), there.clone()]  # two, so that foreach gets a list of more than one
                optimizer = RMSprop.from_rule(params, rule, **options)
                for gradient in gradients:
                    for p in params:
                        p.grad = torch.from_numpy(gradient).to(device=device, dtype=dtype)
                    optimizer.step()
                kind = str(dtype).removeprefix("torch.")
                result = params[1].double().cpu().numpy()
                yield Stepped(f"torch, {device}, {name}", kind, result, exact=name == "native kernel")


def _torch_without_kernel() -> str | None:
    """Return why the kernel does not step torch's tensors; None if it does or torch is broken."""
    try:
        from rmsprop.torch.engines.cpu_kernel import UNAVAILABLE
    except Exception:  # the paths of torch report this error
        return None
    return UNAVAILABLE


def _jax(rule: Rule, start: Array, gradients: list[Array]) -> Iterator[Stepped]:
    import jax

    from rmsprop.jax import rmsprop

    optimizer = rmsprop(rule)
    param = jax.numpy.asarray(start.astype(np.float32))
    state = optimizer.init(param)
    step = jax.jit(optimizer.update)
    for gradient in gradients:
        change, state = step(gradient, state, param)
        param = param + change
    yield Stepped(f"jax, {jax.default_backend()}", "float32", np.asarray(param))


def _keras(rule: Rule, start: Array, gradients: list[Array]) -> Iterator[Stepped]:
    from rmsprop import keras as adapter  # first, since its error says what to install; that of Keras does not

    keras: Any = sys.modules["keras"]
    variable = keras.Variable(start.astype(np.float32))
    optimizer = adapter.RMSprop.from_rule(rule)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    result = np.asarray(keras.ops.convert_to_numpy(variable.value))
    yield Stepped(f"keras, {keras.backend.backend()} backend", "float32", result)


def _pytensor(rule: Rule, start: Array, gradients: list[Array]) -> Iterator[Stepped]:
    import pytensor

    from rmsprop.pytensor import updates

    param = pytensor.shared(start.astype(np.float32))
    gradient = pytensor.tensor.vector("gradient", dtype="float32")
    # Executed in Python: the numbers are the same as compiled, and compiling takes long.
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # warns of a missing BLAS
        mode = pytensor.compile.Mode("py")
        step = pytensor.function([gradient], updates=updates([gradient], [param], rule), mode=mode)
    for g in gradients:
        step(g)
    yield Stepped("pytensor", "float32", param.get_value())


_FRAMEWORKS = {"numpy": _numpy, "torch": _torch, "jax": _jax, "keras": _keras, "pytensor": _pytensor}
