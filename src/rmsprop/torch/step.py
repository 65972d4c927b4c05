"""One step of an optimizer: the kernel steps what it can, tensor operations step the rest, an observer hears of both.

Everything that may raise comes before the first change.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rmsprop import native
from rmsprop.rule import Rule
from rmsprop.torch import nonfinite, statistics
from rmsprop.torch.engines import cpu_kernel, sparse_rows
from rmsprop.torch.engines.checks import check_slot, check_writable, repeats
from rmsprop.torch.engines.cpu_kernel import add_copies, add_rows, gather
from rmsprop.torch.groups import rule_of
from rmsprop.torch.private import check_graph_capture
from rmsprop.torch.state import Group, Slot, complete_state, first_numbers, rows_slot, slot, step_slots
from rmsprop.torch.step_state import StepState, step_state

Work = list[tuple[Group, Rule, list[Slot]]]  # for tensor operations


def step(
    optimizer: Optimizer,
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
    run = step_state(optimizer)
    observer = run.observer
    by_kernel, by_tensors = (0, 0) if observer is None else observer.wanted()
    if found_inf is not None and float(found_inf):
        if observer is not None:
            observer.skipped([], [])
        return
    scale = 1.0 if grad_scale is None else float(grad_scale.item())
    try:
        batch = run.batches.pop()
    except IndexError:  # the first step, or another thread is stepping
        batch = cpu_kernel.new_batch()
    if run.lags:
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
    given = work if observer is None else list(work)  # gradients as they are, before some count as 0
    skip, counted = nonfinite.judge(groups, batch, work, scale)
    if observer is not None and (skip is True or (skip is not None and (by_kernel or by_tensors) and bool(skip))):
        skip = True
        observer.skipped(*statistics.nonfinite_counts(groups, scale))
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
            counted = torch.tensor(True, device="cpu")
        if by_kernel:
            measured = batch.measured()
    for group, rule, slots in work:
        with torch.set_grad_enabled(bool(group["differentiable"])):
            step_slots(group, rule, slots, skip)
    for rows in tables:
        rows.put()
    if counted is not None:  # before the observer is told, who may ask for the count
        run.nonfinite_steps = nonfinite.add(run.nonfinite_steps, counted)
    if scale != 1:  # torch's fused optimizers leave the gradients so
        for p in (p for group in groups for p in group["params"] if p.grad is not None):
            with torch.no_grad():
                p.grad = p.grad / scale if repeats(p.grad) else p.grad.div_(scale)
    if observer is not None and (stepped or tables or any(slots for _, _, slots in work)):
        if skip is not None and skip is not True and not level:
            run.unsynced_skips = nonfinite.add(run.unsynced_skips, skip)
        places, sums, histograms = run.found.join(firsts, measured, known, level) if level else statistics.NOTHING
        observer.measured(places, sums, histograms)
    if batch is not None:  # not before: what was measured are views of its memory, and other threads may take it
        run.batches.append(batch)


def _left_over(
    optimizer: Optimizer,
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
    run = step_state(optimizer)
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
            lag = sparse_rows.lag_of(group, i, state, run.lags)
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


def catch_up(run: StepState, states: defaultdict[Tensor, Any], *, of_dense_gradients: bool = False) -> None:
    """Make up for the steps of rows that lag: of all parameters, or of those that now have a dense gradient."""
    for p, own in states.items() if run.lags else ():
        if id(own) in run.lags and not (of_dense_gradients and (p.grad is None or p.grad.layout != torch.strided)):
            sparse_rows.catch_up(own, run.lags)  # what is left is of states that stand aside, and may come back
