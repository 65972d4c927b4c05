"""Step one parameter with stochastic rounding of the parameter or of its averages.

The operations and their order are those of the native kernel: results have the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rmsprop.rule import Rule
from rmsprop.torch import low_precision
from rmsprop.torch.engines import arithmetic
from rmsprop.torch.engines.param_step import ParamStep
from rmsprop.torch.state import ParamGroup, average, kappa_of

_CHUNK = 1 << 20  # elements per chunk, to bound memory; a multiple of low_precision.BLOCK


def is_rounded(group: ParamGroup, own: ParamStep) -> bool:
    """Return whether a tensor of `own` is rounded stochastically."""
    stochastic = bool(group["stochastic_rounding"]) and own.p.dtype == torch.bfloat16
    return stochastic or own.v.dtype in low_precision.KAPPA


def step_rounded(group: ParamGroup, rule: Rule, lr: Any, own: ParamStep, power: Any, *, on_device: bool) -> None:
    """Step one parameter in place. With `on_device`, the host does not read its step counter."""
    stored = own.v.dtype
    compute = torch.float32 if stored in low_precision.KAPPA else stored
    seed = int(group["stochastic_rounding"])
    stochastic = seed > 0 and own.p.dtype == torch.bfloat16
    keys = low_precision.noise_keys(seed or 1, own.param_index, own.step.long() if on_device else int(own.step.item()))
    size = own.p.numel()
    whole = size <= _CHUNK or not all(x is None or x.is_contiguous() for x in (own.p, own.g, *own.averages()))
    for start in (0,) if whole else range(0, size, _CHUNK):
        chunk = own if whole else _chunk(own, start, min(start + _CHUNK, size))
        p = chunk.p.to(compute)
        v, m, b = (
            None if x is None else average({name: x}, name, chunk.p).to(compute)
            for name, x in zip(("square_avg", "grad_avg", "momentum_buffer"), chunk.averages(), strict=True)
        )
        arithmetic.step(rule, lr, p, chunk.g.to(compute), v, m, b, power, kappa_of(stored), exact=True)
        if stochastic or stored == torch.bfloat16:
            elements = low_precision.positions(chunk.p) + start
        chunk.p.copy_(low_precision.round_bfloat16(p.float(), keys[0], elements) if stochastic else p)
        if stored == compute:
            continue
        for i, (whole_average, part, x) in enumerate(zip(own.averages(), chunk.averages(), (v, m, b), strict=True)):
            if whole_average is None or part is None or x is None:
                continue
            if stored == torch.uint8:
                codes = low_precision.pack(x, signed=i > 0, key=keys[1 + i] + start)
                low_precision.put(codes, whole_average, start, x.numel(), size)
            else:
                part.copy_(low_precision.round_bfloat16(x, keys[1 + i], elements))


def _chunk(own: ParamStep, start: int, stop: int) -> ParamStep:
    """Return elements `start` to `stop` of the tensors: views, but copies of 8-bit averages."""
    size = own.p.numel()

    def cut(x: Tensor | None) -> Tensor | None:
        if x is None or x.dtype != torch.uint8:
            return None if x is None else x.view(-1)[start:stop]
        return low_precision.take(x, start, stop, size)

    tensors: dict[str, Any] = {name: cut(x) for name, x in zip("vmb", own.averages(), strict=True)}
    return own._replace(p=own.p.view(-1)[start:stop], g=own.g.reshape(-1)[start:stop], **tensors)
