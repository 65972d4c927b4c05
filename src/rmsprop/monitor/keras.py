"""Records of steps in Keras, computed in NumPy from the state of the optimizer.

They have the form of `rmsprop.monitor.Monitor`'s records. Each record copies its arrays to the host, so make one every
100 steps or so. Pass records to `rmsprop.monitor.find` or a sink.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received
from rmsprop.monitor import jax_keras_record
from rmsprop.monitor.record import Record
from rmsprop.rule import Rule

Array = npt.NDArray[Any]


def keras_before(optimizer: Any) -> dict[str, Any]:
    """Return what `from_keras` needs from before the step of a `rmsprop.keras.RMSprop`: its rule, and copied arrays."""
    if type(optimizer).__module__.partition(".")[0] == "keras" or not hasattr(optimizer, "averages"):
        ours = type(optimizer).__module__ == "rmsprop.keras"
        found = Received("one that is not built" if ours else f"a {type(optimizer).__name__} of another library")
        raise InputError("optimizer", "a rmsprop.keras.RMSprop", found, "make that, and call build(variables)")
    return {
        "rule": optimizer.rule(),  # with the rate of the next step
        "iterations": int(optimizer.iterations),
        "variables": [_numpy(x) for x in optimizer._trainable_variables],
        "square_avgs": [_numpy(x) for x in optimizer.averages["square_avg"]],
        "accumulated": [_numpy(x) for x in getattr(optimizer, "_accumulated_gradients", None) or ()],
    }


def from_keras(
    optimizer: Any,
    gradients: Sequence[Any],
    before: dict[str, Any],
    *,
    previous_gradients: Sequence[Any] | None = None,
) -> Record:
    """Return the record of the step that a `rmsprop.keras.RMSprop` has just executed in your own training loop.

    Parameters
    ----------
    optimizer
        The optimizer, after `optimizer.apply(gradients, variables)`.
    gradients
        The gradients as passed to `apply`: one for each variable that the optimizer was built with, None where there
        is none. They are scaled, accumulated and clipped here as the optimizer does before its step.
    before
        What `keras_before(optimizer)` returned before the step.
    previous_gradients
        The gradients of the step before. Without them, `gradient_cosine` and `sign_flips` are None.

    Returns
    -------
    dict
        A record as of `rmsprop.monitor.Monitor`. Tensors are named by the variables' paths.

    Raises
    ------
    InputError
        If the optimizer is of another class or not built; if gradients do not match its variables; if the call
        executed no step. Of `gradient_accumulation_steps` calls, only one does.

    Notes
    -----
    `Model.fit` compiles its steps and does not pass gradients to callbacks. To use it, override `train_step` and pass
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
    averages = [optimizer.averages.get(name, [None] * len(variables)) for name in ("grad_avg", "max_square_avg")]
    arrays = (before["variables"], now["variables"], gradients, before["square_avgs"], now["square_avgs"], *averages)
    rows = zip(variables, *arrays, earlier, strict=True)
    tensors = [
        jax_keras_record.Tensor(
            variable.path, p0, p1, _numpy(g), v0, v1, _numpy(m), _numpy(old), optimizer._use_weight_decay(variable),
            max_square_avg=_numpy(w),
        )
        for variable, p0, p1, g, v0, v1, m, w, old in rows
        if g is not None
    ]  # fmt: skip
    for x in tensors:
        jax_keras_record.check_shape("gradients", x.name, x.gradient, x.before)
        jax_keras_record.check_shape("before", x.name, x.after, x.before)
    executed, accumulates = now["iterations"] - before["iterations"], optimizer.gradient_accumulation_steps
    was_skipped = jax_keras_record.skipped(tensors)
    if executed != 1 and (executed or accumulates or not was_skipped):
        found = Received(f"one with {executed} steps since `before`")
        remedy = "call keras_before before and from_keras after each measured step"
        if accumulates and not executed:
            steps = f"gradient_accumulation_steps={accumulates}"
            found = Received(f"one that accumulated a gradient ({steps}) or did nothing")
            remedy = f"make records of every {accumulates}th call of apply only, which executes the step"
        raise InputError("optimizer", "one that has just executed one step", found, remedy)
    if not was_skipped:
        given = [g for g in gradients if g is not None]
        sums = [x for x, g in zip(before["accumulated"], gradients, strict=False) if g is not None]
        reached = _reached(optimizer, given, sums)
        tensors = [x._replace(processed_gradient=_numpy(g)) for x, g in zip(tensors, reached, strict=True)]
        for x in tensors:
            remedy = "pass those given to apply, and what keras_before(optimizer) returned just before"
            jax_keras_record.check_reached(rule, x, "gradients", remedy)
    state_dtype = jax_keras_record.dtypes(now["square_avgs"])
    return jax_keras_record.make(rule, before["iterations"] + 1, tensors, state_dtype=state_dtype)


def _reached(optimizer: Any, gradients: Sequence[Any], accumulated: Sequence[Array]) -> list[Any]:
    """Return gradients as they reach the optimizer's step: unscaled, averaged over accumulated calls, clipped."""
    from keras import ops

    reached = [ops.convert_to_tensor(g) for g in gradients]
    if (scale := optimizer.loss_scale_factor) is not None:
        reached = [g / scale for g in reached]
    if steps := optimizer.gradient_accumulation_steps:
        reached = [(g + sums) / steps for g, sums in zip(reached, accumulated, strict=True)]
    return list(optimizer._clip_gradients(reached))


def _numpy(x: Any) -> Any:
    if x is None:
        return None
    from keras import ops

    try:
        return np.array(ops.convert_to_numpy(ops.convert_to_tensor(x)))
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        allowed, remedy = "arrays whose values are known", "with Model.fit, pass run_eagerly=True to compile"
        raise InputError("variables and gradients", allowed, Received(f"a {type(x).__name__}"), remedy) from None
