"""The native kernel from Python: whether it was built, its number of threads, and `update`, which can use it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from rmsprop.errors import InputError, Received, check_count
from rmsprop.rule import AVERAGES, Array, Rule, State
from rmsprop.rule import update as numpy_update

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["get_num_threads", "kernel_rule", "missing", "set_num_threads", "update"]

kernel: ModuleType | None
try:
    import rmsprop._kernel as kernel
except ImportError as error:
    kernel, _error = None, error

GRAIN = 0  # elements that a thread gets at least; 0 stands for what was measured (kernel/run.cpp)

_threads: int | None = None


def missing() -> str | None:
    """Return None if the kernel is there, else one line: why not, what that costs, and what to do."""
    if kernel is not None:
        return None
    built = "was not built" if isinstance(_error, ModuleNotFoundError) else f"cannot be loaded ({_error})"
    return (
        f"the native kernel {built}: steps on the CPU take several times longer; install a C++ compiler "
        "(on Debian: apt-get install g++) and then rmsprop again (pip install --force-reinstall --no-deps)"
    )


def get_num_threads() -> int:
    """Return the number of threads that `rmsprop.update(..., out=...)` may use.

    It is the number of processors that this process may use, or OMP_NUM_THREADS if that is less, unless
    `set_num_threads` has set another. `rmsprop.torch` uses `torch.get_num_threads()`.
    """
    if _threads is not None:
        return _threads
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(processors, int(limit)) if limit.isdecimal() and int(limit) else processors


def set_num_threads(threads: int) -> None:
    """Set the number of threads that `rmsprop.update(..., out=...)` may use, at least 1. It changes no result."""
    global _threads
    _threads = check_count("threads", threads, "1 means no second thread")


def kernel_rule(rule: Rule) -> Any:
    """Return `rule` as the kernel takes it, without lr."""
    fields = {name: value for name, value in vars(rule).items() if name != "lr"}
    return kernel.Rule(**fields)  # type: ignore[union-attr]


def update(
    rule: Rule, param: Array, grad: Array, state: State, *, out: tuple[Array, State] | None = None
) -> tuple[Array, State]:
    """Return the parameter after one step and the new state, as `rmsprop.rule.update` defines them.

    Parameters
    ----------
    rule, param, grad, state
        As in `rmsprop.rule.update`. Without `out` they are left as they were.
    out
        A parameter and a state whose arrays take the results, from the native kernel: the same bits, many times faster.
        They may be those of `param` and `state`. Without the kernel, or where arrays are not contiguous, NumPy steps.

    Raises
    ------
    InputError
        For arrays that differ from `param` in shape or dtype, and for arrays of `out` that cannot be written.
    """
    if out is None:
        return numpy_update(rule, param, grad, state)
    target, own = out
    sources = [np.asarray(param), *(getattr(state, name) for name in AVERAGES)]
    targets = [target, *(getattr(own, name) for name in AVERAGES)]
    used = [True, True, rule.centered, rule.momentum > 0]
    for i, source in enumerate(sources):
        if source is None and used[i]:  # a buffer that starts at zero
            sources[i] = source = np.zeros_like(sources[0])
        if source is None or targets[i] is None:
            targets[i] = None if source is None else np.empty_like(source)
    pairs = [(a, b) for a, b in zip(targets, sources, strict=True) if a is not None and b is not None]
    grad = np.asarray(grad)
    _check([a for a, _ in pairs], [b for _, b in pairs], grad)
    apart = [(a, b) for i, (a, _) in enumerate(pairs) for b in (grad, *(s for k, (_, s) in enumerate(pairs) if k != i))]
    apart += [(a, b) for i, (a, _) in enumerate(pairs) for b, _ in pairs[:i]]
    if (
        kernel is not None
        and all(x.flags.c_contiguous and x.flags.aligned for x in (grad, *(a for a, _ in pairs)))
        and not any(np.may_share_memory(a, b) for a, b in apart)
        and all(a is b or not np.may_share_memory(a, b) for a, b in pairs)
    ):
        for into, source in pairs:
            if into is not source:
                np.copyto(into, source)
        p, v, m, b = (array if use else None for array, use in zip(targets, used, strict=True))
        power = rule.decay ** (state.step + 1) if rule.bias_correction else 0.0
        kernel.update(kernel_rule(rule), rule.lr, power, p, grad, v, m, b, get_num_threads(), GRAIN)
    else:
        p, new = numpy_update(rule, param, grad, state)
        results = [p, *(getattr(new, name) for name in AVERAGES)]
        for into, result in zip(targets, results, strict=True):
            if into is not None:
                np.copyto(into, result)
    return target, State(state.step + 1, *targets[1:])


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
