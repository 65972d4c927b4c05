"""Records of steps in JAX, computed in NumPy from the state of an optax optimizer.

They have the form of `rmsprop.monitor.Monitor`'s records. Each record copies its arrays to the host, so make one every
100 steps or so. Pass records to `rmsprop.monitor.find` or a sink.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received, check_count, check_number
from rmsprop.monitor import jax_keras_record
from rmsprop.monitor.record import Record
from rmsprop.rule import Rule

Array = npt.NDArray[Any]
Tree = Any  # a tree of arrays


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
    """Return the record of one step of `rmsprop.jax.rmsprop` or `optax.rmsprop`, also inside a chain.

    Parameters
    ----------
    rule
        The rule of the step. `rmsprop.profile("optax", lr=...)` has optax's defaults.
    params, new_params
        The parameters before and after the step, trees of arrays.
    grads
        The gradients that reached RMSprop, None where there is none. If the chain clips or scales gradients first, put
        `rmsprop.monitor.probe()` right before RMSprop, and pass the gradients of the loss. The gradients that the probe
        kept are measured.
    state, new_state
        The optimizer's state before and after the step: of the whole chain, or of its RMSprop.
    learning_rate
        The rate of this step if it is not `rule.lr`, for example from a schedule.
    step
        t, 1 for the first step. Required if the state does not count steps, as in `optax.rmsprop` without bias
        correction.
    previous_grads
        The gradients of the step before. Without them, `gradient_cosine` and `sign_flips` are None.

    Returns
    -------
    dict
        A record as of `rmsprop.monitor.Monitor`. Tensors are named by their keys, such as "dense/kernel".

    Raises
    ------
    InputError
        If a state has no square averages, or those of several optimizers; if the trees do not match; if the states are
        not those before and after one step of the rule with these gradients; if `step` is missing.
    ModuleNotFoundError
        If JAX is not installed.

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
        rate: Any = learning_rate
        rate = rate.item() if getattr(rate, "shape", None) == () else rate
        remedy = "pass the rate of this step; for a schedule, schedule(step - 1)"
        rule = dataclasses.replace(rule, lr=check_number("learning_rate", rate, remedy))
    old, new = (_averages(name, tree) for name, tree in (("state", state), ("new_state", new_state)))
    v0, v1 = _leaves("state", _field(old, "square_avg", "nu")), _leaves("new_state", _field(new, "square_avg", "nu"))
    m1 = _leaves("new_state", _field(new, "grad_avg", "mu")) if rule.centered else {}
    w1 = _leaves("new_state", new._asdict().get("max_square_avg"))
    before, after, g = _leaves("params", params), _leaves("new_params", new_params), _leaves("grads", grads)
    previous = _leaves("previous_grads", previous_grads)
    trees = {"params": before, "grads": g, "new_params": after, "state": v0, "new_state": v1}
    for path in g:
        for name, leaves in trees.items():
            if path not in leaves:
                remedy = "pass the trees of one step, and None as the gradient of an untrained parameter"
                raise InputError(name, f"a tree with {path!r}, as grads are", Received("one without"), remedy)
            jax_keras_record.check_shape(name, path, leaves[path], before[path])
    if any(path not in m1 for path in g) if rule.centered else "mu" in new._asdict():
        allowed = f"one with centered={not rule.centered} for this state"
        raise InputError("rule", allowed, Received(str(rule.centered)), "pass the rule of the step")
    if any((path in w1) != rule.amsgrad for path in g):
        allowed = f"one with amsgrad={not rule.amsgrad} for this state"
        raise InputError("rule", allowed, Received(str(rule.amsgrad)), "pass the rule of the step")
    tensors = [
        jax_keras_record.Tensor(
            path, before[path], after[path], g[path], v0[path], v1[path], m1.get(path), previous.get(path),
            max_square_avg=w1.get(path),
        )
        for path in g
    ]  # fmt: skip
    was_skipped = jax_keras_record.skipped(tensors)
    t = _step_of(old, new, step, was_skipped)
    if not was_skipped:
        probed = _leaves("new_state", _probed(new_state))
        tensors = [x._replace(processed_gradient=probed.get(x.name)) for x in tensors]
        for x in tensors:
            remedy = "pass state, new_state and rule of one step; if the chain changes gradients, "
            remedy += "put rmsprop.monitor.probe() right before RMSprop"
            jax_keras_record.check_reached(rule, x, "grads", remedy)
    return jax_keras_record.make(rule, t, tensors, state_dtype=jax_keras_record.dtypes(v1.values()))


class ProbeState(NamedTuple):
    """The state of `probe`."""

    gradients: Tree


