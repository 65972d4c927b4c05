"""E1 to E9 of `rmsprop.rule` in tensor operations: any device, differentiable, capturable.

`step` is written once, for a `Tensor` or a `TensorList`, where each method is one `torch._foreach_*` call for many
tensors. Results agree with `rmsprop.rule` to a few units in the last place. State is updated in place. With `exact`,
no two operations of the rule are fused: this takes more passes and gives the bits of `rmsprop.rule`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor

from rmsprop.rule import Rule, moment_weights

Number: TypeAlias = "float | Tensor"  # a Tensor has one element, and the host never reads it


class TensorList:
    """Tensors of one device and dtype, operated on together by the methods of `Tensor` that are used below.

    The class is no subclass of list: torch.compile takes plain lists only as arguments of torch's functions.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)

    def neg(self) -> TensorList:
        return TensorList(torch._foreach_neg(self.tensors))

    def add(self, other: Any, alpha: float = 1) -> TensorList:
        options = {} if alpha == 1 else {"alpha": alpha}
        return TensorList(torch._foreach_add(self.tensors, _plain(other), **options))

    def addcmul(self, a: TensorList, b: TensorList, value: float) -> TensorList:
        return TensorList(torch._foreach_addcmul(self.tensors, a.tensors, b.tensors, value=value))

    def mul(self, other: Any) -> TensorList:
        return TensorList(torch._foreach_mul(self.tensors, _plain(other)))

    def div(self, other: Any) -> TensorList:
        return TensorList(torch._foreach_div(self.tensors, _plain(other)))

    def sqrt(self) -> TensorList:
        return TensorList(torch._foreach_sqrt(self.tensors))

    def maximum(self, other: TensorList) -> TensorList:
        return TensorList(torch._foreach_maximum(self.tensors, other.tensors))

    def clamp_(self, least: TensorList) -> Self:
        torch._foreach_maximum_(self.tensors, least.tensors)
        return self

    def clone(self) -> TensorList:
        return TensorList(x.clone() for x in self.tensors)

    def add_(self, other: Any, alpha: float = 1) -> Self:
        torch._foreach_add_(self.tensors, _plain(other), **({} if alpha == 1 else {"alpha": alpha}))
        return self

    def mul_(self, other: Any) -> Self:
        torch._foreach_mul_(self.tensors, _plain(other))
        return self

    def lerp_(self, other: TensorList, weight: float) -> Self:
        torch._foreach_lerp_(self.tensors, other.tensors, weight)
        return self

    def addcmul_(self, a: TensorList, b: TensorList, value: float) -> Self:
        torch._foreach_addcmul_(self.tensors, a.tensors, b.tensors, value=value)
        return self

    def addcdiv_(self, a: TensorList, b: TensorList, value: float) -> Self:
        torch._foreach_addcdiv_(self.tensors, a.tensors, b.tensors, value=value)
        return self

    def masked_fill_zeros(self, value: float) -> TensorList:
        return TensorList(x.masked_fill(x == 0, value) for x in self.tensors)


def _plain(x: Any) -> Any:
    return x.tensors if isinstance(x, TensorList) else x


Operand: TypeAlias = Any  # Tensor or TensorList; the functions below use only methods that both have


class StepNumbers(NamedTuple):
    """The numbers of E5 and E7 that depend on the step count: for a TensorList, a list of each."""

    power: Any  # βᵗ; read with bias correction only
    a: Any  # the weight of b in n
    c: Any  # the weight of g in n; read with nesterov only


def step_numbers(rule: Rule, steps: list[Tensor], *, capturable: bool) -> list[StepNumbers]:
    """Return the numbers for each step counter, in double (MPS: float32): as Tensors if `capturable`."""
    if not (rule.bias_correction or rule.first_moment):
        return [StepNumbers(0.0, 1.0, 0.0)] * len(steps)  # without reading a counter: the host might wait
    result = []
    for step in steps:
        t: Any = step.item() if not capturable else step if step.device.type == "mps" else step.double()
        a, c = moment_weights(rule, t, torch if capturable else math) if rule.first_moment else (1.0, 0.0)
        result.append(StepNumbers(rule.decay**t if rule.bias_correction else 0.0, a, c))
    return result


