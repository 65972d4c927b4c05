"""Execute one step: engines gather the parameters that they can step, gradients are checked, engines run.

All checks come before the first change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rmsprop.errors import InputError, Received
from rmsprop.torch import nonfinite, statistics
from rmsprop.torch.distributed import local_shard
from rmsprop.torch.engines.cpu_kernel import CpuKernel
from rmsprop.torch.engines.engine import (
    Engine,
    LossScale,
    Measured,
    Remaining,
    StepInputs,
    check_fused,
    parameter_offsets,
    waits,
)
from rmsprop.torch.engines.param_step import repeats
from rmsprop.torch.engines.report import Report
from rmsprop.torch.engines.sparse_rows import catch_up_all
from rmsprop.torch.engines.tensor_ops import TensorOps
from rmsprop.torch.engines.triton_kernel import TritonKernel
from rmsprop.torch.groups import complete_groups
from rmsprop.torch.nonfinite import Verdict
from rmsprop.torch.observer import Observer
from rmsprop.torch.private import outside_graphs
from rmsprop.torch.state import ParamGroup
from rmsprop.torch.step_state import StepState, step_state

ENGINES: tuple[type[Engine], ...] = (CpuKernel, TritonKernel, TensorOps)  # in order of preference
_UNSCALED = LossScale()  # made once: a small step takes microseconds


def faster_engines() -> list[type[Engine]]:
    """Return the engines that step parameters in place of tensor operations."""
    return [engine for engine in ENGINES if engine is not TensorOps]


def check_fused_available() -> None:
    """Raise InputError if `fused=True` cannot be obeyed: no engine is available except tensor operations."""
    reasons = [engine.unavailable() for engine in faster_engines()]
    if all(reasons):
        raise InputError("fused", "None or False here", True, "; ".join(filter(None, reasons)))


def step(
    optimizer: Optimizer,
    groups: list[ParamGroup],
    states: defaultdict[Tensor, Any],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    parts: Sequence[Remaining] | None = None,
) -> None:
    """Step the parameters of `groups` and their state in `states`: the optimizer's own, or stand-ins for them.

    `grad_scale` and `found_inf` come from a GradScaler. `parts` are the parameters to step; None: all with a gradient.
    """
    complete_groups(groups, optimizer.defaults)
    shared = step_state(optimizer)
    observer = shared.observer
    sweep_level, copy_level = (0, 0) if observer is None else observer.wanted()
    level = sweep_level if sweep_level > copy_level else copy_level
    if found_inf is not None and (level or not isinstance(found_inf, Tensor) or not waits(found_inf)):
        if float(found_inf):
            if observer is not None:
                observer.skipped([], [])
            return
        found_inf = None
    if shared.lags:
        catch_up_all(states, shared.lags, of_dense_gradients=True)
    inputs = StepInputs(
        optimizer=optimizer,
        groups=groups,
        states=states,
        offsets=parameter_offsets(groups),
        loss_scale=_UNSCALED if grad_scale is None else LossScale(grad_scale),
        found_inf=found_inf,
        sweep_level=level if sweep_level else 0,
        copy_level=level if copy_level else 0,
        lags=shared.lags,
        sparse=shared.sparse,
    )
    try:
        all_engines = shared.spare_engines.pop()
    except IndexError:  # the first step, or another thread is stepping
        all_engines = tuple(engine() for engine in ENGINES)
    shared.report = report = _gather(all_engines, inputs, _all_groups(len(groups)) if parts is None else parts)
    engines = [engine for engine, taken, _ in report if taken]
    verdict, skip_flag, nonfinite_flag = nonfinite.judge(inputs, engines)
    if verdict is Verdict.ON_DEVICE and level and bool(skip_flag):
        verdict = Verdict.SKIPPED
    if verdict is Verdict.SKIPPED:
        for engine in engines:
            engine.clear()
        if observer is not None:
            observer.skipped(*([], []) if nonfinite_flag is None else statistics.nonfinite_counts(inputs))
    else:
        if inputs.copy_level:
            for engine in engines:
                engine.copy_before(inputs)
        if cleaned := _run(engines, inputs, skip_flag):
            nonfinite_flag = nonfinite.either([nonfinite_flag, *cleaned])
    if nonfinite_flag is not None:  # before the observer runs, which may read the count
        shared.nonfinite_steps = nonfinite.add(shared.nonfinite_steps, nonfinite_flag)
    if grad_scale is not None:
        _unscale(inputs)
    if observer is not None and verdict is not Verdict.SKIPPED:
        _report_step(observer, shared, engines, inputs, skip_flag)
    shared.spare_engines.append(all_engines)  # last: measured arrays are views of the engines' memory


@outside_graphs
def untraced_step(optimizer: Optimizer, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
    """Step all parameters of `optimizer` outside of a graph."""
    optimizer.__dict__["_opt_called"] = True  # for schedulers
    step(optimizer, optimizer.param_groups, optimizer.state, grad_scale, found_inf)


@lru_cache(maxsize=64)
def _all_groups(count: int) -> tuple[Remaining, ...]:
    return tuple(Remaining(index, None, "") for index in range(count))


def _gather(engines: Sequence[Engine], inputs: StepInputs, remaining: Sequence[Remaining]) -> Report:
    """Let each engine take parameters from those that the engines before it have left; return the report."""
    report: Report = []
    for engine in engines:
        if isinstance(engine, TensorOps):
            check_fused(inputs, remaining)
        remaining = engine.gather(inputs, remaining)
        report.append((engine, len(engine), remaining))
        if not remaining:
            return report
    part = remaining[0]
    remedy = "rmsprop.update has every variant"
    raise InputError("the rule", f"one that an engine can step for {part.where}", Received(part.reason), remedy)


def _run(engines: list[Engine], inputs: StepInputs, skip_flag: Tensor | None) -> list[Tensor]:
    """Run the engines; return their flags for gradient elements that counted as 0."""
    flags = []
    for position, engine in enumerate(engines):
        try:
            flag = engine.run(inputs, skip_flag)
        except Exception as error:
            if position:
                done = ", ".join(each.name for each in engines[:position])
                error.add_note(f"rmsprop: this step is incomplete: {done} stepped its parameters before this error")
            raise
        if flag is not None:
            flags.append(flag)
    return flags


@torch.no_grad()
def _unscale(inputs: StepInputs) -> None:
    """Divide gradients by the scale of a GradScaler unless it skips the step, as torch's fused optimizers do."""
    scale: Any = inputs.loss_scale.on_device
    if scale is None:
        scale = inputs.grad_scale
        if scale == 1:
            return
    if inputs.found_inf is not None:
        scale = torch.where(inputs.found_inf != 0, 1.0, scale)
    together = []
    for p in (p for group in inputs.groups for p in group["params"] if p.grad is not None):
        if p.grad.layout != torch.strided:
            p.grad.div_(scale)
        elif repeats(p.grad):
            p.grad = p.grad / scale
        else:
            together.append(local_shard(p.grad))
    if together:
        torch._foreach_div_(together, scale)


def _report_step(
    observer: Observer, shared: StepState, engines: list[Engine], inputs: StepInputs, skip_flag: Tensor | None
) -> None:
    """Report an executed step to the observer. A step skipped on a device counts as executed until a sync."""
    if not engines:
        return
    level = inputs.sweep_level or inputs.copy_level
    if skip_flag is not None and not level:
        shared.unsynced_skips = nonfinite.add(shared.unsynced_skips, skip_flag)
    parts: list[Measured] = [part for engine in engines for part in engine.measured(inputs)] if level else []
    keys, sums, histograms = statistics.joined(parts, inputs.offsets, shared.keys)
    observer.measured(keys, sums, histograms if level > 1 else None)
