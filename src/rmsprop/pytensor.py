"""RMSprop for PyTensor: `updates`, a dictionary of updates for `pytensor.function`, or an optimizer for PyMC."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias, cast, overload

import numpy as np

from rmsprop.errors import InputError, Received
from rmsprop.hyperparameters import EVERYWHERE, HYPERPARAMETERS, check_fields
from rmsprop.rule import Rule, moment_weights

try:
    import pytensor
except ModuleNotFoundError as error:
    if error.name != "pytensor":
        raise
    message = "rmsprop.pytensor needs PyTensor: pip install 'rmsprop[pytensor]'"
    raise ModuleNotFoundError(message, name="pytensor") from None

from pytensor import tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.scalar.basic import autocast_float_as
from pytensor.tensor.type import DenseTensorType

__all__ = ["updates"]

Symbol: TypeAlias = Any  # a symbolic tensor
Updates: TypeAlias = "OrderedDict[SharedVariable[Any, Any], Symbol]"

FIELDS = EVERYWHERE  # the fields of Rule that this module implements
DEFAULT = Rule()
COMPUTE = {"float16": "float32", "float32": "float32", "float64": "float64"}


@overload
def updates(
    loss_or_grads: None = None, params: None = None, rule: Rule = ..., learning_rate: float | Symbol | None = None
) -> Callable[..., Updates]: ...
@overload
def updates(
    loss_or_grads: Symbol, params: Iterable[Symbol], rule: Rule = ..., learning_rate: float | Symbol | None = None
) -> Updates: ...
def updates(
    loss_or_grads: Any = None,
    params: Iterable[Any] | None = None,
    rule: Rule = DEFAULT,
    learning_rate: float | Symbol | None = None,
) -> Updates | Callable[..., Updates]:
    """Return the updates of one step of `rule`: the next value of each parameter and average.

    `rmsprop.rule` has the equations of all variants; `rule.explain()` has the active ones.

    Parameters
    ----------
    loss_or_grads
        A scalar loss, whose gradients are taken, or a list or tuple of gradients, one for each parameter.
    params
        Dense shared variables to be trained: float16, float32 or float64, of any shape.
    rule
        The rule of the step; `rmsprop.profile("lasagne", lr=0.01)` is PyMC's and Lasagne's RMSprop.
    learning_rate
        Replaces `rule.lr`: a number, or a symbolic scalar, such as a shared variable that a training loop changes.

    Returns
    -------
    OrderedDict
        For `pytensor.function(..., updates=...)`. The keys are the parameters and new shared variables. A parameter
        named `w` (or `param0`, by its index) has `w_square_avg`, with centered `w_grad_avg` and with momentum
        `w_momentum_buffer`, with amsgrad `w_max_square_avg`. They have the parameter's shape and dtype, but float32
        for float16. Bias correction adds one `step` (int64), the number of executed steps.

        Without `loss_or_grads` and `params`, a function of these two that returns the updates. PyMC takes optimizers
        in this form: `pm.fit(obj_optimizer=updates(rule=rule))`.

    Raises
    ------
    InputError
        A ValueError, for `loss_or_grads` without `params` or the reverse. For parameters that are not dense shared
        variables of these dtypes, or occur twice. For gradients that differ from the parameters in number or shape. For
        a learning rate that is neither a number >= 0 nor a scalar. A shape that PyTensor does not know in advance is
        checked at each step; PyTensor's AssertionError names both shapes.

    Notes
    -----
    Each call creates new state: call it once per training.

    Differences from `pymc.rmsprop`: every field of `Rule`. `centered` never takes the root of a negative number. ε = 0
    gives no NaN. The compute dtype of float16 parameters is float32. Parameters keep their dtype, whatever dtype the
    learning rate and PyTensor's `floatX` have. The default learning rate is the rule's, 0.01 and not 1.

    `first_moment` with `bias_correction` is Adam. `pymc.adam` adds ε to √v, this module to √v̂, as PyTorch does: with
    ε = 0 both are the same.

    Sources: Hinton, Neural Networks for Machine Learning, lecture 6e (2012); pymc-devs/pymc:
    pymc/variational/updates.py (5.28).

    Examples
    --------
    >>> import numpy as np
    >>> import pytensor
    >>> from rmsprop import Rule
    >>> from rmsprop.pytensor import updates
    >>> weight = pytensor.shared(np.array([1.0, 1.0]), name="weight")
    >>> loss = (weight * np.array([10.0, 0.01])).sum()
    >>> update = updates(loss, [weight], Rule(lr=0.01, decay=0.9))
    >>> step = pytensor.function([], loss, updates=update, mode="FAST_COMPILE")
    >>> step()
    array(10.01)
    >>> weight.get_value()
    array([0.96837722, 0.96837732])
    """
    if not isinstance(rule, Rule):
        raise InputError("rule", "a rmsprop.Rule", rule, 'say Rule(lr=0.01) or profile("lasagne", lr=0.01)')
    check_fields(rule, FIELDS, "rmsprop.pytensor")
    rate = _rate(rule, learning_rate)
    if loss_or_grads is None and params is None:
        return cast("Callable[..., Updates]", partial(updates, rule=rule, learning_rate=learning_rate))
    if loss_or_grads is None or params is None:
        missing, other = ("params", "loss_or_grads") if params is None else ("loss_or_grads", "params")
        raise InputError(missing, f"given with {other}", Received("none"), "omit both for a partial function")
    params = list(params)
    _check_params(params)
    grads = _gradients(loss_or_grads, params)

    result: Updates = OrderedDict()
    step: Symbol = None
    if rule.bias_correction:
        counter = pytensor.shared(np.int64(0), name="step")
        step = result[counter] = counter + 1
    weights = (1.0, 0.0)
    if rule.first_moment:
        with autocast_float_as("float64"):  # whatever floatX is: near μ = 1, 1 − μᵗ cancels digits
            weights = moment_weights(rule, None if step is None else pt.cast(step, "float64"), pt)
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        name = param.name or f"param{i}"
        _add_step(result, rule, rate, name, param, grad, step, weights)
    return result


def _rate(rule: Rule, learning_rate: float | Symbol | None) -> float | Symbol:
    if learning_rate is None:
        return rule.lr
    if not isinstance(learning_rate, Variable):
        return HYPERPARAMETERS["lr"].checked(learning_rate, "learning_rate")
    if getattr(learning_rate.type, "ndim", None) != 0:
        found = Received(f"one of type {learning_rate.type}")
        raise InputError("learning_rate", "a number or a symbolic scalar", found, "say pytensor.shared(0.01)")
    return learning_rate


def _check_params(params: list[Symbol]) -> None:
    for i, param in enumerate(params):
        # PyTensor's sparse types are tensor types as well.
        dense = isinstance(param, SharedVariable) and isinstance(param.type, DenseTensorType)
        if not dense or param.type.dtype not in COMPUTE:
            found = Received(f"one of type {getattr(param, 'type', type(param).__name__)}")
            allowed = f"a dense shared variable of dtype {' or '.join(COMPUTE)}"
            raise InputError(f"params[{i}]", allowed, found, "make it with pytensor.shared(array)")
        if any(param is other for other in params[:i]):
            raise InputError(f"params[{i}]", "a parameter that occurs once", param, "remove the duplicate")


def _gradients(loss_or_grads: Any, params: list[Symbol]) -> list[Symbol]:
    if isinstance(loss_or_grads, list | tuple):
        if len(loss_or_grads) != len(params):
            found = Received(str(len(loss_or_grads)))
            raise InputError("loss_or_grads", f"{len(params)} gradients, one for each parameter", found, "add the rest")
        grads = []
        for i, (grad, param) in enumerate(zip(map(pt.as_tensor, loss_or_grads), params, strict=True)):
            shape, known = param.get_value(borrow=True).shape, grad.type.shape  # None: known at run time only
            if len(known) != len(shape) or any(n not in (None, size) for n, size in zip(known, shape, strict=True)):
                found = Received(str(known))
                raise InputError(f"the shape of loss_or_grads[{i}]", f"{shape}", found, "reshape the gradient")
            grads.append(pt.specify_shape(grad, shape))
        return grads
    if getattr(getattr(loss_or_grads, "type", None), "ndim", None) != 0:
        found = Received(f"one of type {getattr(loss_or_grads, 'type', type(loss_or_grads).__name__)}")
        raise InputError("loss_or_grads", "a symbolic scalar or a list of gradients", found, "say loss.mean()")
    return list(pytensor.grad(loss_or_grads, params))


def _add_step(
    result: Updates,
    rule: Rule,
    rate: float | Symbol,
    name: str,
    param: Symbol,
    grad: Symbol,
    step: Symbol | None,
    weights: tuple[Any, Any],
) -> None:
    """Add to `result` the next values of a parameter and its averages, by E1 to E9 of `rmsprop.rule`.

    `weights` are a and c of E7.
    """
    dtype = COMPUTE[param.type.dtype]
    number = partial(_number, dtype)

    def shared_average(of: str, start: float = 0.0) -> Any:
        value = np.full(param.get_value(borrow=True).shape, start, dtype)
        return pytensor.shared(value, name=f"{name}_{of}", shape=param.type.shape)

    lr, beta, one_minus_beta, mu = number(rate), number(rule.decay), number(1 - rule.decay), number(rule.momentum)
    p, g = pt.cast(param, dtype), pt.cast(grad, dtype)
    m = None
    if rule.maximize:
        g = -g  # E1
    if rule.weight_decay and rule.decoupled_weight_decay:
        p = p - number(rate * rule.weight_decay) * p  # E2
    elif rule.weight_decay:
        g = g + number(rule.weight_decay) * p
    square_avg = shared_average("square_avg", rule.initial_square_avg)
    v = result[square_avg] = beta * square_avg + (one_minus_beta * g) * g  # E3
    w = None
    if rule.amsgrad:
        max_square_avg = shared_average("max_square_avg")
        w = result[max_square_avg] = pt.maximum(max_square_avg, v)
    if rule.centered:
        grad_avg = shared_average("grad_avg")
        m = result[grad_avg] = grad_avg + one_minus_beta * (g - grad_avg)  # E4
    n = g
    if rule.momentum and rule.first_moment:
        first_moment = shared_average("momentum_buffer")
        b = result[first_moment] = first_moment + number(1 - rule.momentum) * (g - first_moment)  # E7
        a, c = map(number, weights)
        n = a * b + c * g if rule.nesterov else a * b
    u = n / _denominator(rule, v if w is None else w, m, step)  # E5 to E7
    if rule.lr_in_momentum:
        u = lr * u
    r = u
    if rule.momentum and not rule.first_moment:
        momentum_buffer = shared_average("momentum_buffer")
        b = result[momentum_buffer] = mu * momentum_buffer + u  # E8
        r = u + mu * b if rule.nesterov else b
    p = p - r if rule.lr_in_momentum else p - lr * r  # E9
    result[param] = pt.cast(p, param.type.dtype)


def _denominator(rule: Rule, v: Symbol, m: Symbol | None, step: Symbol | None) -> Symbol:
    """Return d of E5 and E6, with ∞ for 0 so that n/d is 0 there (E7); `step` with bias correction only.

    `v` is the maximum w with amsgrad.
    `rmsprop.rule.variance` cannot compute E5 here: each scalar must be cast to the dtype of `v`.
    """
    number, info = partial(_number, v.dtype), np.finfo(v.dtype)
    kappa = number(4 * float(info.eps))  # 8 × unit roundoff
    s = v
    if step is not None:
        power = pt.constant(rule.decay, dtype="float64") ** step  # double: near β = 1, 1 − βᵗ cancels digits
        weight = number(1 - power)
        s = pt.maximum(v - number(power * rule.initial_square_avg), kappa * v) / weight
        v = v / weight
        m = None if m is None else m / weight
    if m is not None:
        s = pt.maximum(s - m * m, kappa * v)
    eps = number(rule.eps)
    d = pt.sqrt(s + eps) if rule.eps_inside_sqrt else pt.sqrt(s) + eps
    return d if rule.eps >= info.tiny else pt.switch(pt.eq(d, 0), number(math.inf), d)


def _number(dtype: str, value: float | Symbol) -> Symbol:
    """Return a scalar in `dtype`: a float64 scalar times a float32 tensor would be float64."""
    return pt.cast(value, dtype) if isinstance(value, Variable) else pt.constant(value, dtype=dtype)
