"""RMSprop for JAX: `rmsprop`, an optax gradient transformation with every variant of the rule.

E1 to E9 of `rmsprop.rule` in `jax.numpy`, in the same order. Results agree to a few units in the last place. XLA may
flush subnormal numbers (below 1.2e-38 in float32) to zero; on CPUs it does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from numbers import Real
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rmsprop.errors import InputError, Received, number_of_text
from rmsprop.hyperparameters import EVERYWHERE, HYPERPARAMETERS, check_fields
from rmsprop.rule import AVERAGES, Rule, moment_weights, variance

try:
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import NamedSharding, PartitionSpec
    from jax.typing import ArrayLike
except ModuleNotFoundError as error:
    if error.name not in ("jax", "jaxlib", "optax"):
        raise
    raise ModuleNotFoundError("rmsprop.jax needs JAX and optax: pip install 'rmsprop[jax]'", name=error.name) from None

__all__ = ["RMSpropState", "rmsprop"]

FIELDS = EVERYWHERE  # the fields of Rule that this module implements
Tree: TypeAlias = Any  # of arrays; None in place of an array without an update
Scalar: TypeAlias = "float | jax.Array"
Schedule: TypeAlias = Callable[[jax.Array], Any]


class RMSpropState(NamedTuple):
    """State of `rmsprop`, under PyTorch's names.

    The averages are trees like the parameters, with the same shapes, shardings and dtypes. Averages of float16 and
    bfloat16 parameters are float32.
    """

    step: jax.Array  # t, number of executed updates: shape (), int32
    square_avg: Tree  # v
    grad_avg: Tree | None  # m, only when centered
    momentum_buffer: Tree | None  # b, only with momentum
    max_square_avg: Tree | None = None  # w, only with amsgrad


def rmsprop(
    rule: Rule | ArrayLike | Schedule | None = None,
    learning_rate: ArrayLike | Schedule | None = None,
    *,
    decay: ArrayLike | None = None,
    eps: ArrayLike | None = None,
    momentum: ArrayLike | None = None,
    weight_decay: ArrayLike | None = None,
    initial_square_avg: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Return RMSprop as an optax gradient transformation.

    For a parameter p with gradient g, at each step (η = lr or learning_rate, β = decay, ε = eps, μ = momentum)::

        v ← β·v + (1−β)·g²
        m ← m + (1−β)·(g − m)          s ← max(v − m², κ·v)     if centered, else s ← v
        b ← μ·b + g/(√s + ε)
        update = −η·b                  (without momentum: −η·g/(√s + ε))

    Adam, `Rule(momentum=0.9, first_moment=True, bias_correction=True)`, averages the gradient before the division::

        b ← b + (1−μ)·(g − b)
        update = −η·b̂/(√v̂ + ε)         b̂ = b/(1−μᵗ), v̂ = v/(1−βᵗ)

    `rmsprop.rule` has the equations of all variants; `rule.explain()` has the active ones.

    Parameters
    ----------
    rule
        A Rule, for example `rmsprop.profile("optax", lr=0.01)`. If omitted, PyTorch's RMSprop, `Rule()`, at the
        `learning_rate`, which may also come first.
    learning_rate
        Replaces `rule.lr`: a number, a scalar array (traced or not), or a schedule. A schedule is called with the
        number of earlier updates, from 0. The value of an array is not checked.
    decay, eps, momentum, weight_decay, initial_square_avg
        Replace the rule's values: a number, or a scalar array (traced or not). The value of an array is not checked.
        `optax.inject_hyperparams` passes each argument as an array. Momentum in an array always has a buffer. Weight
        decay in an array always needs `params`. An array is converted to the averages' dtype before any arithmetic,
        1−β included. An array of `initial_square_avg` is refused with amsgrad and bias correction.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        `init(params)` returns the `RMSpropState`. `update(grads, state, params)` returns the updates, for
        `optax.apply_updates`, and the new state. Without weight decay `params` may be omitted. optax passes further
        keyword arguments to every part of a chain; `update` ignores them.

    Raises
    ------
    InputError
        A ValueError, for an unusable rule or rate. `init` raises it for parameters that are not floating point.
        `update` raises it for weight decay without `params` and for a gradient that does not fit its parameter.

    Notes
    -----
    The compute dtype of float16 and bfloat16 parameters is float32. Their state and updates are float32, whatever dtype
    the gradients have. `optax.apply_updates` then adds in float32 and rounds the parameter once.
    `optax.apply_if_finite` needs updates in the gradients' dtype: convert the gradients to float32 before it.
    `optax.inject_hyperparams` rounds the rate to the parameters' dtype unless `hyperparam_dtype=jnp.float32` is given.

    A complex parameter is stepped as two real ones, as in PyTorch: real and imaginary part have separate averages.
    `jax.grad` returns the conjugate of the direction of ascent: conjugate it before `update`, as for any optax
    transformation.

    With a gradient of None, parameter and state do not change, and the update is None.

    The state of sharded parameters is sharded like them, and so are the updates. No step needs communication; results
    are those of one device, up to the last digits of m² in shards of a few elements, which XLA compiles otherwise. Call
    `init` outside of `jax.jit`, or give jit `out_shardings`: in a mesh of automatic axes, an `init` inside of jit does
    not know how the parameters are sharded.

    Differences from `optax.rmsprop`: PyTorch's defaults; the rate outside the momentum buffer; weight decay and
    maximize. The momentum buffer has the opposite sign (b = −trace). A variance that rounding makes negative and a
    denominator of zero give no NaN. The step can be differentiated where the gradient is zero.

    With `first_moment` and `bias_correction` the step is that of `optax.adam` and `optax.adamw`, with `nesterov` that
    of `optax.nadam`, which has no momentum schedule. `momentum_buffer` is their `mu`, `square_avg` their `nu`.
    `optax.amsgrad` takes the maximum of v̂, this module that of v, as PyTorch and Keras do. Without bias correction
    both are the same.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from rmsprop.jax import rmsprop
    >>> from rmsprop.rule import Rule
    >>> params, grads = jnp.array([1.0, 1.0]), jnp.array([10.0, 0.01])
    >>> optimizer = rmsprop(Rule(lr=0.01, decay=0.9))
    >>> updates, state = optimizer.update(grads, optimizer.init(params))
    >>> optax.apply_updates(params, updates)
    Array([0.96837723, 0.96837735], dtype=float32)

    A rate that changes between steps without recompilation:

    >>> optimizer = optax.inject_hyperparams(rmsprop)(Rule(decay=0.9), learning_rate=0.01)
    >>> state = optimizer.init(params)
    >>> state.hyperparams["learning_rate"] = jnp.array(0.1)

    Parameters that are sharded over all devices:

    >>> from jax.sharding import NamedSharding, PartitionSpec
    >>> mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    >>> weights = jax.device_put(jnp.ones((8, 2)), NamedSharding(mesh, PartitionSpec("rows")))
    >>> rmsprop(0.01).init(weights).square_avg.sharding == weights.sharding
    True

    A decay that follows a schedule:

    >>> schedule = optax.linear_schedule(0.9, 0.99, transition_steps=1000)
    >>> optimizer = optax.inject_hyperparams(rmsprop)(Rule(), decay=schedule)
    """
    rate: ArrayLike | Schedule
    if rule is None and learning_rate is not None:
        rule, learning_rate = learning_rate, None
    if not isinstance(rule, Rule):
        if not isinstance(rule, Real | jax.Array | np.ndarray) and not callable(rule):
            remedy = number_of_text(rule) or "rmsprop.profile gives rules by name"
            raise InputError("rule", "a Rule or a learning rate", rule, remedy)
        if learning_rate is not None:
            raise InputError("learning_rate", "given once", Received("two"), "pass a Rule and a rate, or a rate only")
        base, rate = Rule(), rule
    else:
        check_fields(rule, FIELDS, "rmsprop.jax")
        base, rate = rule, rule.lr if learning_rate is None else learning_rate
    schedule_or_rate: Scalar | Schedule = rate if callable(rate) else _checked("learning_rate", rate)
    variant = _with_numbers(base, decay, eps, momentum, weight_decay, initial_square_avg)

    def init(params: Tree) -> RMSpropState:
        def average(start: Scalar) -> Tree:
            return jax.tree_util.tree_map_with_path(lambda path, p: _full_like(path, p, start), params)

        return RMSpropState(
            step=_no_steps(params),
            square_avg=average(variant.initial_square_avg),
            grad_avg=average(0.0) if variant.centered else None,
            momentum_buffer=average(0.0) if _in_use(variant.momentum) else None,
            max_square_avg=average(0.0) if variant.amsgrad else None,
        )

    def update(grads: Tree, state: RMSpropState, params: Tree | None = None, **_: Any) -> tuple[Tree, RMSpropState]:
        if params is None and _in_use(variant.weight_decay):
            raise InputError("params", "given with weight decay", Received("none"), "update(grads, state, params)")
        lr = _checked("learning_rate", schedule_or_rate(state.step)) if callable(schedule_or_rate) else schedule_or_rate
        t = optax.safe_increment(state.step)
        in_dtype = cache(lambda dtype: _in_dtype(SimpleNamespace(**{**vars(variant), "lr": lr}), t, dtype))
        named: list[tuple[Any, Any]]
        tree: Any
        named, tree = jax.tree_util.tree_flatten_with_path(grads, is_leaf=lambda x: x is None)
        columns = [
            [None] * len(named) if x is None else tree.flatten_up_to(x)
            for x in (params, *(getattr(state, name) for name in AVERAGES))
        ]
        rows = zip(named, *columns, strict=True)
        results = [_leaf(variant, in_dtype, path, g, p, averages) for (path, g), p, *averages in rows]
        change, v, m, b, w = (tree.unflatten([r[i] for r in results]) for i in range(1 + len(AVERAGES)))
        m = m if variant.centered else state.grad_avg
        b = b if _in_use(variant.momentum) else state.momentum_buffer
        w = w if variant.amsgrad else state.max_square_avg
        return change, RMSpropState(t, v, m, b, w)

    return optax.GradientTransformationExtraArgs(init, update)


