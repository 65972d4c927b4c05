"""Release gradients: step each parameter inside the backward pass, and free its gradient at once."""

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
    """A handle on released gradients: `remove()`, or the end of a `with` block, ends the release."""

    def __init__(self, optimizer: RMSprop, handles: list[Any]) -> None:
        self._optimizer, self._handles = optimizer, handles

    def remove(self) -> None:
        """Let `backward` keep gradients for `optimizer.step()` again; a second call does nothing."""
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
    """Step every parameter inside `backward`, as soon as its gradient is complete, and free the gradient.

    The gradients of all parameters never exist at once: peak memory is lower by nearly the size of the model. The
    results are bit for bit those of ordinary steps. The training loop may keep `optimizer.step()`: the call finds no
    gradients and steps nothing. Hooks on `step` are still called, without gradients, and schedulers still count. Set
    the learning rate before `backward`.

    Parameters
    ----------
    optimizer
        Releases the gradients of its parameters that now require one. `optimizer.step()` still steps other parameters:
        frozen ones and those of groups added later. A parameter that you remove from its group keeps its gradient and
        is not stepped.

    Returns
    -------
    Released
        A handle with `remove()`, which is also a context manager.

    Raises
    ------
    InputError
        - For `nonfinite="skip"`, which has to see all gradients before the first change.
        - For `differentiable=True`, for a subclass with its own `step`, and for an optimizer with an observer.
        - If the gradients are released already.
        - On two or more ranks of torch.distributed, unless parameters are DTensors: DDP averages gradients only after
          they are complete here.
        - From `optimizer.step()` if a GradScaler calls it: the scaler has not checked the gradients.

    Notes
    -----
    Every `backward` is a step. Gradients of two batches cannot be accumulated, and functions that need all gradients at
    once (`clip_grad_norm_`) cannot be used. `Tensor.register_hook` can clip or change each gradient. A shared weight is
    stepped once, after its last use. With `use_reentrant=True`, each segment of `torch.utils.checkpoint` is a backward
    pass of its own: a weight shared between segments is stepped once for each.

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
        raise InputError("optimizer", "an rmsprop.torch.RMSprop", found, "release works only with RMSprop")
    if type(optimizer).step is not RMSprop.step:
        found = Received(f"a {type(optimizer).__name__}, which has its own")
        raise InputError(
            "optimizer", "one with the step of rmsprop.torch.RMSprop", found, "released gradients do not call your step"
        )
    if "released" in optimizer.__dict__:
        raise InputError(
            "optimizer",
            "one without released gradients",
            Received("one that has them"),
            "call remove() on the handle first",
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
        for i, p in enumerate(group["params"]):
            if p.requires_grad:
                handles.append(p.register_post_accumulate_grad_hook(_hook(optimizer, index, i)))
    optimizer.__dict__["released"] = released = Released(optimizer, handles)
    return released


def _check(group: ParamGroup) -> None:
    if group["nonfinite"] == "skip":
        remedy = "pass 'zero': skipping a step needs all gradients at once"
        raise InputError("nonfinite", "'propagate' or 'zero' with released gradients", "skip", remedy)
    if group["differentiable"]:
        raise InputError("differentiable", "False with released gradients", True, "omit one of them")


def _refuse_scaler(optimizer: Any, *_: Any) -> None:
    """Raise if a GradScaler calls this step: it has set `grad_scale` on `optimizer`."""
    if "grad_scale" in optimizer.__dict__:
        found, remedy = Received("a step called by it"), "train in bfloat16, which needs no scaling, or call remove()"
        raise InputError("GradScaler", "unused with released gradients", found, remedy)


def _hook(optimizer: RMSprop, index: int, i: int) -> Callable[[Tensor], None]:
    """Return the hook that steps parameter `i` of group `index`."""

    def step(p: Tensor) -> None:
        groups, shared = optimizer.param_groups, step_state(optimizer)
        key = _key_of(groups, p, index, i)
        if key is None:
            return
        report = shared.report
        try:
            for group in groups:  # again, since loading a state dict replaces groups
                _check(group)
            stepping.step(optimizer, groups, optimizer.state, None, None, [Remaining(key[0], [key[1]], "")])
        finally:
            shared.report = report  # restored: the report covers all parameters
            p.grad = None

    return step


def _key_of(groups: list[ParamGroup], p: Tensor, index: int, i: int) -> ParamKey | None:
    """Return the key of `p`, probably (`index`, `i`); None if `p` is in no group."""
    if index < len(groups) and i < len(groups[index]["params"]) and groups[index]["params"][i] is p:
        return index, i
    return next(((k, j) for k, group in enumerate(groups) for j, q in enumerate(group["params"]) if q is p), None)
