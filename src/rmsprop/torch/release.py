"""Gradient release: each parameter is stepped inside of the backward pass, and its gradient freed at once."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from rmsprop.errors import InputError, Received
from rmsprop.torch import step as stepping
from rmsprop.torch.distributed import world_size
from rmsprop.torch.engines.engine import Remaining
from rmsprop.torch.observer import ParamKey, refuse
from rmsprop.torch.optimizer import RMSprop
from rmsprop.torch.state import ParamGroup
from rmsprop.torch.step_state import step_state


class Released:
    """What `release_gradients` returns: `remove()`, or the end of a `with` block, makes the backward pass ordinary."""

    def __init__(self, optimizer: RMSprop, handles: list[Any]) -> None:
        self._optimizer, self._handles = optimizer, handles

    def remove(self) -> None:
        """Leave gradients where they are again, for `optimizer.step()`; a second call does nothing."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            del self._optimizer.__dict__["released"]
        self._handles = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def release_gradients(optimizer: RMSprop) -> Released:
    """Step every parameter as soon as its gradient is complete, inside of `backward`, and free the gradient.

    At no time are there gradients of all parameters: the peak of memory is lower by nearly the size of the model. The
    bits are those of ordinary steps. The training loop may stay as it is: `optimizer.step()` finds no gradients and
    does nothing, but calls its hooks, which see none either, and lets schedulers count; a rate set before `backward` is
    the one that counts.

    Parameters
    ----------
    optimizer
        Its parameters that require a gradient now are released. Others (frozen, or of groups added later) are
        stepped by `optimizer.step()` as ever. One that is taken out of its groups keeps its gradient and is not
        stepped.

    Returns
    -------
    Released
        A handle with `remove()`, and a context manager.

    Raises
    ------
    InputError
        For `nonfinite="skip"`, which has to see all gradients before the first step; for `differentiable=True`; for a
        subclass with a `step` of its own; if the gradients are released already; for an optimizer with an observer; on
        several ranks of torch.distributed, unless parameters are DTensors: DDP averages gradients after they are
        complete here. From `optimizer.step()` if a GradScaler calls it: it has not seen the gradients that were
        stepped.

    Notes
    -----
    Every `backward` is a step: gradients of several batches cannot be accumulated, and nothing that needs all gradients
    at once (`clip_grad_norm_`) can be done; a bound on each, or a change of one, can, by `Tensor.register_hook`. A
    weight used in several places is stepped once, after its last use, unless it is shared between segments that
    `torch.utils.checkpoint` computes again with `use_reentrant=True`: each is a backward pass of its own.

    Examples
    --------
    >>> import torch
    >>> from rmsprop.torch import RMSprop, release_gradients
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = RMSprop(model.parameters(), lr=1e-3)
    >>> before = model.bias.item()
    >>> with release_gradients(optimizer):
    ...     model(torch.ones(2, 3)).sum().backward()
    >>> model.bias.grad is None, round(before - model.bias.item(), 4)
    (True, 0.01)
    """
    if not isinstance(optimizer, RMSprop):
        found = Received(f"a {type(optimizer).__name__}")
        raise InputError("optimizer", "an rmsprop.torch.RMSprop", found, "only its steps can be made one by one")
    if type(optimizer).step is not RMSprop.step:
        found = Received(f"a {type(optimizer).__name__}, which has its own")
        raise InputError(
            "optimizer", "one with the step of rmsprop.torch.RMSprop", found, "it would be gone around: leave out one"
        )
    if "released" in optimizer.__dict__:
        raise InputError(
            "optimizer", "one with gradients to release", Received("a released one"), "call remove() first"
        )
    refuse(step_state(optimizer).observer, "released gradients")
    ranks = world_size()
    for group in optimizer.param_groups:
        _check(group)
        if ranks > 1 and any(type(p) in (Tensor, torch.nn.Parameter) for p in group["params"]):
            remedy = "DDP averages gradients only after they are complete: shard the model with fully_shard"
            raise InputError("the number of ranks", "1 with released gradients", ranks, remedy)
    handles: list[Any] = [optimizer.register_step_pre_hook(_refuse_scaler)]
    for index, group in enumerate(optimizer.param_groups):
        for number, p in enumerate(group["params"]):
            if p.requires_grad:
                handles.append(p.register_post_accumulate_grad_hook(_hook(optimizer, index, number)))
    optimizer.__dict__["released"] = released = Released(optimizer, handles)
    return released


def _check(group: ParamGroup) -> None:
    if group["nonfinite"] == "skip":
        remedy = "pass 'zero': to leave out a step, all gradients have to be seen first"
        raise InputError("nonfinite", "'propagate' or 'zero' with released gradients", "skip", remedy)
    if group["differentiable"]:
        raise InputError("differentiable", "False with released gradients", True, "leave one of them out")


def _refuse_scaler(optimizer: Any, *_: Any) -> None:
    """Raise if a GradScaler makes this step; it has told `optimizer` so."""
    if "grad_scale" in optimizer.__dict__:
        found, remedy = Received("a step of one"), "train in bfloat16, which needs no scaling, or call remove()"
        raise InputError("GradScaler", "left out with released gradients", found, remedy)


def _hook(optimizer: RMSprop, index: int, i: int) -> Callable[[Tensor], None]:
    """Return the hook of parameter `i` of the group of that index."""

    def step(p: Tensor) -> None:
        groups, shared = optimizer.param_groups, step_state(optimizer)
        key = _find(groups, p, index, i)
        if key is None:
            return
        report = shared.report
        try:
            for group in groups:  # loading a state dict makes new ones
                _check(group)
            stepping.step(optimizer, groups, optimizer.state, None, None, [Remaining(key[0], [key[1]], "")])
        finally:
            shared.report = report  # of all parameters
            p.grad = None

    return step


def _find(groups: list[ParamGroup], p: Tensor, index: int, i: int) -> ParamKey | None:
    """Return group and index in it of `p`, which is expected to be parameter `i` of group `index`; None if in none."""
    if index < len(groups) and i < len(groups[index]["params"]) and groups[index]["params"][i] is p:
        return index, i
    return next(((k, j) for k, group in enumerate(groups) for j, q in enumerate(group["params"]) if q is p), None)
