"""One step of an optimizer: what the kernel can step, it steps; the rest, tensor operations; a watcher is told of both.

Everything that may raise comes before the first change.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rmsprop import native
from rmsprop.rule import Rule
from rmsprop.torch import nonfinite, statistics
from rmsprop.torch.engines import cpu_kernel, sparse_rows
from rmsprop.torch.engines.checks import check_slot, check_writable, repeats
from rmsprop.torch.engines.cpu_kernel import Refused, add_copies, add_rows, gather
from rmsprop.torch.engines.sparse_rows import Lags
from rmsprop.torch.groups import rule_of
from rmsprop.torch.observer import Watcher
from rmsprop.torch.private import check_graph_capture
from rmsprop.torch.state import Group, Slot, complete_state, first_numbers, rows_slot, slot, step_slots

if TYPE_CHECKING:
    from rmsprop.torch.optimizer import RMSprop

Work = list[tuple[Group, Rule, list[Slot]]]  # for tensor operations


@dataclass
class Run:
    """What an optimizer knows of its steps beside its state; wrappers that copy its attributes share it."""

    batches: list[Any] = field(default_factory=list)  # spare ones: they know where the parameters were
    refused: list[Refused] = field(default_factory=list)  # by the kernel, in the last step
    stepped: int = 0  # parameters, by the kernel, in the last step
    sparse: set[int] = field(default_factory=set)  # the id of every state that had a sparse gradient
    lag: Lags = field(default_factory=dict)  # the rows that lag
    nonfinite_steps: int | Tensor = 0
    watcher: Watcher | None = None
    untold: int | Tensor = 0  # steps that only devices know to be left out, of which the watcher was told `measured`
    found: statistics.Found = field(default_factory=statistics.Found)


def step(
    optimizer: RMSprop,
    groups: list[Group],
    states: defaultdict[Tensor, Any],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    *,
    firsts: list[int] | None = None,
) -> None:
    """Step the parameters of `groups`, whose state is in `states`: those of `optimizer`, or stand-ins for them.

    `grad_scale` and `found_inf` are what a GradScaler leaves to the step. `firsts` are the numbers, among all, of the
    groups' first parameters, where `groups` are not all of the optimizer's.
    """
    run = optimizer._run
    watcher = run.watcher
    by_kernel, by_tensors = (0, 0) if watcher is None else watcher.wanted()
    if found_inf is not None and float(found_inf):
        if watcher is not None:
            watcher.skipped([], [])
        return
    scale = 1.0 if grad_scale is None else float(grad_scale.item())
    try:
        batch = run.batches.pop()
    except IndexError:  # the first step, or another thread is stepping
        batch = cpu_kernel.new_batch()
    if run.lag:
        catch_up(run, states, of_dense_gradients=True)
    firsts = first_numbers(groups) if firsts is None else firsts
    run.refused = gather(batch, groups, states, firsts, sparse=bool(run.sparse))
    work, tables = _left_over(optimizer, batch, groups, states, firsts, scale, by_tensors) if run.refused else ([], [])
    for group, _, slots in work:
        for each in slots:
            check_slot(each, differentiable=bool(group["differentiable"]))
    for rows in tables:
        for table in rows.tables:
            check_writable(f"a table of parameter {rows.number}", table)
    given = work if watcher is None else list(work)  # gradients as they are, before some count as 0
    skip, counted = nonfinite.judge(groups, batch, work, scale)
    if watcher is not None and (skip is True or (skip is not None and (by_kernel or by_tensors) and bool(skip))):
        skip = True
        watcher.skipped(*statistics.nonfinite_counts(groups, scale))
        by_kernel = by_tensors = 0
    known = statistics.before_step(groups, firsts, given, tables, scale) if by_tensors else []
    if skip is True:
        work, tables = [], []
        if batch is not None:
            batch.clear()
    level = by_kernel if by_kernel > by_tensors else by_tensors
    measured, stepped = None, 0
    if batch is not None:
        stepped = run.stepped = len(batch)
        if not batch.run(torch.get_num_threads(), native.GRAIN, scale, by_kernel and level):
            counted = True
        if by_kernel:
            measured = batch.measured()
    for group, rule, slots in work:
        with torch.set_grad_enabled(bool(group["differentiable"])):
            step_slots(group, rule, slots, skip)
    for rows in tables:
        rows.put()
    if counted is not None:  # before the watcher is told, who may ask for the count
        run.nonfinite_steps = nonfinite.add(run.nonfinite_steps, counted)
    if scale != 1:  # torch's fused optimizers leave the gradients so
        for p in (p for group in groups for p in group["params"] if p.grad is not None):
            with torch.no_grad():
                p.grad = p.grad / scale if repeats(p.grad) else p.grad.div_(scale)
    if watcher is not None and (stepped or tables or any(slots for _, _, slots in work)):
        if skip is not None and skip is not True and not level:
            run.untold = nonfinite.add(run.untold, skip)
        places, sums, histograms = run.found.join(firsts, measured, known, level) if level else statistics.NOTHING
        watcher.measured(places, sums, histograms)
    if batch is not None:  # not before: what was measured are views of its memory, and other threads may take it
        run.batches.append(batch)


def _left_over(
    optimizer: RMSprop,
    batch: Any,
    groups: list[Group],
    states: defaultdict[Tensor, Any],
    firsts: list[int],
    scale: float,
    level: int,
) -> tuple[Work, list[sparse_rows.Rows]]:
    """Return what the kernel has refused: group, rule and slots; and the rows to be put back after the step.

    At a `level` above 0, at which statistics are made by tensor operations, all touched rows are among these.
    """
    check_graph_capture(optimizer)
    run = optimizer._run
    work, left = [], []
    tables: list[sparse_rows.Rows] = []
    numbers_of = [
        [i for i, p in enumerate(groups[index]["params"]) if p.grad is not None] if numbers is None else numbers
        for index, numbers, _ in run.refused
    ]
    rules = []
    for (index, _, _), numbers in zip(run.refused, numbers_of, strict=True):
        rules.append(rule_of(groups[index]))
        for i in numbers:
            sparse_rows.check(groups[index], i)
    for refused, numbers, rule in zip(run.refused, numbers_of, rules, strict=True):
        index, _, reason = refused
        group, first = groups[index], firsts[index]
        if reason == cpu_kernel.UNAVAILABLE and any(p.device.type == "cpu" for p in group["params"]):
            cpu_kernel.say_once(reason)
        slots = []
        by_kernel = False
        for i in numbers:
            if group["params"][i].grad.layout == torch.strided:
                with torch.set_grad_enabled(bool(group["differentiable"])):
                    slots.append(slot(group, i, states, scale, first=first))
                continue
            state = complete_state(group, i, states)
            lag = sparse_rows.lag_of(group, i, state, run.lag)
            run.sparse.add(id(state))
            if not level and add_rows(batch, group, i, state, lag, first=first):
                by_kernel = True
                continue
            tables.append(sparse_rows.gather(group, i, state, lag, first=first))
            if add_copies(batch, group, tables[-1]):
                by_kernel = True
            else:
                slots.append(rows_slot(tables[-1], scale))
        work.append((group, rule, slots))
        if not by_kernel:
            left.append(refused)
    run.refused = left
    return work, tables


def catch_up(run: Run, states: defaultdict[Tensor, Any], *, of_dense_gradients: bool = False) -> None:
    """Make up for the steps of rows that lag: of all parameters, or of those that now have a dense gradient."""
    for p, own in states.items() if run.lag else ():
        if id(own) in run.lag and not (of_dense_gradients and (p.grad is None or p.grad.layout != torch.strided)):
            sparse_rows.catch_up(own, run.lag)  # what is left is of states that stand aside, and may come back
