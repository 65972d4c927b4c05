"""E1 to E9 of `rmsprop.rule` in tensor operations: any device, differentiable, capturable.

The step is written once, for a `Tensor` or for a `TensorList`: many tensors whose methods are one `torch._foreach_*`
call each. Results agree with `rmsprop.rule` to a few units in the last place; state is updated in place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rmsprop.rule import Rule

Number: TypeAlias = "float | Tensor"  # a Tensor has one element and is never read back by the host


class TensorList(list[Tensor]):
    """Tensors of one device and dtype that are operated on together, with the methods of `Tensor` used below."""

    def neg(self) -> TensorList:
        return TensorList(torch._foreach_neg(self))

    def add(self, other: Any, alpha: float = 1) -> TensorList:
        return TensorList(torch._foreach_add(self, other, **({} if alpha == 1 else {"alpha": alpha})))

    def addcmul(self, a: Self, b: Self, value: float) -> TensorList:
        return TensorList(torch._foreach_addcmul(self, a, b, value=value))

    def mul(self, other: Any) -> TensorList:
        return TensorList(torch._foreach_mul(self, other))

    def div(self, other: Any) -> TensorList:
        return TensorList(torch._foreach_div(self, other))

    def sqrt(self) -> TensorList:
        return TensorList(torch._foreach_sqrt(self))

    def maximum(self, other: Any) -> TensorList:
        return TensorList(torch._foreach_maximum(self, other))

    def add_(self, other: Any, alpha: float = 1) -> Self:
        torch._foreach_add_(self, other, **({} if alpha == 1 else {"alpha": alpha}))
        return self

    def mul_(self, other: Any) -> Self:
        torch._foreach_mul_(self, other)
        return self

    def lerp_(self, other: Self, weight: float) -> Self:
        torch._foreach_lerp_(self, other, weight)
        return self

    def addcmul_(self, a: Self, b: Self, value: float) -> Self:
        torch._foreach_addcmul_(self, a, b, value=value)
        return self

    def addcdiv_(self, a: Self, b: Self, value: float) -> Self:
        torch._foreach_addcdiv_(self, a, b, value=value)
        return self

    def masked_fill_zeros(self, value: float) -> TensorList:
        return TensorList(x.masked_fill(x == 0, value) for x in self)


Operand: TypeAlias = Any  # Tensor or TensorList; the functions below use only methods that both have


def bias_power(rule: Rule, steps: list[Tensor], *, capturable: bool) -> list[Number]:
    """Return βᵗ for each step counter, in double; without `capturable` as Python numbers."""
    if not capturable:
        return [rule.decay ** step.item() for step in steps]
    return [rule.decay ** (step if step.device.type == "mps" else step.double()) for step in steps]


def denominator(rule: Rule, v: Operand, m: Operand, power: Any, dtype: torch.dtype) -> Operand:
    """Return d of E5 and E6, with ∞ for 0 so that g/d is 0 there (E7).

    `power` is βᵗ (a list of them for a TensorList) and is used for bias correction only; `m` when centered only.
    """
    info = torch.finfo(dtype)
    kappa = 4 * info.eps  # 8 × unit roundoff
    s = v
    if rule.bias_correction:
        many = isinstance(v, TensorList)
        start = [x * -rule.initial_square_avg for x in power] if many else power * -rule.initial_square_avg
        fresh = [1 - x for x in power] if many else 1 - power
        s = v.add(start).maximum(v.mul(kappa)) if rule.initial_square_avg else v
        s = s.div(fresh)
        m = m.div(fresh) if rule.centered and m is not None else None
    if rule.centered and m is not None:
        m = _kept(m)
        s = s.addcmul(m, m, value=-1).maximum(s.mul(kappa))
    if rule.eps_inside_sqrt:
        d = s.add(rule.eps).sqrt()
    else:
        d = s.sqrt()
        d = d.add(rule.eps) if torch.is_grad_enabled() else d.add_(rule.eps)  # autograd keeps the root
    if rule.eps >= info.tiny:
        return d
    if isinstance(d, TensorList):
        return d.masked_fill_zeros(math.inf)
    return d.masked_fill(d == 0, math.inf)


def step(
    rule: Rule, lr: Number, p: Operand, g: Operand, v: Operand, m: Operand, b: Operand, power: Any, dtype: torch.dtype
) -> None:
    """Make one step of `rule` at rate `lr` (in place of rule.lr): update p, v, m and b, all of `dtype`, in place."""
    mu, beta, lam = rule.momentum, rule.decay, rule.weight_decay
    if rule.maximize:
        g = g.neg()  # E1
    if lam and rule.decoupled_weight_decay:
        p.add_(_kept(p).mul(lr * lam), alpha=-1)  # E2
    elif lam:
        g = g.add(p, alpha=lam)
    v.mul_(beta).addcmul_(g, g, value=1 - beta)  # E3
    if rule.centered:
        m.lerp_(g, 1 - beta)  # E4
    d = denominator(rule, v, m, power, dtype)  # E5, E6
    if not mu:
        _add_ratio_(p, g, d, -lr)  # E7, E9
        return
    inner, outer = (lr, 1.0) if rule.lr_in_momentum else (1.0, lr)
    r = _add_ratio_(b.mul_(mu), g, d, inner)  # E7, E8
    if rule.nesterov:
        r = _add_ratio_(b.mul(mu), g, d, inner)
    if isinstance(outer, Tensor):
        p.add_(_kept(r).mul(outer), alpha=-1)  # E9
    else:
        p.add_(r, alpha=-outer)


def _add_ratio_(x: Operand, g: Operand, d: Operand, scale: Number) -> Operand:
    """Add scale·g/d to x in place; a Tensor scale stays on its device."""
    return x.add_(g.div(d).mul_(scale)) if isinstance(scale, Tensor) else x.addcdiv_(g, d, value=scale)


def _kept(x: Operand) -> Operand:
    """Return x, or a copy if autograd records: it needs the present value when the next step has changed x."""
    return x.clone() if torch.is_grad_enabled() else x
