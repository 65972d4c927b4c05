"""A step of parameters in lists, with or without a compiler: what `rmsprop.keras` calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rmsprop import native
from rmsprop.torch.engines import cpu_kernel
from rmsprop.torch.groups import EXECUTION, RULE_NAMES, lr_number, rule_of
from rmsprop.torch.state import Group, Slot, real, scaled, step_slots

_WRITTEN = ("params", "steps", "square_avgs", "grad_avgs", "momentum_buffers")


def step_lists(group: Group, lists: list[Any]) -> None:
    """Step parameters that stand in lists, traced or not: by the kernel where it can, else by tensor operations.

    `lists` are parameters, gradients, step counters, square averages, gradient averages and momentum buffers; of the
    last two, those that `group` does not use are empty.
    """
    wanted = group["fused"] is not False and group["foreach"] is None and not group["differentiable"]
    if wanted and cpu_kernel.UNAVAILABLE is None and all(p.device.type == "cpu" for p in lists[0]):
        lr = group["lr"]
        number, tensor = (0.0, lr) if isinstance(lr, Tensor) else (float(lr), None)
        run: Callable[..., None] = torch.ops.rmsprop.step_lists if torch.compiler.is_compiling() else kernel_step
        run(*lists, number, tensor, *[group[name] for name in RULE_NAMES])
    else:
        step_slots(group, rule_of(group), _slots(lists))


def _slots(lists: list[Any]) -> list[Slot]:
    """Return the slots of parallel lists in the order of `Slot`, of which the last two may be empty."""
    size = len(lists[0])
    params, grads, steps, *averages = [column or [None] * size for column in lists]
    grads = [scaled(g, 1.0) for g in grads]
    columns = [[None if x is None else real(x) for x in column] for column in (params, grads, *averages)]
    return [Slot(p, g, steps[i], v, m, b) for i, (p, g, v, m, b) in enumerate(zip(*columns, strict=True))]


def kernel_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    steps: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    grad_avgs: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    lr: float,
    lr_tensor: Tensor | None,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
    centered: bool,
    nesterov: bool,
    eps_inside_sqrt: bool,
    initial_square_avg: float,
    lr_in_momentum: bool,
    bias_correction: bool,
    decoupled_weight_decay: bool,
    maximize: bool,
) -> None:
    """Step `params` in place, as one group; `lr_tensor` goes before `lr`, averages not in use are empty lists."""
    group: Group = {
        "lr": lr if lr_tensor is None else lr_number(lr_tensor),
        "alpha": alpha,
        "eps": eps,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "centered": centered,
        "nesterov": nesterov,
        "eps_inside_sqrt": eps_inside_sqrt,
        "initial_square_avg": initial_square_avg,
        "lr_in_momentum": lr_in_momentum,
        "bias_correction": bias_correction,
        "decoupled_weight_decay": decoupled_weight_decay,
        "maximize": maximize,
        **EXECUTION,
        "foreach": False,
    }
    lists: list[Any] = [*map(list, (params, grads, steps, square_avgs, grad_avgs, momentum_buffers))]
    batch = cpu_kernel.new_batch()
    numbers = list(range(len(lists[0])))
    rule, precision = cpu_kernel.kernel_rule_of(group), cpu_kernel.kernel_precision_of(group)
    refused = batch.add_lists(rule, precision, group["lr"], *lists, numbers) or []
    everything = _slots(lists) if refused else []
    rest = [everything[i] for i, _ in refused]
    batch.run(torch.get_num_threads(), native.GRAIN, 1.0, 0)
    if rest:
        step_slots(group, rule_of(group), rest)


step_lists_operator = torch.library.custom_op(
    "rmsprop::step_lists", kernel_step, mutates_args=_WRITTEN, device_types="cpu"
)


@step_lists_operator.register_fake
def _(*_: Any) -> None:
    """Nothing is returned: there is no shape to tell."""