def _with_numbers(rule: Rule, *values: ArrayLike | None) -> SimpleNamespace:
    """Return the fields of `rule`, replaced by the numbers and arrays of `values`."""
    names = ("decay", "eps", "momentum", "weight_decay", "initial_square_avg")
    numbers = {name: x for name, x in zip(names, values, strict=True) if x is not None}
    arrays = {name: x for name, x in numbers.items() if isinstance(x, jax.Array | np.ndarray)}
    # `Rule` checks numbers. An array may be traced and have no value yet.
    rule = dataclasses.replace(rule, **{name: x for name, x in numbers.items() if name not in arrays})  # type: ignore[arg-type]
    if rule.amsgrad and rule.bias_correction and "initial_square_avg" in arrays:
        allowed = "0 with amsgrad=True and bias_correction=True"
        raise InputError("initial_square_avg", allowed, Received("an array"), "omit it")
    return SimpleNamespace(**{**vars(rule), **{name: _checked(name, x) for name, x in arrays.items()}})


def _in_use(number: Scalar) -> bool:
    """Return whether a number is not 0. An array counts as in use: its value may change."""
    return isinstance(number, jax.Array) or number != 0


def _checked(name: str, value: Any) -> Scalar:
    """Return a number as a checked float, an array (traced or not) as a scalar array."""
    if not isinstance(value, jax.Array | np.ndarray):
        return HYPERPARAMETERS["lr"].checked(value, name)
    if value.shape != () or value.dtype == bool or jnp.iscomplexobj(value):
        found = Received(f"shape {value.shape} {value.dtype}")
        raise InputError(name, "a real scalar", found, "jax.vmap runs over several")
    return jnp.asarray(value)


