"""The RMSprop rule, E1 to E9, in NumPy: the definition that every other implementation must equal.

Symbols: parameter p, gradient g, square average v and its maximum w, gradient average m, momentum buffer b, step
t = 1, 2, …; η = lr, β = decay, ε = eps, μ = momentum, λ = weight_decay, v₀ = initial_square_avg, ψ = momentum_decay.

    E1  g ← −g                                       if maximize
    E2  g ← g + λ·p                                  or, decoupled:  p ← p − (η·λ)·p
    E3  v ← β·v + ((1−β)·g)·g                        amsgrad:  w ← max(w, v), and w in place of v in E5
    E4  m ← m + (1−β)·(g − m)                        if centered
    E5  s ← v, v̂ = v, m̂ = m;  bias_correction: s ← max(v − βᵗ·v₀, κ·v)/(1−βᵗ), v̂ = v/(1−βᵗ), m̂ = m/(1−βᵗ)
        s ← max(s − m̂², κ·v̂)                         if centered;  κ = 8 × unit roundoff
    E6  d ← √s + ε                                   or, eps_inside_sqrt:  d ← √(s + ε)
    E7  u ← g/d, and 0 where d = 0                   first_moment:  b ← b + (1−μ)·(g − b) and u ← n/d,
            n ← a·b  (nesterov: a·b + c·g);          a = 1 (nesterov: μ), c = 1−μ
            bias_correction: a = 1/(1−μᵗ)            (nesterov: a = μₜ₊₁/(1 − μ₁⋯μₜ₊₁), c = (1−μₜ)/(1 − μ₁⋯μₜ),
                                                      μᵢ = μ, or with momentum_decay μ·(1 − ½·0.96^(ψ·i)))
    E8  b ← μ·b + u, r ← b  (nesterov: u + μ·b)      lr_in_momentum: with η·u in place of u
    E9  p ← p − η·r  (u for r without momentum       lr_in_momentum: p ← p − r
                      or with first_moment)

E5's floors lie at the rounding noise of their subtractions. They change no meaningful result, keep the variance
from becoming negative and bound the step. Other libraries have no such floor and return NaN there. The floors are
relative to v, not to v − βᵗ·v₀: the difference may be small, but it carries the rounding noise of v.
Scalars such as 1−β are computed in double and rounded once. The order of operations is fixed.
Sources: Hinton, Neural Networks for Machine Learning, lecture 6e (2012); Graves, arXiv:1308.0850 (2013), eq. 38-45.
first_moment with bias_correction is Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1); nesterov makes it NAdam (Dozat,
ICLR workshop 2016). amsgrad: Reddi, Kale and Kumar, ICLR 2018, algorithm 2.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received
from rmsprop.hyperparameters import HYPERPARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["AVERAGES", "SQUARES", "Rule", "State", "denominator", "init", "moment_weights", "update", "variance"]

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
        Momentum μ of the heavy-ball buffer, or with first_moment of the average of gradients; 0 means none.
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
    first_moment
        Momentum averages the gradient before the division, as in Adam, instead of summing the updates after it.
    momentum_decay
        Decay ψ of NAdam's momentum schedule (PyTorch: 4e-3, Keras: 1); 0 keeps μ constant. Needs first_moment, nesterov
        and bias_correction.
    amsgrad
        Divide by the maximum that the square average has reached.

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
    first_moment: bool = False
    momentum_decay: float = 0.0
    amsgrad: bool = False

    explain: ClassVar[Callable[[Rule], str]]  # set by rmsprop.explain

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = HYPERPARAMETERS[field.name].checked(getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.nesterov and self.momentum == 0:
            raise InputError("momentum", "> 0 with nesterov=True", self.momentum, "set momentum, for example 0.9")
        if self.first_moment and self.lr_in_momentum:
            remedy = "omit it: the average of gradients holds no learning rate"
            raise InputError("lr_in_momentum", "False with first_moment=True", True, remedy)
        if self.momentum_decay and not (self.first_moment and self.nesterov and self.bias_correction):
            allowed = "0 unless first_moment, nesterov and bias_correction are True"
            raise InputError("momentum_decay", allowed, self.momentum_decay, "omit it: only NAdam has this schedule")
        if 0 < self.momentum_decay < 1e-300:  # a product with ln 0.96 would be 0, and divide 0 by 0
            raise InputError("momentum_decay", "0, or 1e-300 or more", self.momentum_decay, "0 keeps momentum constant")
        if self.amsgrad and self.bias_correction and self.initial_square_avg:
            allowed = "0 with amsgrad=True and bias_correction=True"
            remedy = "start at 0: the maximum may hold v₀ of an earlier step"
            raise InputError("initial_square_avg", allowed, self.initial_square_avg, remedy)

    def torch_kwargs(self) -> dict[str, Any]:
        """Return the arguments of `rmsprop.torch.RMSprop` for this rule that differ from its defaults, without lr.

        Frameworks that take a class and keywords call ``optimizer_class(params, lr=lr, **kwargs)``.

        Examples
        --------
        >>> Rule(lr=0.001, decay=0.9, momentum=0.9).torch_kwargs()
        {'alpha': 0.9, 'momentum': 0.9}
        """
        fields = ((field, getattr(self, field.name)) for field in dataclasses.fields(self) if field.name != "lr")
        return {HYPERPARAMETERS[f.name].name_in("torch"): value for f, value in fields if value != f.default}


@dataclass(frozen=True)
class State:
    """State of the rule for one parameter array. All arrays have the shape and dtype of the parameter."""

    step: int  # t, number of executed updates
    square_avg: Array  # v
    grad_avg: Array | None = None  # m, only when centered
    momentum_buffer: Array | None = None  # b, only with momentum
    max_square_avg: Array | None = None  # w, only with amsgrad


AVERAGES = tuple(field.name for field in dataclasses.fields(State) if field.name != "step")
SQUARES = ("square_avg", "max_square_avg")  # the averages that are never negative


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
        max_square_avg=np.zeros_like(param) if rule.amsgrad else None,
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
    divisor = "max_square_avg" if rule.amsgrad else "square_avg"
    for name in (divisor, "grad_avg") if rule.centered else (divisor,):
        if averages.get(name) is None:
            raise InputError(name, "an array, which this rule needs", None, "pass the average after the step")
    v, m = averages[divisor], averages["grad_avg"] if rule.centered else None
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


def moment_weights(rule: Rule, t: Any, xp: Any = math) -> tuple[Any, Any]:
    """Return a and c of E7 at step t, for numbers of any library: `xp` has its exp, expm1 and log.

    NAdam's product μ₁⋯μₜ = μᵗ·Π(1 − ½·qⁱ), with q = 0.96^ψ, is computed without the earlier steps:
    ln Π(1 − ½·qⁱ) = −Σₖ 2⁻ᵏ/k · qᵏ·(1 − qᵏᵗ)/(1 − qᵏ), of which 60 terms exhaust a double.
    """
    mu, psi = rule.momentum, rule.momentum_decay
    if not rule.bias_correction or (isinstance(mu, float) and mu == 0):
        return (mu, 1 - mu) if rule.nesterov else (1.0, 0.0)
    log_mu = math.log(mu) if isinstance(mu, float) else xp.log(mu)
    log_product = t * log_mu
    if not rule.nesterov:
        return -1 / xp.expm1(log_product), 0.0
    mu_now, mu_next, log_next = mu, mu, (t + 1) * log_mu
    if psi:
        log_q = psi * math.log(0.96)
        mu_now, mu_next = (mu * (1 - 0.5 * xp.exp(i * log_q)) for i in (t, t + 1))
        for k in range(1, 61):
            log_qk, weight = k * log_q, 0.5**k / k
            if weight * math.exp(log_qk) < 1e-40:  # the remaining terms change no bit: |ln μ| is 1e-16 or more
                break
            log_product = log_product - weight * math.exp(log_qk) * xp.expm1(log_qk * t) / math.expm1(log_qk)
        log_next = log_product + xp.log(mu_next)
    return -mu_next / xp.expm1(log_next), (mu_now - 1) / xp.expm1(log_product)


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def update(rule: Rule, param: Array, grad: Array, state: State) -> tuple[Array, State]:
    """Return the parameter after one step and the new state. The inputs do not change.

    `param` and `grad` have the same shape and dtype: float32 or float64. After a gradient whose square is not finite
    (above 1.8e19 in float32), v stays non-finite. An average that `rule` needs and `state` lacks starts at zero.
    """
    p, g = np.asarray(param), np.asarray(grad)
    v, m, b, w = state.square_avg, state.grad_avg, state.momentum_buffer, state.max_square_avg
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
    v = np.asarray(beta * v + ((1 - beta) * g) * g)  # E3
    if rule.amsgrad:
        w = np.asarray(np.maximum(np.zeros_like(p) if w is None else w, v))
    if rule.centered:
        m = np.zeros_like(p) if m is None else m
        m = np.asarray(m + (1 - beta) * (g - m))  # E4
    d = denominator(rule, State(t, v, m, max_square_avg=w))  # E5, E6
    n = g
    if mu and rule.first_moment:
        b = np.zeros_like(p) if b is None else b
        b = np.asarray(b + (1 - mu) * (g - b))  # E7
        a, c = moment_weights(rule, t)
        n = np.asarray(a * b + c * g if rule.nesterov else a * b)
    u = np.divide(n, d, out=np.zeros_like(g), where=d != 0)
    if rule.lr_in_momentum:
        u = eta * u
    r = u
    if mu and not rule.first_moment:
        b = np.zeros_like(p) if b is None else b
        b = np.asarray(mu * b + u)  # E8
        r = u + mu * b if rule.nesterov else b
    p = p - r if rule.lr_in_momentum else p - eta * r  # E9
    return np.asarray(p), State(t, v, m, b, w)
