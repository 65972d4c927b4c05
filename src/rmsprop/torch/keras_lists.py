"""Step parameters in lists, for `rmsprop.keras`, with or without torch's compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rmsprop import native
from rmsprop.rule import AVERAGES, Rule
from rmsprop.torch.engines import cpu_kernel
from rmsprop.torch.engines.param_step import ParamStep, scaled
from rmsprop.torch.engines.tensor_ops import step_params
from rmsprop.torch.groups import EXECUTION, FIELDS, RULE_NAMES, check_lr, lr_number, rule_of
from rmsprop.torch.state import ParamGroup, real

_WRITTEN = ("params", "steps", *(f"{name}s" for name in AVERAGES))


def step_lists(group: ParamGroup, lists: list[Any]) -> None:
    """Step parameters in lists, by the kernel where possible, else by tensor operations.

    `lists` are parameters, gradients, step counters, and a list for each average of AVERAGES. Lists of averages that
    `group` does not use are empty.
    """
    wanted = group["fused"] is not False and group["foreach"] is None and not group["differentiable"]
    if wanted and cpu_kernel.UNAVAILABLE is None and all(p.device.type == "cpu" for p in lists[0]):
        lr = group["lr"]
        number, tensor = (0.0, lr) if isinstance(lr, Tensor) else (float(lr), None)
        run: Callable[..., None] = torch.ops.rmsprop.step_lists if torch.compiler.is_compiling() else kernel_step
        run(*lists, number, tensor, [float(group[name]) for name in RULE_NAMES])
    else:
        step_params(group, rule_of(group), _param_steps(lists))


def _param_steps(lists: list[Any]) -> list[ParamStep]:
    """Return a `ParamStep` for each index of parallel lists; lists of averages may be empty."""
    params, grads, steps, *columns = lists
    kept = {name: column for name, column in zip(AVERAGES, columns, strict=True) if column}
    return [
        ParamStep(real(p), real(scaled(g, 1.0)), step, {name: real(column[i]) for name, column in kept.items()})
        for i, (p, g, step) in enumerate(zip(params, grads, steps, strict=True))
    ]


def kernel_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    steps: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    grad_avgs: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    max_square_avgs: Sequence[Tensor],
    lr: float,
    lr_tensor: Tensor | None,
    rule: Sequence[float],
) -> None:
    """Step `params` in place, as one group. `lr_tensor` takes precedence over `lr`; unused averages are empty lists.

    `rule` has a number for each of RULE_NAMES. A graph exported with another number of fields raises ValueError.
    """
    values = {
        name: bool(value) if isinstance(getattr(Rule, FIELDS[name]), bool) else value
        for name, value in zip(RULE_NAMES, rule, strict=True)
    }
    group: ParamGroup = {**values, **EXECUTION, "foreach": False}
    group["lr"] = lr if lr_tensor is None else lr_number(lr_tensor)
    averages = square_avgs, grad_avgs, momentum_buffers, max_square_avgs
    lists: list[Any] = [*map(list, (params, grads, steps, *averages))]
    check_lr(group)
    of_kernel = cpu_kernel.kernel_rule_of(group)
    if of_kernel.refusal:
        step_params(group, rule_of(group), _param_steps(lists))
        return
    batch = native.kernel.Batch()  # type: ignore[union-attr]
    precision = cpu_kernel.kernel_precision_of(group)
    refused = batch.add_lists(of_kernel.rule, precision, group["lr"], *lists, list(range(len(lists[0])))) or []
    everything = _param_steps(lists) if refused else []
    batch.run(torch.get_num_threads(), native.GRAIN, 1.0, 0)
    if refused:
        step_params(group, rule_of(group), [everything[i] for i, _ in refused])


step_lists_operator = torch.library.custom_op(
    "rmsprop::step_lists", kernel_step, mutates_args=_WRITTEN, device_types="cpu"
)


@step_lists_operator.register_fake
def _(*_: Any) -> None:
    """Return nothing, as `kernel_step` does."""
