"""Records of steps that were made with JAX or Keras, through the state of their optimizers, in NumPy.

They are those of `rmsprop.monitor.Monitor`. What one needs is copied to the host, so that this is for a step now and
then: make one for every hundredth step, say, and give them to `rmsprop.monitor.find` or a sink.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received, check_count, check_number
from rmsprop.monitor import jax_keras_record
from rmsprop.monitor.record import Record
from rmsprop.rule import Rule

Array = npt.NDArray[Any]
Tree = Any  # of arrays


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
        The gradients, None where there is none. What a chain does to them before RMSprop, such as clipping, need not be
        done here: where the square averages show that others came in, those are measured, with the signs of these.
    state, new_state
        The optimizer's state before and after the step, that of a whole chain or of its RMSprop.
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
        If a state has no square averages or those of several optimizers, if trees do not fit one another, if the states
        are not those before and after one step of the rule, or if `step` is missing.
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
        rate: Any = learning_rate
        rate = rate.item() if getattr(rate, "shape", None) == () else rate
        remedy = "pass that of this step, of a schedule schedule(step - 1)"
        rule = dataclasses.replace(rule, lr=check_number("learning_rate", rate, remedy))
    old, new = (_averages(name, tree) for name, tree in (("state", state), ("new_state", new_state)))
    v0, v1 = _leaves("state", _field(old, "square_avg", "nu")), _leaves("new_state", _field(new, "square_avg", "nu"))
    m1 = _leaves("new_state", _field(new, "grad_avg", "mu")) if rule.centered else {}
    before, after, g = _leaves("params", params), _leaves("new_params", new_params), _leaves("grads", grads)
    previous = _leaves("previous_grads", previous_grads)
    trees = {"params": before, "grads": g, "new_params": after, "state": v0, "new_state": v1}
    for path in g:
        for name, leaves in trees.items():
            if path not in leaves:
                remedy = "pass the trees of one step, and None as the gradient of what is not trained"
                raise InputError(name, f"a tree with {path!r}, as grads are", Received("one without"), remedy)
            jax_keras_record.check_shape(name, path, leaves[path], before[path])
    if any(path not in m1 for path in g) if rule.centered else "mu" in new._asdict():
        allowed = f"one with centered={not rule.centered} for this state"
        raise InputError("rule", allowed, Received(str(rule.centered)), "pass the rule of the step")
    tensors = [
        jax_keras_record.Tensor(
            path, before[path], after[path], g[path], v0[path], v1[path], m1.get(path), previous.get(path)
        )
        for path in g
    ]
    t = _step_of(old, new, step, jax_keras_record.left_out(tensors))
    for x in tensors:
        if jax_keras_record.fell_too_far(rule, x):
            allowed = f"one whose square averages are at least {rule.decay:g} of state's"
            found = Received(f"one where they have fallen further in {x.name!r}")
            remedy = "pass state and new_state in this order, of one step, and the rule that it followed"
            raise InputError("new_state", allowed, found, remedy)
    return jax_keras_record.make(rule, t, tensors, state_dtype=jax_keras_record.dtypes(v1.values()))


def keras_before(optimizer: Any) -> dict[str, Any]:
    """Return what `from_keras` needs of a `rmsprop.keras.RMSprop` before its step: its rule, and copies of arrays."""
    if type(optimizer).__module__.partition(".")[0] == "keras" or not hasattr(optimizer, "averages"):
        ours = type(optimizer).__module__ == "rmsprop.keras"
        found = Received("one that is not built" if ours else f"a {type(optimizer).__name__} of another library")
        raise InputError("optimizer", "a rmsprop.keras.RMSprop", found, "make that, and call build(variables)")
    return {
        "rule": optimizer.rule(),  # with the rate of the next step
        "iterations": int(optimizer.iterations),
        "variables": [_numpy(x) for x in optimizer._trainable_variables],
        "square_avgs": [_numpy(x) for x in optimizer.averages["square_avg"]],
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
        is none. Where the optimizer clips, scales or gathers them, what its averages have met is measured, with the
        signs of these.
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
        For another optimizer or one that is not built, for gradients that do not fit its variables, and for a call
        that made no step, as all but one in `gradient_accumulation_steps` do.

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
    if not isinstance(before, dict) or before.keys() != now.keys() or len(before["variables"]) != len(now["variables"]):
        found = Received("another dict" if isinstance(before, dict) else f"a {type(before).__name__}")
        raise InputError("before", "what keras_before(optimizer) returned", found, "call it before the step")
    variables = optimizer._trainable_variables
    earlier = [None] * len(variables) if previous_gradients is None else previous_gradients
    for name, given in (("gradients", gradients), ("previous_gradients", earlier)):
        is_list = isinstance(given, list | tuple)
        if not is_list or len(given) != len(variables):
            allowed = f"a list, one for each of the optimizer's {len(variables)} variables"
            found = Received(f"a {type(given).__name__}{f' of {len(given)}' if is_list else ''}")
            raise InputError(name, allowed, found, "pass None where there is no gradient")
    rule: Rule = before["rule"]
    grad_avgs = optimizer.averages["grad_avg"] if rule.centered else [None] * len(variables)
    arrays = (before["variables"], now["variables"], gradients, before["square_avgs"], now["square_avgs"], grad_avgs)
    rows = zip(variables, *arrays, earlier, strict=True)
    tensors = [
        jax_keras_record.Tensor(
            variable.path, p0, p1, _numpy(g), v0, v1, _numpy(m), _numpy(old), optimizer._use_weight_decay(variable)
        )
        for variable, p0, p1, g, v0, v1, m, old in rows
        if g is not None
    ]
    for x in tensors:
        jax_keras_record.check_shape("gradients", x.name, x.gradient, x.before)
        jax_keras_record.check_shape("before", x.name, x.after, x.before)
    made, gathers = now["iterations"] - before["iterations"], optimizer.gradient_accumulation_steps
    if made != 1 and (made or gathers or not jax_keras_record.left_out(tensors)):
        found = Received(f"one with {made} of them since `before`")
        remedy = "call keras_before before and from_keras after each of the steps that is to be measured"
        if gathers and not made:
            found = Received(f"one that gathered a gradient (gradient_accumulation_steps={gathers}) or did nothing")
            remedy = f"make records of every {gathers}th call of apply only, which makes the step"
        raise InputError("optimizer", "one that has just made one step", found, remedy)
    return jax_keras_record.make(
        rule, before["iterations"] + 1, tensors, state_dtype=jax_keras_record.dtypes(now["square_avgs"])
    )


def _numpy(x: Any) -> Any:
    """Return a copy of a Keras variable or tensor on the host; None stays None."""
    if x is None:
        return None
    from keras import ops

    try:
        return np.array(ops.convert_to_numpy(ops.convert_to_tensor(x)))
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        allowed, remedy = "arrays whose values are known", "with Model.fit, pass run_eagerly=True to compile"
        raise InputError("variables and gradients", allowed, Received(f"a {type(x).__name__}"), remedy) from None


def _step_of(old: Any, new: Any, step: int | None, left_out: bool) -> int:
    """Return t of the step between two states, checked as far as they count."""
    t0, t1 = _field(old, "step", "count"), _field(new, "step", "count")
    if t0 is not None and t1 is not None and int(t1) - int(t0) != (not left_out):
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
    """Return the one part of an optimizer's state that has square averages."""
    nodes = _jax().tree_util.tree_leaves(state, is_leaf=lambda node: _has_averages(node) or _gathers(node))
    if len(gathering := [node for node in nodes if _gathers(node)]) == 1:
        gathered = int(gathering[0].mini_step)
        if name == "new_state" and gathered:
            what = Received(f"one for which optax.MultiSteps has gathered {gathered} of its gradients")
            remedy = "make records only where optimizer.has_updated(new_state)"
            raise InputError(name, "the state after a step", what, remedy)
        return _averages(name, gathering[0].inner_opt_state)
    found = [node for node in nodes if _has_averages(node)]
    if len(found) != 1:
        allowed = "the state of one rmsprop.jax.rmsprop or optax.rmsprop"
        remedy = "pass the part of one" if found else "pass what init and update of the optimizer return"
        raise InputError(name, allowed, Received(f"one with {len(found) or 'none'} of them"), remedy)
    return found[0]


def _gathers(node: Any) -> bool:
    return type(node).__name__ == "MultiStepsState"


def _has_averages(node: Any) -> bool:
    """Return whether it is rmsprop.jax's RMSpropState, or what optax scales by; Adam's state has the same fields."""
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