def _full_like(path: Any, p: Any, value: Scalar) -> jax.Array:
    """Return an array of the shape and sharding of a parameter, in the dtype of its state."""
    dtype = jnp.result_type(p)
    if not jnp.issubdtype(dtype, jnp.inexact):
        name = "the dtype of params" + jax.tree_util.keystr(path)
        raise InputError(name, "floating or complex", Received(dtype.name), "exclude it with optax.masked")
    if dtype.itemsize < 4:
        dtype = jnp.dtype(jnp.float32)
    fill = value * (1 + 1j) if jnp.issubdtype(dtype, jnp.complexfloating) else value
    return jnp.full_like(p, fill, dtype=dtype)


def _no_steps(params: Tree) -> jax.Array:
    """Return a count of 0. It is on the mesh of sharded parameters, as later counts are: no step is compiled twice."""
    for p in jax.tree.leaves(params):
        if isinstance(p, jax.Array) and not isinstance(p, jax.core.Tracer) and isinstance(p.sharding, NamedSharding):
            return jnp.zeros([], jnp.int32, device=NamedSharding(p.sharding.mesh, PartitionSpec()))  # type: ignore[no-untyped-call]
    return jnp.zeros([], jnp.int32)


class _StepNumbers(NamedTuple):
    """The numbers of E5 and E7 that depend on the step count."""

    power: Scalar  # βᵗ
    weight: Scalar  # 1 − βᵗ
    a: Scalar  # the weight of b in n
    c: Scalar  # the weight of g in n


def _in_dtype(rule: Any, t: jax.Array, dtype: Any) -> tuple[Any, _StepNumbers]:
    """Return `rule` with its arrays in `dtype`, and the numbers of step t in `dtype`."""
    rule = SimpleNamespace(**{k: x.astype(dtype) if isinstance(x, jax.Array) else x for k, x in vars(rule).items()})
    step = t.astype(dtype)
    power, weight = _bias(rule.decay, step) if rule.bias_correction else (0.0, 1.0)
    a, c = moment_weights(rule, step, jnp) if rule.first_moment else (1.0, 0.0)
    return rule, _StepNumbers(power, weight, a, c)


