"""Divide parameters into launches of the Triton kernel, and compute the numbers that each launch reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rmsprop.rule import Rule, moment_weights
from rmsprop.torch import low_precision
from rmsprop.torch.engines import arithmetic
from rmsprop.torch.engines.engine import LossScale, waits
from rmsprop.torch.engines.triton_tables import Scalars, scalars_of
from rmsprop.torch.engines.triton_taken import Taken
from rmsprop.torch.groups import lr_number
from rmsprop.torch.state import ParamGroup, kappa_of

REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


class Form(NamedTuple):
    """The operations that a step has, as triton_step numbers them."""

    decay: int  # 0 none, 1 L2, 2 decoupled
    momentum: int  # 0 none, 1 heavy ball, 2 Nesterov, 3 first moment, 4 first moment with Nesterov
    centered: bool
    corrected: bool
    amsgrad: bool


class Launch(NamedTuple):
    """What all tensors of one launch share."""

    device: torch.device
    param: torch.dtype  # of real numbers
    state: torch.dtype
    stochastic: bool  # whether the parameters are rounded stochastically
    form: Form
    nonfinite: str
    aligned: bool  # all addresses are multiples of 16


class Work(NamedTuple):
    """The parameters taken of one group, or those of them that one launch steps."""

    group_index: int
    group: ParamGroup
    rule: Rule
    taken: list[Taken]


def launches(works: list[Work]) -> dict[Launch, list[Work]]:
    """Divide the parameters taken into launches."""
    result: dict[Launch, list[Work]] = {}
    for work in works:
        form, nonfinite = _form_of(work.rule), work.group["nonfinite"]
        taken_by_key: dict[tuple[Any, ...], list[Taken]] = {}
        for each in work.taken:
            p, g, v, m, b, w, *_ = each.row
            dtype, device, *_ = each.layout
            taken_by_key.setdefault((device, dtype, each.state_dtype, (p | g | v | m | b | w) % 16), []).append(each)
        for (device, dtype, stored, remainder), taken in taken_by_key.items():
            stochastic = dtype == torch.bfloat16 and bool(work.group["stochastic_rounding"])
            key = Launch(device, _real(dtype), _real(stored), stochastic, form, nonfinite, not remainder)
            result.setdefault(key, []).append(work._replace(taken=taken))
    return result


def _real(dtype: torch.dtype) -> torch.dtype:
    return REAL.get(dtype, dtype)


def _form_of(rule: Rule) -> Form:
    decay = 0 if not rule.weight_decay else 2 if rule.decoupled_weight_decay else 1
    momentum = 0 if not rule.momentum else 1 + rule.nesterov + 2 * rule.first_moment
    return Form(decay, momentum, rule.centered, rule.bias_correction, rule.amsgrad)


def add_scalars(scalars: list[Scalars], work: Work, loss_scale: LossScale) -> list[int]:
    """Append the scalars of a group; return for each of its parameters the index of its scalars."""
    grad_scale = 1.0 if loss_scale.on_device is not None else loss_scale.number
    rule, lr = work.rule, 0.0 if _reads_lr_on_device(work.group) else lr_number(work.group["lr"])
    kappa = kappa_of(_real(work.taken[0].state_dtype))

    def append(t: float) -> int:
        a, c = moment_weights(rule, t) if rule.first_moment else (1.0, 0.0)
        power = rule.decay**t if rule.bias_correction else 0.0
        scalars.append(scalars_of(rule, lr, power, a, c, grad_scale=grad_scale, kappa=kappa))
        return len(scalars) - 1

    if not rule.bias_correction:
        return [append(1.0)] * len(work.taken)
    if _reads_counters_on_device(work):
        return [append(1.0) for _ in work.taken]  # `numbers_on_device` replaces those that depend on the count
    counts = [each.counter.item() + 1 for each in work.taken]
    indices = {count: append(count) for count in dict.fromkeys(counts)}
    return [indices[count] for count in counts]


def numbers_on_device(work: Work, device: torch.device, loss_scale: LossScale) -> dict[str, Tensor]:
    """Return those scalars of a group that only the device knows: by name, one number or one for each parameter."""
    rule, numbers = work.rule, dict[str, Any]()
    if loss_scale.on_device is not None:
        numbers["sign"] = (-1.0 if rule.maximize else 1.0) / loss_scale.on_device.to(device).double().reshape(())
    if _reads_lr_on_device(work.group):
        lr = work.group["lr"].detach().to(device).double().reshape(())
        numbers["lr_inside" if rule.lr_in_momentum else "lr_outside"] = lr
        if rule.decoupled_weight_decay:
            numbers["lam"] = lr * rule.weight_decay
    if _reads_counters_on_device(work):
        t = torch.stack([each.counter.to(device).reshape(()) for each in work.taken]) + 1
        (of_step,) = arithmetic.step_numbers(rule, [t], capturable=True)
        numbers["decayed_v0"] = of_step.power * rule.initial_square_avg
        numbers["one_minus_power"] = 1 - of_step.power
        numbers |= {"a": of_step.a, "c": of_step.c}
    return {name: x for name, x in numbers.items() if isinstance(x, Tensor)}


def noise_keys(work: Work, device: torch.device) -> Tensor:
    """Return the keys of the noise of a group's parameters and their averages: one row for each parameter."""
    on_device = _counters_are_on_device(work)
    if on_device:
        t = torch.stack([each.counter.to(device).reshape(()) for each in work.taken]).long() + 1
    else:
        t = torch.tensor([int(each.counter.item()) + 1 for each in work.taken], device="cpu")
    indices = torch.tensor([each.index for each in work.taken], device="cpu").to(t.device, non_blocking=True)
    seed = int(work.group["stochastic_rounding"]) or 1
    keys = torch.stack(low_precision.noise_keys(seed, indices, t), 1)
    return keys if on_device or device.type == "cpu" else keys.pin_memory().to(device, non_blocking=True)


def _reads_lr_on_device(group: ParamGroup) -> bool:
    lr = group["lr"]
    return isinstance(lr, Tensor) and (group["capturable"] or waits(lr))


def _reads_counters_on_device(work: Work) -> bool:
    return work.rule.bias_correction and _counters_are_on_device(work)


def _counters_are_on_device(work: Work) -> bool:
    return work.group["capturable"] or any(waits(each.counter) for each in work.taken)
