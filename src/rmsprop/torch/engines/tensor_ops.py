"""Tensor operations: the engine that steps all parameters that no other engine takes, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rmsprop.rule import Rule
from rmsprop.torch.distributed import is_sharded
from rmsprop.torch.engines import arithmetic, copied_statistics, sparse_rows
from rmsprop.torch.engines.arithmetic import StepNumbers, TensorList
from rmsprop.torch.engines.copied_statistics import Before
from rmsprop.torch.engines.engine import Measured, Remaining, StepInputs, missing_field
from rmsprop.torch.engines.param_step import ParamStep, check, check_writable, scaled
from rmsprop.torch.engines.rounding import is_rounded, step_rounded
from rmsprop.torch.engines.sparse_rows import RowCopies
from rmsprop.torch.groups import FIELDS, check_storage, rule_of
from rmsprop.torch.nonfinite import any_nonfinite, cleaned, either
from rmsprop.torch.private import check_graph_capture, foreach_is_default
from rmsprop.torch.state import ParamGroup, check_gradient, complete_state, kappa_of, needed_averages, real


class _GroupWork(NamedTuple):
    group_index: int
    group: ParamGroup
    rule: Rule
    averages: list[str]  # their names
    steps: list[ParamStep]


class TensorOps:
    """The engine that takes every parameter with a dense or sparse gradient (see `engine.Engine`)."""

    fields = frozenset(FIELDS.values())
    skips_on_device = True
    name = "tensor operations"

    def __init__(self) -> None:
        self._work: list[_GroupWork] = []
        self._rows: dict[int, RowCopies] = {}  # touched by sparse gradients; keys are parameter indices
        self._before: list[Before] = []

    def __len__(self) -> int:
        return sum(len(work.steps) for work in self._work)

    @classmethod
    def unavailable(cls) -> str | None:
        """Return None: the engine steps in every process."""
        return None

    @classmethod
    def group_refusal(cls, group: ParamGroup) -> str | None:
        """Return why the engine steps no parameter of `group`: a field of its rule; else None."""
        return missing_field(group, cls.fields, cls.name)

    @classmethod
    def param_refusal(cls, p: Tensor) -> str | None:
        """Return None: the engine steps every class, device and dtype."""
        return None

    def gather(self, inputs: StepInputs, remaining: Sequence[Remaining]) -> list[Remaining]:
        """Take all of `remaining` except groups whose rule has an unknown field, and check every tensor."""
        check_graph_capture(inputs.optimizer)
        left, taken = [], []
        for part in remaining:
            group = inputs.groups[part.group_index]
            check_storage(group)
            rule = rule_of(group)
            if reason := missing_field(group, self.fields, self.name):
                left.append(part._replace(reason=reason))
                continue
            indices = part.indices
            if indices is None:
                indices = [i for i, p in enumerate(group["params"]) if p.grad is not None]
            for i in indices:
                check_gradient(group, i)
            taken.append((_GroupWork(part.group_index, group, rule, needed_averages(group), []), indices))
        for work, indices in taken:
            self._work.append(work)
            work.steps.extend(self._param_step(inputs, work, i) for i in indices)
        for work in self._work:
            for param_step in work.steps:
                check(param_step, differentiable=bool(work.group["differentiable"]))
        for index, rows in self._rows.items():
            for table in rows.tables.values():
                check_writable(f"a table of parameter {index}", table)
        return left

    def _param_step(self, inputs: StepInputs, work: _GroupWork, i: int) -> ParamStep:
        """Return the tensors of a parameter for this step: with a sparse gradient, of the touched rows."""
        group, index, scale = work.group, inputs.offsets[work.group_index] + i, inputs.grad_scale
        state = complete_state(group, i, inputs.states)
        p = group["params"][i]
        if p.grad.layout == torch.strided:
            with torch.set_grad_enabled(bool(group["differentiable"])):
                averages = {name: real(state[name]) for name in work.averages}
                return ParamStep(real(p), real(scaled(p.grad, scale)), state["step"], averages, index)
        lag = sparse_rows.lag_of(group, i, state, inputs.lags)
        inputs.sparse.add(id(state))
        self._rows[index] = rows = sparse_rows.gather(group, i, state, lag, index=index)
        return rows.param_step(scale)

    def nonfinite(self, inputs: StepInputs) -> Tensor | None:
        """Return, on the device, whether a gradient in groups with nonfinite="skip" is not finite."""
        skipping = [work.steps for work in self._work if work.group["nonfinite"] == "skip"]
        return either(any_nonfinite(each.g) for steps in skipping for each in steps)

    def copy_before(self, inputs: StepInputs) -> None:
        """Copy what statistics need and the step overwrites."""
        for work in self._work:
            for param_step in work.steps:
                rows = self._rows.get(param_step.param_index)
                self._before.append(copied_statistics.copy_before(work.group, work.rule, param_step, rows))

    def run(self, inputs: StepInputs, skip: Tensor | None) -> Tensor | None:
        """Step the parameters taken. Return whether gradient elements counted as 0."""
        flags = []
        for work in self._work:
            steps = work.steps
            if work.group["nonfinite"] == "zero":
                flags += [any_nonfinite(each.g) for each in steps]
                steps = [each._replace(g=cleaned(each.g)) for each in steps]
            with torch.set_grad_enabled(bool(work.group["differentiable"])):
                step_params(work.group, work.rule, steps, skip)
        for rows in self._rows.values():
            rows.put()
        self._work.clear()
        self._rows.clear()
        return either(flags)

    def measured(self, inputs: StepInputs) -> list[Measured]:
        """Return the statistics of the last run, if `copy_before` was called before it."""
        before, self._before = self._before, []
        return [copied_statistics.measure(before, inputs.copy_level)] if before else []

    def clear(self) -> None:
        """Forget the parameters taken."""
        self._work.clear()
        self._rows.clear()
        self._before.clear()


def step_params(group: ParamGroup, rule: Rule, steps: list[ParamStep], skip: Tensor | None = None) -> None:
    """Step parameters in place, one by one or in lists, as the group's `foreach` says.

    If `skip` is true, nothing changes. The host does not read `skip`, and so waits for no device.
    """
    if skip is not None:
        steps = [each.local() for each in steps]
    for together in _lists(group, steps):
        if skip is None:
            _step_together(group, rule, together)
            continue
        written = [x for each in together for x in each.written()]
        before = [x.clone() for x in written]
        _step_together(group, rule, together)
        for x, old in zip(written, before, strict=True):
            x.copy_(torch.where(skip.to(x.device), old, x))


def _lists(group: ParamGroup, steps: list[ParamStep]) -> list[list[ParamStep]]:
    """Divide `steps` into lists that one call can step: by device and dtype with foreach, else one by one."""
    foreach = group["foreach"]
    if foreach is None:
        foreach = foreach_is_default([each.p for each in steps], group["differentiable"])
    if not foreach:
        return [[each] for each in steps]
    lists: dict[tuple[Any, ...], list[ParamStep]] = {}
    for each in steps:  # one foreach call takes DTensors or plain tensors, not both
        key = (each.p.device, each.p.dtype, each.state_dtype, is_sharded(each.p), *each.averages)
        lists.setdefault(key, []).append(each)
    return list(lists.values())


def _step_together(group: ParamGroup, rule: Rule, steps: list[ParamStep]) -> None:
    """Step the parameters of `steps`, which share device and dtype."""
    # foreach: a compiled graph loses `add_` on a 0-dimensional float64 tensor on the CPU (torch 2.13).
    torch._foreach_add_([each.step for each in steps], 1)
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if not (group["capturable"] or group["differentiable"]):
            lr = lr.item()
        elif lr.dim():
            lr = lr.squeeze()
    else:
        lr = float(lr)
    on_device = group["capturable"] or steps[0].step.device.type != "cpu"
    numbers = arithmetic.step_numbers(rule, [each.step for each in steps], capturable=on_device)
    if is_rounded(group, steps[0]):
        for each, of_step in zip(steps, numbers, strict=True):
            step_rounded(group, rule, lr, each.local(), of_step, on_device=on_device)
        return
    stored, compute = steps[0].p.dtype, steps[0].state_dtype
    work = steps
    if stored != compute or any(each.g.dtype != compute for each in steps):
        work = [each._replace(p=each.p.to(compute), g=each.g.to(compute)) for each in steps]
    if len(work) == 1:
        p, g, averages = work[0].p, work[0].g, work[0].averages
        arithmetic.step(rule, lr, p, g, averages, numbers[0], kappa_of(compute))
    else:
        arithmetic.step(
            rule,
            lr,
            TensorList(each.p for each in work),
            TensorList(each.g for each in work),
            {name: TensorList(each.averages[name] for each in work) for name in work[0].averages},
            StepNumbers(*map(list, zip(*numbers, strict=True))),
            kappa_of(compute),
        )
    if stored != compute:
        for each, computed in zip(steps, work, strict=True):
            each.p.copy_(computed.p)