def _leaf(
    variant: Any, in_dtype: Callable[[Any], tuple[Any, _StepNumbers]], path: Any, g: Any, p: Any, averages: list[Any]
) -> tuple[Any, ...]:
    """Return the update of one parameter and its new averages. Step a complex array as two real ones."""
    if g is None:
        return None, *averages
    v = averages[0]
    p = p if _in_use(variant.weight_decay) else None
    for what, x in (("the gradient of params", g), ("params", g if p is None else p)):
        if jnp.shape(x) != v.shape or jnp.iscomplexobj(x) != jnp.iscomplexobj(v):
            name, found = what + jax.tree_util.keystr(path), Received(f"{jnp.shape(x)} {jnp.result_type(x)}")
            raise InputError(name, f"like its state, {v.shape} {v.dtype}", found, "was init called with these params?")
    arrays = [None if x is None else jnp.asarray(x, v.dtype) for x in (g, p, *averages)]
    rule, numbers = in_dtype(jnp.real(v).dtype)
    if not jnp.iscomplexobj(v):
        return _step(rule, numbers, *arrays)
    parts = [_step(rule, numbers, *(None if x is None else part(x) for x in arrays)) for part in (jnp.real, jnp.imag)]
    return tuple(None if re is None else jax.lax.complex(re, im) for re, im in zip(*parts, strict=True))


def _step(rule: Any, numbers: _StepNumbers, g: Any, p: Any, v: Any, m: Any, b: Any, w: Any) -> tuple[Any, ...]:
    """Return the update of E1 to E9 and the new v, m, b and w, for real arrays. Only weight decay reads p."""
    eta, beta, mu, lam = rule.lr, rule.decay, rule.momentum, rule.weight_decay
    if rule.maximize:
        g = -g  # E1
    if _in_use(lam) and not rule.decoupled_weight_decay:
        g = g + lam * p  # E2
    v = beta * v + ((1 - beta) * g) * g  # E3
    if rule.amsgrad:
        w = v if w is None else jnp.maximum(w, v)
    if rule.centered:
        m = jnp.zeros_like(v) if m is None else m
        m = m + (1 - beta) * (g - m)  # E4
    d = _denominator(rule, numbers, {"square_avg": v, "grad_avg": m, "max_square_avg": w})  # E5, E6
    if _in_use(mu):
        b = jnp.zeros_like(v) if b is None else b
    n = g
    if _in_use(mu) and rule.first_moment:
        b = b + (1 - mu) * (g - b)  # E7
        n = numbers.a * b + numbers.c * g if rule.nesterov else numbers.a * b
    # JAX differentiates both sides of a where: neither may divide by zero.
    u = jnp.where(d == 0, 0.0, n / jnp.where(d == 0, 1.0, d))
    if rule.lr_in_momentum:
        u = eta * u
    r = u
    if _in_use(mu) and not rule.first_moment:
        b = mu * b + u  # E8
        r = u + mu * b if rule.nesterov else b
    change = -r if rule.lr_in_momentum else -(eta * r)  # E9
    if _in_use(lam) and rule.decoupled_weight_decay:
        change = change - (eta * lam) * p  # E2
    return change, v, m, b, w


def _denominator(rule: Any, numbers: _StepNumbers, averages: dict[str, Any]) -> jax.Array:
    kappa = 4 * float(np.finfo(averages["square_avg"].dtype).eps)  # 8 × unit roundoff
    s, _ = variance(rule, averages, numbers.power, numbers.weight, kappa, jnp.maximum)  # E5
    return _sqrt(s + rule.eps) if rule.eps_inside_sqrt else _sqrt(s) + rule.eps  # E6


def _bias(decay: Scalar, t: jax.Array) -> tuple[Scalar, Scalar]:
    """Return βᵗ and 1 − βᵗ. Near β = 1 a subtraction would cancel digits; expm1 keeps them."""
    if not isinstance(decay, jax.Array) and decay == 0:
        return 0.0, 1.0
    exponent = t * (jnp.log(decay) if isinstance(decay, jax.Array) else math.log(decay))
    return jnp.exp(exponent), -jnp.expm1(exponent)


def _sqrt(s: jax.Array) -> jax.Array:
    """Return √s with the derivative 0 at 0: the derivative of sqrt is infinite there, and 0·∞ is NaN."""
    return jnp.where(s == 0, 0.0, jnp.sqrt(jnp.where(s == 0, 1.0, s)))