def denominator(
    rule: Rule, averages: Mapping[str, Operand], power: Any, kappa: float, *, exact: bool = False
) -> Operand:
    """Return d of E5 and E6, with ∞ in place of 0: g/d is then 0, as E7 says.

    `power` is βᵗ, or a list of them for a TensorList. Only bias correction uses `power`. `kappa` is κ: 8 × the unit
    roundoff of the dtype that stores the averages.
    """
    s = v = averages["max_square_avg" if rule.amsgrad else "square_avg"]
    m = averages["grad_avg"] if rule.centered else None
    if rule.bias_correction:
        start: Any
        weight: Any
        if isinstance(v, TensorList):
            pairs = [_bias_scalars(rule, x, v.tensors[i].dtype) for i, x in enumerate(power)]
            start, weight = map(list, zip(*pairs, strict=True))
        else:
            start, weight = _bias_scalars(rule, power, v.dtype)
        s = v.add(start).maximum(v.mul(kappa)) if rule.initial_square_avg else v
        s = s.div(weight)
        v = v.div(weight) if rule.centered and rule.initial_square_avg else s
        m = None if m is None else m.div(weight)
    if m is not None:
        m = _saved(m)
        variance = s.add(m.mul(m), alpha=-1) if exact else s.addcmul(m, m, value=-1)
        s = variance.maximum(v.mul(kappa))
    if rule.eps_inside_sqrt:
        s = s.add(rule.eps)
    d = _rounded_root(s) if exact else s.sqrt()
    if not rule.eps_inside_sqrt:
        d = d.add(rule.eps) if torch.is_grad_enabled() else d.add_(rule.eps)  # autograd needs the root unchanged
    dtype = d.tensors[0].dtype if isinstance(d, TensorList) else d.dtype
    if rule.eps >= torch.finfo(dtype).tiny:
        return d
    if isinstance(d, TensorList):
        return d.masked_fill_zeros(math.inf)
    return d.masked_fill(d == 0, math.inf)


def _bias_scalars(rule: Rule, power: Number, dtype: torch.dtype) -> tuple[Number, Number]:
    """Return −βᵗ·v₀ and 1−βᵗ. Tensors are rounded to `dtype` here; torch rounds Python numbers when it uses them."""
    pair = power * -rule.initial_square_avg, 1 - power
    return tuple(x.to(dtype) if isinstance(x, Tensor) else x for x in pair)  # type: ignore[return-value]


def step(
    rule: Rule,
    lr: Number,
    p: Operand,
    g: Operand,
    averages: Mapping[str, Operand],
    numbers: StepNumbers,
    kappa: float,
    *,
    exact: bool = False,
) -> None:
    """Update p and its averages, all of one dtype, in place by one step of `rule` with `lr` instead of rule.lr.

    The step has momentum if `averages` has a momentum buffer.
    """
    mu, beta, lam = rule.momentum, rule.decay, rule.weight_decay
    v, b = averages["square_avg"], averages.get("momentum_buffer")
    if rule.maximize:
        g = g.neg()  # E1
    if lam and rule.decoupled_weight_decay:
        p.add_(_saved(p).mul(lr * lam), alpha=-1)  # E2
    elif lam:
        g = g.add(p.mul(lam)) if exact else g.add(p, alpha=lam)
    if exact:
        v.mul_(beta).add_(g.mul(1 - beta).mul(g))  # E3
    else:
        v.mul_(beta).addcmul_(g, g, value=1 - beta)
    if rule.amsgrad:
        averages["max_square_avg"].clamp_(_saved(v))
    if rule.centered:
        _average_(averages["grad_avg"], g, 1 - beta, exact)  # E4
    d = denominator(rule, averages, numbers.power, kappa, exact=exact)  # E5, E6
    if b is not None and rule.first_moment:
        _average_(b, g, 1 - mu, exact)
        n = b.mul(numbers.a)
        _add_ratio_(p, n.add(g.mul(numbers.c)) if rule.nesterov else n, d, -lr, exact)  # E7, E9
        return
    if b is None:
        _add_ratio_(p, g, d, -lr, exact)  # E7, E9
        return
    inner, outer = (lr, 1.0) if rule.lr_in_momentum else (1.0, lr)
    r = _add_ratio_(b.mul_(mu), g, d, inner, exact)  # E7, E8
    if rule.nesterov:
        r = _add_ratio_(b.mul(mu), g, d, inner, exact)
    if isinstance(outer, Tensor) or exact:
        p.add_(_saved(r).mul(outer), alpha=-1)  # E9
    else:
        p.add_(r, alpha=-outer)


def _average_(x: Operand, g: Operand, weight: Number, exact: bool) -> None:
    """Move x by weight·(g − x) in place."""
    if isinstance(weight, Tensor) or exact:
        x.add_(g.add(x, alpha=-1).mul(weight))
    else:
        x.lerp_(g, weight)


def _add_ratio_(x: Operand, g: Operand, d: Operand, scale: Number, exact: bool) -> Operand:
    """Add scale·g/d to x in place; a Tensor scale stays on its device."""
    if isinstance(scale, Tensor) or exact:
        return x.add_(g.div(d).mul_(scale))
    return x.addcdiv_(g, d, value=scale)


def _rounded_root(x: Operand) -> Operand:
    """Return √x, correctly rounded for float32; torch's own float32 root on the CPU is not always correctly rounded."""
    if isinstance(x, TensorList):
        return TensorList(_rounded_root(each) for each in x.tensors)
    return x.double().sqrt().to(x.dtype)


def _saved(x: Operand) -> Operand:
    """Return x, or a copy while autograd records: the backward pass needs this value after x has changed in place."""
    return x.clone() if torch.is_grad_enabled() else x
