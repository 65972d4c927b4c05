"""The RMSprop rule, E1 to E9, in NumPy: the definition that every other implementation must equal.

Symbols: parameter p, gradient g, square average v, gradient average m, momentum buffer b, step t = 1, 2, …;
η = lr, β = decay, ε = eps, μ = momentum, λ = weight_decay, v₀ = initial_square_avg.

    E1  g ← −g                                       if maximize
    E2  g ← g + λ·p                                  or, decoupled:  p ← p − (η·λ)·p
    E3  v ← β·v + ((1−β)·g)·g
    E4  m ← m + (1−β)·(g − m)                        if centered
    E5  s ← v, v̂ = v, m̂ = m;  bias_correction: s ← max(v − βᵗ·v₀, κ·v)/(1−βᵗ), v̂ = v/(1−βᵗ), m̂ = m/(1−βᵗ)
        s ← max(s − m̂², κ·v̂)                         if centered;  κ = 8 × unit roundoff
    E6  d ← √s + ε                                   or, eps_inside_sqrt:  d ← √(s + ε)
    E7  u ← g/d, and 0 where d = 0
    E8  b ← μ·b + u, r ← b  (nesterov: u + μ·b)      lr_in_momentum: with η·u in place of u
    E9  p ← p − η·r  (u for r without momentum)      lr_in_momentum: p ← p − r

E5's floors lie at the rounding noise of their subtractions. They change no meaningful result, keep the variance
from becoming negative and bound the step. Other libraries have no such floor and return NaN there. The floors are
relative to v, not to v − βᵗ·v₀: the difference may be small, but it carries the rounding noise of v.
Scalars such as 1−β are computed in double and rounded once. The order of operations is fixed.
Sources: Hinton, Neural Networks for Machine Learning, lecture 6e (2012); Graves, arXiv:1308.0850 (2013), eq. 38-45.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received
from rmsprop.hyperparameters import HYPERPARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["AVERAGES", "SQUARES", "Rule", "State", "denominator", "init", "update", "variance"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Rule:
    """One variant of RMSprop and its hyperparameters; the defaults are PyTorch's. `rmsprop.rule` lists E1 to E9.

    Parameters
    ----------
    lr
        Learning rate η.
    decay
        Decay β of the running averages (PyTorch: alpha, Keras: rho).
    eps
        ε, added to the denominator.
    momentum
        Momentum μ of the heavy-ball buffer; 0 means no buffer.
    weight_decay
        Weight decay λ.
    centered
        Divide by the standard deviation of the gradient instead of its root mean square.
    nesterov
        Nesterov momentum; needs momentum > 0.
    eps_inside_sqrt
        √(v + ε) (TensorFlow, Keras, optax) instead of √v + ε (PyTorch).
    initial_square_avg
        Start v₀ of the square average: 0 (PyTorch, Keras) or 1 (TensorFlow 1).
    lr_in_momentum
        The buffer sums η·u (TensorFlow, Keras, optax) instead of u (PyTorch); the same while η is constant.
    bias_correction
        Divide the averages by 1 − βᵗ, as Adam does. With centered, the first variance is zero: warm lr up.
    decoupled_weight_decay
        Shrink p by η·λ before the step instead of adding λ·p to the gradient.
    maximize
        Ascend instead of descend.

    Examples
    --------
    >>> rule = Rule(lr=0.01, decay=0.9)
    >>> param, state = np.array([1.0, 1.0]), init(rule, np.array([1.0, 1.0]))
    >>> param, state = update(rule, param, np.array([10.0, 0.01]), state)
    >>> param
    array([0.96837722, 0.96837732])
    """

    lr: float = 1e-2
    decay: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0
    centered: bool = False
    nesterov: bool = False
    eps_inside_sqrt: bool = False
    initial_square_avg: float = 0.0
    lr_in_momentum: bool = False
    bias_correction: bool = False
    decoupled_weight_decay: bool = False
    maximize: bool = False

    explain: ClassVar[Callable[[Rule], str]]  # set by rmsprop.explain

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = HYPERPARAMETERS[field.name].checked(getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.nesterov and self.momentum == 0:
            raise InputError("momentum", "> 0 with nesterov=True", self.momentum, "set momentum, for example 0.9")


@dataclass(frozen=True)
class State:
    """State of the rule for one parameter array. All arrays have the shape and dtype of the parameter."""

    step: int  # t, number of executed updates
    square_avg: Array  # v
    grad_avg: Array | None = None  # m, only when centered
    momentum_buffer: Array | None = None  # b, only with momentum


AVERAGES = tuple(field.name for field in dataclasses.fields(State) if field.name != "step")
SQUARES = ("square_avg",)  # the averages that are never negative


def init(rule: Rule, param: Array) -> State:
    """Return the state before the first update of `param` (any shape, float32 or float64)."""
    param = np.asarray(param)
    if param.dtype not in (np.float32, np.float64):
        raise InputError(
            "param.dtype", "float32 or float64, in native byte order", str(param.dtype), "use param.astype(np.float32)"
        )
    return State(
        step=0,
        square_avg=np.full_like(param, rule.initial_square_avg),
        grad_avg=np.zeros_like(param) if rule.centered else None,
        momentum_buffer=np.zeros_like(param) if rule.momentum else None,
    )


def variance(
    rule: Rule,
    averages: Mapping[str, Any],
    power: Any,
    weight: Any,
    kappa: float,
    maximum: Callable[[Any, Any], Any] = np.maximum,
) -> tuple[Any, Any]:
    """Return s and m̂ of E5, for arrays of any library. m̂ is None unless the rule is centered.

    `averages` has the averages after the step by their names in `State`. `maximum` is the elementwise maximum of that
    library. `power` is βᵗ and `weight` is 1 − βᵗ; both are read only with bias correction.
    """
    v, m = averages["square_avg"], averages.get("grad_avg") if rule.centered else None
    if rule.centered and m is None:
        raise InputError("grad_avg", "the gradient average with centered=True", None, "pass the average after the step")
    s = v
    if rule.bias_correction:
        s = maximum(v - power * rule.initial_square_avg, kappa * v) / weight
        v = v / weight
        m = None if m is None else m / weight
    if m is not None:
        s = maximum(s - m * m, kappa * v)
    return s, m


def denominator(rule: Rule, state: State) -> Array:
    """Return the denominator d of E5 and E6 for the state after a step; η/d is the effective learning rate."""
    kappa = 4 * float(np.finfo(state.square_avg.dtype).eps)  # 8 × unit roundoff
    power = rule.decay**state.step
    s, _ = variance(rule, vars(state), power, 1 - power, kappa)  # E5
    return np.asarray(np.sqrt(s + rule.eps) if rule.eps_inside_sqrt else np.sqrt(s) + rule.eps)  # E6


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def update(rule: Rule, param: Array, grad: Array, state: State) -> tuple[Array, State]:
    """Return the parameter after one step and the new state. The inputs do not change.

    `param` and `grad` have the same shape and dtype: float32 or float64. After a gradient whose square is not finite
    (above 1.8e19 in float32), v stays non-finite. An m or b that `rule` needs and `state` lacks starts at zero.
    """
    p, g = np.asarray(param), np.asarray(grad)
    v, m, b = state.square_avg, state.grad_avg, state.momentum_buffer
    for name, array in (("grad", g), ("state.square_avg", v)):
        if (array.shape, array.dtype) != (p.shape, p.dtype):
            needed, found = f"of param's {p.shape} {p.dtype}", Received(f"{array.shape} {array.dtype}")
            raise InputError(name, needed, found, "convert it, or start with init(rule, param)")
    t, eta, beta, mu, lam = state.step + 1, rule.lr, rule.decay, rule.momentum, rule.weight_decay
    if rule.maximize:
        g = -g  # E1
    if lam and rule.decoupled_weight_decay:
        p = p - (eta * lam) * p  # E2
    elif lam:
        g = g + lam * p
    v = beta * v + ((1 - beta) * g) * g  # E3
    if rule.centered:
        m = np.zeros_like(p) if m is None else m
        m = np.asarray(m + (1 - beta) * (g - m))  # E4
    d = denominator(rule, State(t, v, m))  # E5, E6
    u = np.divide(g, d, out=np.zeros_like(g), where=d != 0)  # E7
    if rule.lr_in_momentum:
        u = eta * u
    r = u
    if mu:
        b = np.zeros_like(p) if b is None else b
        b = np.asarray(mu * b + u)  # E8
        r = u + mu * b if rule.nesterov else b
    p = p - r if rule.lr_in_momentum else p - eta * r  # E9
    return np.asarray(p), State(t, np.asarray(v), m, b)