def probe() -> Any:
    """Keep the gradients that reach this point of an optax chain; `from_optax` measures them.

    Returns
    -------
    optax.GradientTransformation
        It changes no gradient. Its state takes as much memory as the gradients do.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from rmsprop import Rule
    >>> from rmsprop.jax import rmsprop
    >>> rule, params, grads = Rule(lr=0.01), {"w": jnp.ones(2)}, {"w": jnp.array([10.0, 0.0])}
    >>> optimizer = optax.chain(optax.clip(2.0), probe(), rmsprop(rule))
    >>> state = optimizer.init(params)
    >>> updates, new_state = optimizer.update(grads, state, params)
    >>> made = from_optax(rule, params, optax.apply_updates(params, updates), grads, state, new_state)
    >>> made["gradient_norm"]
    2.0
    """
    jax = _jax()
    import optax

    def init(params: Tree) -> ProbeState:
        return ProbeState(jax.tree_util.tree_map(jax.numpy.zeros_like, params))

    def update(updates: Tree, state: ProbeState, params: Tree = None) -> tuple[Tree, ProbeState]:
        return updates, ProbeState(updates)

    return optax.GradientTransformation(init, update)


def _probed(state: Tree) -> Tree:
    """Return the gradients that a probe in the chain has kept, None without a probe."""
    nodes = _jax().tree_util.tree_leaves(state, is_leaf=lambda node: isinstance(node, ProbeState))
    return next((node.gradients for node in nodes if isinstance(node, ProbeState)), None)


def _step_of(old: Any, new: Any, step: int | None, was_skipped: bool) -> int:
    """Return t of the step between two states; raise InputError if their counts are not one step apart."""
    t0, t1 = _field(old, "step", "count"), _field(new, "step", "count")
    if t0 is not None and t1 is not None and int(t1) - int(t0) != (not was_skipped):
        found = Received(f"one that counts {int(t1)}, and state counts {int(t0)}")
        remedy = "pass the states before and after one update that made a step"
        raise InputError("new_state", "the state one step after state", found, remedy)
    if step is not None:
        return check_count("step", step, "the first step is 1")
    if t0 is None:
        found = Received("none, and a state that does not count")
        raise InputError("step", "the number of the step, from 1", found, "pass step=")
    return int(t0) + 1


def _averages(name: str, state: Tree) -> Any:
    """Return the part of an optimizer's state that has square averages; raise InputError unless there is one."""
    nodes = _jax().tree_util.tree_leaves(state, is_leaf=lambda node: _has_averages(node) or _accumulates(node))
    if len(accumulating := [node for node in nodes if _accumulates(node)]) == 1:
        accumulated = int(accumulating[0].mini_step)
        if name == "new_state" and accumulated:
            what = Received(f"one for which optax.MultiSteps has accumulated {accumulated} gradients")
            remedy = "make records only where optimizer.has_updated(new_state)"
            raise InputError(name, "the state after a step", what, remedy)
        return _averages(name, accumulating[0].inner_opt_state)
    found = [node for node in nodes if _has_averages(node)]
    if len(found) != 1:
        allowed = "the state of one rmsprop.jax.rmsprop or optax.rmsprop"
        remedy = "pass the state of one optimizer" if found else "pass what init and update of the optimizer return"
        raise InputError(name, allowed, Received(f"one with {len(found) or 'none'} of them"), remedy)
    return found[0]


def _accumulates(node: Any) -> bool:
    return type(node).__name__ == "MultiStepsState"


def _has_averages(node: Any) -> bool:
    """Return whether a node is a state of rmsprop.jax or optax, by its class: Adam's state has the same fields."""
    return type(node).__name__.startswith(("RMSpropState", "ScaleByRms", "ScaleByRStdDev"))


def _field(node: Any, ours: str, optax: str) -> Any:
    fields = node._asdict()
    return fields.get(ours, fields.get(optax))


def _leaves(argument: str, tree: Tree) -> dict[str, Array]:
    """Return the arrays of a tree by their keys."""
    jax = _jax()
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    if any(isinstance(x, jax.core.Tracer) for _, x in pairs):
        found = Received("tracers of jax.jit or jax.grad")
        raise InputError(argument, "a tree of arrays", found, "call from_optax outside of what JAX transforms")
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.array(x) for path, x in pairs}


def _jax() -> Any:
    try:
        import jax
    except ModuleNotFoundError as error:
        if error.name not in ("jax", "jaxlib"):
            raise
        message = "rmsprop.monitor.from_optax needs JAX and optax: pip install 'rmsprop[jax]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    return jax
