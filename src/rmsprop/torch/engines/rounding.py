"""Step one parameter with stochastic rounding of the parameter or of its averages.

The operations and their order are those of the native kernel: results have the same bits.
"""

from __future__ import annotations

from typing import Any

import torch

from rmsprop.rule import AVERAGES, SQUARES, Rule
from rmsprop.torch import low_precision
from rmsprop.torch.engines import arithmetic
from rmsprop.torch.engines.arithmetic import StepNumbers
from rmsprop.torch.engines.param_step import ParamStep
from rmsprop.torch.state import ParamGroup, average, kappa_of

_CHUNK = 1 << 20  # elements per chunk, to bound memory; a multiple of low_precision.BLOCK


def is_rounded(group: ParamGroup, param_step: ParamStep) -> bool:
    """Return whether a tensor of `param_step` is rounded stochastically."""
    stochastic = bool(group["stochastic_rounding"]) and param_step.p.dtype == torch.bfloat16
    return stochastic or param_step.state_dtype in low_precision.KAPPA


def step_rounded(
    group: ParamGroup, rule: Rule, lr: Any, param_step: ParamStep, numbers: StepNumbers, *, on_device: bool
) -> None:
    """Step one parameter in place. With `on_device`, the host does not read its step counter."""
    p, step, stored = param_step.p, param_step.step, param_step.state_dtype
    compute = torch.float32 if stored in low_precision.KAPPA else stored
    seed = int(group["stochastic_rounding"])
    stochastic = seed > 0 and p.dtype == torch.bfloat16
    count = step.long() if on_device else int(step.item())
    param_key, *average_keys = low_precision.noise_keys(seed or 1, param_step.param_index, count)
    keys = dict(zip(AVERAGES, average_keys, strict=True))
    size = p.numel()
    whole = size <= _CHUNK or not all(x.is_contiguous() for x in (p, param_step.g, *param_step.averages.values()))
    for start in (0,) if whole else range(0, size, _CHUNK):
        chunk = param_step if whole else _chunk(param_step, start, min(start + _CHUNK, size))
        computed = chunk.p.to(compute)
        averages = {name: average(chunk.averages, name, chunk.p).to(compute) for name in chunk.averages}
        arithmetic.step(rule, lr, computed, chunk.g.to(compute), averages, numbers, kappa_of(stored), exact=True)
        if stochastic or stored == torch.bfloat16:
            elements = low_precision.positions(chunk.p) + start
        rounded = low_precision.round_bfloat16(computed.float(), param_key, elements) if stochastic else computed
        chunk.p.copy_(rounded)
        if stored == compute:
            continue
        for name, x in averages.items():
            if stored == torch.uint8:
                codes = low_precision.pack(x, signed=name not in SQUARES, key=keys[name] + start)
                low_precision.write_packed(codes, param_step.averages[name], start, x.numel(), size)
            else:
                chunk.averages[name].copy_(low_precision.round_bfloat16(x, keys[name], elements))


def _chunk(param_step: ParamStep, start: int, stop: int) -> ParamStep:
    """Return elements `start` to `stop` of the tensors: views, but copies of 8-bit averages."""
    size = param_step.p.numel()
    averages = {
        name: low_precision.slice_packed(x, start, stop, size) if x.dtype == torch.uint8 else x.view(-1)[start:stop]
        for name, x in param_step.averages.items()
    }
    p, g = param_step.p.view(-1)[start:stop], param_step.g.reshape(-1)[start:stop]
    return param_step._replace(p=p, g=g, averages=averages)
