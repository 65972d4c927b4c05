"""The native kernel in Python: whether it is available, its number of threads, and `update` in place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from rmsprop.errors import InputError, Received, check_count
from rmsprop.hyperparameters import EVERYWHERE, averages, missing_fields
from rmsprop.rule import AVERAGES, Array, Rule, State, moment_weights
from rmsprop.rule import update as numpy_update

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["get_num_threads", "kernel_rule", "missing", "set_num_threads", "update"]

kernel: ModuleType | None
try:
    import rmsprop._kernel as kernel
except ImportError as error:
    kernel, _error = None, error

FIELDS = EVERYWHERE  # the fields of Rule that the kernel implements
GRAIN = 0  # least number of elements per thread; 0 takes the measured default of kernel/run.cpp

_threads: int | None = None


def missing() -> str | None:
    """Return None if the kernel is loaded, else one line: the reason, the cost and the remedy."""
    if kernel is not None:
        return None
    built = "was not built" if isinstance(_error, ModuleNotFoundError) else f"cannot be loaded ({_error})"
    return (
        f"the native kernel {built}: steps on the CPU take several times longer; install a C++ compiler (on Debian: "
        "apt-get install g++) and then rmsprop again (pip install --force-reinstall --no-deps --no-binary rmsprop)"
    )


def get_num_threads() -> int:
    """Return the number of threads that `rmsprop.update(..., out=...)` may use.

    The default is the number of processors that this process may use, at most OMP_NUM_THREADS. `rmsprop.torch` uses
    `torch.get_num_threads()` instead.
    """
    if _threads is not None:
        return _threads
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(processors, int(limit)) if limit.isdecimal() and int(limit) else processors


def set_num_threads(threads: int) -> None:
    """Set the number of threads that `rmsprop.update(..., out=...)` may use, at least 1. Results stay the same."""
    global _threads
    _threads = check_count("threads", threads, "1 means no second thread")


def kernel_rule(rule: Rule) -> Any:
    """Return `rule` as the kernel's own object, without lr."""
    fields = {name: getattr(rule, name) for name in FIELDS if name != "lr"}
    return kernel.Rule(**fields)  # type: ignore[union-attr]


def update(
    rule: Rule, param: Array, grad: Array, state: State, *, out: tuple[Array, State] | None = None
) -> tuple[Array, State]:
    """Return the parameter after one step and the new state, as `rmsprop.rule.update` defines them.

    Parameters
    ----------
    rule, param, grad, state
        As in `rmsprop.rule.update`. Without `out` they do not change.
    out
        A parameter and a state whose arrays take the results. They may be the arrays of `param` and `state`. The native
        kernel computes the same bits many times faster. NumPy steps without the kernel, and where arrays overlap or are
        not contiguous.

    Raises
    ------
    InputError
        For arrays that differ from `param` in shape or dtype, and for read-only arrays in `out`.
    """
    if out is None:
        return numpy_update(rule, param, grad, state)
    grad, sources = np.asarray(grad), {"param": np.asarray(param), **_averages(state)}
    for name in averages(rule):
        sources.setdefault(name, np.zeros_like(sources["param"]))
    targets = {"param": out[0], **_averages(out[1])}
    targets = {name: targets[name] if name in targets else np.empty_like(source) for name, source in sources.items()}
    _check(list(targets.values()), list(sources.values()), grad)
    if kernel is not None and not missing_fields(rule, FIELDS) and _fit_the_kernel(targets, sources, grad):
        for name, source in sources.items():
            if targets[name] is not source:
                np.copyto(targets[name], source)
        t, used = state.step + 1, averages(rule)
        power = rule.decay**t if rule.bias_correction else 0.0
        a, c = moment_weights(rule, t) if rule.first_moment else (1.0, 0.0)
        arrays = [targets[name] if name in used else None for name in AVERAGES]
        numbers = rule.lr, power, a, c
        kernel.update(kernel_rule(rule), *numbers, targets["param"], grad, *arrays, get_num_threads(), GRAIN)
    else:
        new_param, new_state = numpy_update(rule, param, grad, state)
        results = {"param": new_param, **_averages(new_state)}
        for name, target in targets.items():
            np.copyto(target, results[name])
    return out[0], State(state.step + 1, **{name: targets[name] for name in AVERAGES if name in targets})


def _averages(state: State) -> dict[str, Array]:
    return {name: array for name in AVERAGES if (array := getattr(state, name)) is not None}


def _fit_the_kernel(targets: dict[str, Array], sources: dict[str, Array], grad: Array) -> bool:
    """Return whether arrays are contiguous and aligned, and targets overlap none, but may be their own source."""
    if not all(x.flags.c_contiguous and x.flags.aligned for x in (grad, *targets.values())):
        return False
    for name, target in targets.items():
        others = [grad, *(arrays[other] for arrays in (sources, targets) for other in arrays if other != name)]
        if target is not sources[name]:
            others.append(sources[name])
        if any(np.may_share_memory(target, other) for other in others):
            return False
    return True


def _check(targets: list[Array], sources: list[Array], grad: Array) -> None:
    shape, dtype = sources[0].shape, sources[0].dtype
    if dtype not in (np.float32, np.float64):
        raise InputError("param.dtype", "float32 or float64", Received(dtype), "use param.astype(np.float32)")
    for name, arrays in (("out", targets), ("state", sources), ("grad", [grad])):
        for array in arrays:
            if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (shape, dtype):
                found = Received(f"{getattr(array, 'shape', '')} {getattr(array, 'dtype', type(array).__name__)}")
                raise InputError(name, f"arrays of param's {shape} {dtype}", found, "start with init(rule, param)")
    if not all(array.flags.writeable for array in targets):
        raise InputError("out", "writeable arrays", Received("a read-only one"), "copy it")
