"""Records of steps that were made with JAX or Keras, through the state of their optimizers, in NumPy.

They are those of `rmsprop.monitor.Monitor`. What one needs is copied to the host, so that this is for a step now and
then: make one for every hundredth step, say, and give them to `rmsprop.monitor.find` or a sink.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received
from rmsprop.monitor import record
from rmsprop.monitor.statistics import COLUMNS, describe, sums
from rmsprop.rule import Rule

Array = npt.NDArray[Any]
Record = dict[str, Any]
Tree = Any  # of arrays

_NONFINITE = COLUMNS.index("nonfinite")


class _Tensor(NamedTuple):
    name: str
    before: Array
    after: Array
    gradient: Array
    square_avg_before: Array
    square_avg: Array
    grad_avg: Array | None
    previous: Array | None  # the gradient of the step before


def from_optax(
    rule: Rule,
    params: Tree,
    new_params: Tree,
    grads: Tree,
    state: Tree,
    new_state: Tree,
    *,
    learning_rate: float | None = None,
    step: int | None = None,
    previous_grads: Tree = None,
) -> Record:
    """Return the record of one step of `rmsprop.jax.rmsprop` or `optax.rmsprop`, also inside of a chain.

    Parameters
    ----------
    rule
        The rule of the step; `rmsprop.profile("optax", lr=...)` is that of optax's defaults.
    params, new_params
        The parameters before and after the step, trees of arrays.
    grads
        The gradients, as the first transformation of a chain gets them; None where there is none.
    state, new_state
        The optimizer's state before and after the step.
    learning_rate
        The rate of this step, where it is not `rule.lr`: from a schedule, for example.
    step
        t, 1 for the first step. Needed where the state does not count steps: that of `optax.rmsprop` without bias
        correction.
    previous_grads
        The gradients of the step before, for `gradient_cosine` and `sign_flips`; None leaves these out.

    Returns
    -------
    dict
        As in `rmsprop.monitor.Monitor`. Tensors are named by their keys, such as "dense/kernel".

    Raises
    ------
    InputError
        If a state has no square averages or those of several optimizers, if trees do not fit one another, or if `step`
        is missing.
    ModuleNotFoundError
        Without JAX.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from rmsprop import Rule
    >>> from rmsprop.jax import rmsprop
    >>> rule, params, grads = Rule(lr=0.01), {"w": jnp.ones(2)}, {"w": jnp.array([10.0, 0.0])}
    >>> optimizer = rmsprop(rule)
    >>> state = optimizer.init(params)
    >>> updates, new_state = optimizer.update(grads, state, params)
    >>> made = from_optax(rule, params, optax.apply_updates(params, updates), grads, state, new_state)
    >>> made["step"], made["tensors"]["w"]["zero_gradient_share"]
    (1, 0.5)
    """
    if not isinstance(rule, Rule):
        raise InputError("rule", "a rmsprop.Rule", rule, 'say Rule(lr=0.01) or profile("optax", lr=0.01)')
    if learning_rate is not None:
        rule = dataclasses.replace(rule, lr=float(learning_rate))
    old, new = (_averages(name, tree) for name, tree in (("state", state), ("new_state", new_state)))
    v0, v1 = (_leaves(_field(x, "square_avg", "nu")) for x in (old, new))
    m1 = _leaves(_field(new, "grad_avg", "mu")) if rule.centered else {}
    counted = _field(new, "step", "count")
    if step is None and counted is None:
        found = Received("none, and a state that does not count")
        raise InputError("step", "the number of the step, from 1", found, "pass step=")
    t = int(counted) if step is None else step
    before, after, g = (_leaves(tree) for tree in (params, new_params, grads))
    previous = _leaves(previous_grads)
    for name, leaves in (("params", before), ("new_params", after), ("state", v0), ("new_state", v1)):
        missing = [path for path in g if path not in leaves]
        if missing:
            allowed = f"a tree with {missing[0]!r}, as grads are"
            raise InputError(name, allowed, Received("one without"), "pass the trees of one step")
    if rule.centered and any(path not in m1 for path in g):
        raise InputError(
            "rule", "one with centered=False for this state", Received("True"), "pass the rule of the step"
        )
    tensors = [
        _Tensor(path, before[path], after[path], g[path], v0[path], v1[path], m1.get(path), previous.get(path))
        for path in g
    ]
    return _record(rule, t, tensors, state_dtype=_dtypes(v1.values()))


def keras_before(optimizer: Any) -> dict[str, Any]:
    """Return what `from_keras` needs of a `rmsprop.keras.RMSprop` before its step: its rule, and copies of arrays."""
    if type(optimizer).__module__.partition(".")[0] == "keras" or not hasattr(optimizer, "_square_avgs"):
        ours = type(optimizer).__module__ == "rmsprop.keras"
        found = Received("one that is not built" if ours else f"a {type(optimizer).__name__} of another library")
        raise InputError("optimizer", "a rmsprop.keras.RMSprop", found, "make that, and call build(variables)")
    return {
        "rule": optimizer.rule(),  # with the rate of the next step
        "variables": [_numpy(x) for x in optimizer._trainable_variables],
        "square_avgs": [_numpy(x) for x in optimizer._square_avgs],
    }


def from_keras(
    optimizer: Any,
    gradients: Sequence[Any],
    before: dict[str, Any],
    *,
    previous_gradients: Sequence[Any] | None = None,
) -> Record:
    """Return the record of the step that a `rmsprop.keras.RMSprop` has just made in a training loop of your own.

    Parameters
    ----------
    optimizer
        The optimizer, after `optimizer.apply(gradients, variables)`.
    gradients
        The gradients of the step, one for each of the variables that the optimizer was built with, None where there
        is none. Those that it accumulates, clips or scales itself are not seen; its own changes to them are.
    before
        What `keras_before(optimizer)` returned before the step.
    previous_gradients
        Those of the step before, for `gradient_cosine` and `sign_flips`; None leaves these out.

    Returns
    -------
    dict
        As in `rmsprop.monitor.Monitor`. Tensors are named by the variables' paths.

    Raises
    ------
    InputError
        For another optimizer or one that is not built, and for gradients that are not as many as its variables.

    Notes
    -----
    `Model.fit` does not show gradients to callbacks, and compiles its steps: with it, override `train_step` and pass
    `run_eagerly=True` to `compile`.

    Examples
    --------
    >>> import keras
    >>> from rmsprop.keras import RMSprop
    >>> weight, gradient = keras.Variable([1.0, 1.0], name="weight"), keras.ops.array([10.0, 0.0])
    >>> optimizer = RMSprop(learning_rate=0.01)
    >>> optimizer.build([weight])
    >>> before = keras_before(optimizer)
    >>> optimizer.apply([gradient], [weight])
    >>> from_keras(optimizer, [gradient], before)["tensors"]["weight"]["zero_gradient_share"]
    0.5
    """
    now = keras_before(optimizer)
    variables = optimizer._trainable_variables
    earlier = [None] * len(variables) if previous_gradients is None else previous_gradients
    for name, given in (("gradients", gradients), ("previous_gradients", earlier)):
        if len(given) != len(variables):
            allowed = f"of the optimizer's {len(variables)} variables"
            raise InputError(name, allowed, Received(f"{len(given)}"), "pass None where there is no gradient")
    rule: Rule = before["rule"]
    grad_avgs = optimizer._grad_avgs if rule.centered else [None] * len(variables)
    arrays = (before["variables"], now["variables"], gradients, before["square_avgs"], now["square_avgs"], grad_avgs)
    rows = zip(variables, *arrays, earlier, strict=True)
    tensors = [
        _Tensor(variable.path, p0, p1, _numpy(g), v0, v1, _numpy(m), _numpy(old))
        for variable, p0, p1, g, v0, v1, m, old in rows
        if g is not None
    ]
    return _record(rule, int(optimizer.iterations), tensors, state_dtype=_dtypes(now["square_avgs"]))


def _record(rule: Rule, step: int, tensors: Sequence[_Tensor], *, state_dtype: str | None) -> Record:
    described, rows = {}, []
    for x in tensors:
        row, histogram = sums(
            rule,
            before=x.before,
            after=x.after,
            gradient=x.gradient,
            square_avg_before=x.square_avg_before,
            square_avg=x.square_avg,
            grad_avg=x.grad_avg,
            step=step,
        )
        rows.append(row)
        elements, has_rows = x.before.size * (2 if np.iscomplexobj(x.before) else 1), x.before.ndim > 1
        described[x.name] = {
            "group": 0,
            "shape": list(x.before.shape),
            "dtype": str(x.after.dtype),
            "state_dtype": str(x.square_avg.dtype),
            "age": step - 1,
            **describe(elements, row, histogram, rule.lr, rule.centered),
            **_change(x),
            "dead_rows": record.dead_rows(x.gradient, x.square_avg) if has_rows else None,
            "rows": len(x.before) if has_rows else None,
        }
    group = {
        **dataclasses.asdict(rule),
        "state_dtype": state_dtype,
        "param_dtype": _dtypes(x.after for x in tensors),
        "stochastic_rounding": False,
        "nonfinite": "propagate",
    }
    table = np.array(rows).reshape(len(rows), len(COLUMNS))
    return record.assemble(step, [group], described, table, int(bool((table[:, _NONFINITE] > 0).any())))


def _change(x: _Tensor) -> dict[str, float | None]:
    if x.previous is None or x.previous.shape != x.gradient.shape or not x.gradient.size:
        return record.UNKNOWN
    return record.changes(record.sample(x.gradient), record.sample(x.previous), [0])[0]


def _numpy(x: Any) -> Any:
    """Return a copy of a Keras variable or tensor on the host; None stays None."""
    if x is None:
        return None
    from keras import ops

    return np.array(ops.convert_to_numpy(ops.convert_to_tensor(x)))


def _dtypes(arrays: Iterable[Array]) -> str | None:
    return ", ".join(dict.fromkeys(str(x.dtype) for x in arrays)) or None


def _averages(name: str, state: Tree) -> Any:
    """Return the one part of an optimizer's state that has square averages."""
    found = [node for node in _jax().tree_util.tree_leaves(state, is_leaf=_has_averages) if _has_averages(node)]
    if len(found) != 1:
        allowed = "the state of one rmsprop.jax.rmsprop or optax.rmsprop"
        raise InputError(name, allowed, Received(f"one with {len(found)} of them"), "pass the part of one")
    return found[0]


def _has_averages(node: Any) -> bool:
    """Return whether it is rmsprop.jax's RMSpropState, or what optax scales by; Adam's state has the same fields."""
    return type(node).__name__.startswith(("RMSpropState", "ScaleByRms", "ScaleByRStdDev"))


def _field(node: Any, ours: str, optax: str) -> Any:
    fields = node._asdict()
    return fields.get(ours, fields.get(optax))


def _leaves(tree: Tree) -> dict[str, Array]:
    """Return the arrays of a tree by their keys."""
    tree_util = _jax().tree_util
    pairs = tree_util.tree_flatten_with_path(tree)[0]
    return {tree_util.keystr(path, simple=True, separator="/"): np.array(x) for path, x in pairs}


def _jax() -> Any:
    try:
        import jax
    except ModuleNotFoundError as error:
        if error.name not in ("jax", "jaxlib"):
            raise
        message = "rmsprop.monitor.from_optax needs JAX and optax: pip install 'rmsprop[jax]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    return jax
