"""Trace the step under `torch.compile` as one graph that changed hyperparameters do not recompile.

Dynamo guards on the value of every hyperparameter that traced code reads. A graph that has read the learning rate is
recompiled when a schedule changes the rate. Hence graphs hold tensors and the id of an optimizer. The operators
below look up the optimizer by its id and read its groups when the graph runs:

    rmsprop::step     executes the whole step as without a compiler. Used for the kernel, which a compiler does not make
                      faster, and where the host decides (`nonfinite`, GradScaler, low precision).
    rmsprop::rates    returns η and μ as tensors. Used for tensor operations, which are traced and fused.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rmsprop.errors import InputError, Received
from rmsprop.rule import AVERAGES
from rmsprop.torch import step as stepping
from rmsprop.torch.engines.param_step import ParamStep, scaled
from rmsprop.torch.engines.tensor_ops import step_params
from rmsprop.torch.groups import EXECUTION, FIELDS, RULE_NAMES, complete_groups, rule_of
from rmsprop.torch.observer import ParamKey, refuse
from rmsprop.torch.private import TRACES, mark_static, set_grad_enabled
from rmsprop.torch.state import NEEDED_BY, ParamGroup, complete_state, real
from rmsprop.torch.step_state import step_state

_optimizers: WeakValueDictionary[int, Optimizer] = WeakValueDictionary()
_ids = count(1)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _id_of(optimizer: Optimizer) -> int:
    """Return the key of `optimizer`. Dynamo executes this instead of tracing it, and guards on its identity."""
    for optimizer_id, other in _optimizers.items():
        if other is optimizer:
            return optimizer_id
    optimizer_id = next(_ids)
    _optimizers[optimizer_id] = optimizer
    return optimizer_id


def step(optimizer: Optimizer, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
    """Trace a step of `optimizer`."""
    optimizer_id = _id_of(optimizer)
    # `__dict__`, because dynamo would guard on everything in an attribute.
    groups: list[ParamGroup] = optimizer.__dict__["param_groups"]
    complete_groups(groups, optimizer.__dict__["defaults"])
    # Read gradients before state: dynamo then identifies a parameter without gradient by its index in the group.
    params: list[Tensor] = []
    grads: list[Tensor] = []
    keys: list[ParamKey] = []
    for index in range(len(groups)):
        for i, p in enumerate(groups[index]["params"]):
            if p.grad is not None:
                params.append(p)
                grads.append(p.grad)
                keys.append((index, i))
    plain = grad_scale is None and found_inf is None and len(step_state(optimizer).lags) == 0
    if plain and all(g.layout == torch.strided for g in grads) and all(_is_traced(group) for group in groups):
        _prepare(optimizer)
        for index in range(len(groups)):
            indices = [k for k, (group_index, _) in enumerate(keys) if group_index == index]
            _trace(optimizer, optimizer_id, index, [params[k] for k in indices], [grads[k] for k in indices])
        return
    flat_keys = [index for key in keys for index in key]
    with torch.no_grad():
        if grad_scale is None:
            torch.ops.rmsprop.step(params, grads, flat_keys, optimizer_id, found_inf)
        else:
            torch.ops.rmsprop.scaled_step(params, grads, flat_keys, optimizer_id, found_inf, grad_scale)


def zero_grad(optimizer: Optimizer, set_to_none: bool) -> None:
    """Trace what `torch.optim.Optimizer.zero_grad` does."""
    for group in optimizer.__dict__["param_groups"]:
        for p in group["params"]:
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad.zero_()


# -- the whole step as one operator -----------------------------------------------------------------------------------


# With sparse gradients, dynamo cannot trace and calls `run_step` outside graphs.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def run_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    flat_keys: Sequence[int],
    optimizer_id: int,
    found_inf: Tensor | None,
    grad_scale: Tensor | None = None,
) -> None:
    """Execute a step of optimizer `optimizer_id` on `params` and `grads`.

    `flat_keys` has two numbers for each parameter: the index of its group and its index in the group. A compiler may
    pass tensors other than the optimizer's. The step then writes these.
    """
    with _leaving_grad_mode_on():
        _run_step(_optimizers[optimizer_id], params, grads, flat_keys, found_inf, grad_scale)


@contextmanager
def _leaving_grad_mode_on() -> Iterator[None]:
    """Switch autograd on again if an operator raises: compiled code then does not leave its no_grad.

    If the caller has switched autograd off, the caller's own `with` restores the mode.
    """
    try:
        yield
    except BaseException:
        set_grad_enabled(True)
        raise


def _run_step(
    optimizer: Optimizer,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    flat_keys: Sequence[int],
    found_inf: Tensor | None,
    grad_scale: Tensor | None,
) -> None:
    refuse(step_state(optimizer).observer, "torch.compile")
    optimizer.__dict__["_opt_called"] = True  # for schedulers: `RMSprop.step` does not set it under a compiler
    groups = optimizer.param_groups
    pairs = zip(params, grads, strict=True)
    pair_by_key = dict(zip(zip(flat_keys[::2], flat_keys[1::2], strict=True), pairs, strict=True))
    own_params = [((k, i), p) for k, group in enumerate(groups) for i, p in enumerate(group["params"])]
    if all(q is p and g is p.grad for key, p in own_params for q, g in (pair_by_key.get(key, (p, None)),)):
        stepping.step(optimizer, groups, optimizer.state, grad_scale, found_inf)
        return
    states: defaultdict[Tensor, Any] = defaultdict(dict)
    stand_ins: list[ParamGroup] = [{**group, "params": []} for group in groups]
    for key, p in own_params:
        q, g = pair_by_key.get(key, (p, None))
        stand_in = q.detach()
        if g is not None:
            stand_in.grad = g
            states[stand_in] = optimizer.state[p]
        stand_ins[key[0]]["params"].append(stand_in)
    stepping.step(optimizer, stand_ins, states, grad_scale, found_inf)


_library: Any = torch.library.Library("rmsprop", "DEF")  # type: ignore[no-untyped-call]
# Results also depend on the optimizer's groups. Before torch 2.13 no step is traced and no graph has these operators.
_TAGS = (torch.Tag.cudagraph_unsafe, torch.Tag.nondeterministic_seeded) if TRACES else ()
_TAGGED: dict[str, Any] = {"tags": _TAGS} if TRACES else {}
_ARGUMENTS = "int[] flat_keys, int optimizer_id, Tensor? found_inf"
_library.define(f"step(Tensor(a!)[] params, Tensor[] grads, {_ARGUMENTS}) -> ()", tags=_TAGS)
_library.define(
    f"scaled_step(Tensor(a!)[] params, Tensor(b!)[] grads, {_ARGUMENTS}, Tensor grad_scale) -> ()", tags=_TAGS
)
for _name in ("step", "scaled_step"):
    _library.impl(_name, run_step, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rmsprop::{_name}", lambda *_: None, lib=_library)


# -- tensor operations, traced ----------------------------------------------------------------------------------------


@torch.library.custom_op("rmsprop::rates", mutates_args=(), **_TAGGED)
def rates(optimizer_id: int, group: int, device: torch.device) -> Tensor:
    """Return η and μ of group `group` of optimizer `optimizer_id` on `device`, without a synchronization."""
    optimizer = _optimizers[optimizer_id]
    refuse(step_state(optimizer).observer, "torch.compile")
    optimizer.__dict__["_opt_called"] = True
    hyperparameters = optimizer.param_groups[group]
    with _leaving_grad_mode_on():
        rule_of(hyperparameters)  # raises for a value out of range
        if isinstance(hyperparameters["lr"], Tensor) and hyperparameters["lr"].requires_grad:
            found = Received("one that requires a gradient")
            raise InputError(
                "lr",
                "one that requires no gradient in a compiled step",
                found,
                "call optimizer.step() without torch.compile",
            )
    result: Tensor = _no_rates(optimizer_id, group, device)
    for i, name in enumerate(("lr", "momentum")):
        value = hyperparameters[name]
        if isinstance(value, Tensor):
            result[i].copy_(value.detach().squeeze())
        else:
            result[i].fill_(float(value))
    return result


@rates.register_fake
def _no_rates(optimizer_id: int, group: int, device: torch.device) -> Tensor:
    return torch.empty(2, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


# The fields that `arithmetic.step` reads, with μ as a tensor. `rates` checks the values.
_TracedRule = dataclasses.make_dataclass("_TracedRule", [FIELDS[name] for name in RULE_NAMES])


def _is_traced(group: ParamGroup) -> bool:
    """Return whether to trace a step of `group` by tensor operations: no other engine steps one of its parameters."""
    if group["fused"] or group["state_dtype"] or group["stochastic_rounding"] or group["nonfinite"] != "propagate":
        return False
    return not any(
        engine.group_refusal(group) is None and any(engine.param_refusal(p) is None for p in group["params"])
        for engine in stepping.faster_engines()
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _prepare(optimizer: Optimizer) -> None:
    """Complete the state, with counters on the parameters' devices. Dynamo executes this while tracing."""
    _make_state(optimizer)


# After a sparse gradient has broken the graph, dynamo compiles the step function by function.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _make_state(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for i, p in enumerate(group["params"]):
            if p.grad is not None:
                state = complete_state(group, i, optimizer.state)
                state["step"] = state["step"].to(p.device)
                for x in (p, *[state[name] for name in ("step", *AVERAGES) if name in state]):
                    mark_static(x)


def _trace(optimizer: Optimizer, optimizer_id: int, index: int, params: list[Tensor], grads: list[Tensor]) -> None:
    group: ParamGroup = optimizer.__dict__["param_groups"][index]
    execution = {name: group[name] for name in EXECUTION}
    lists: dict[tuple[Any, ...], list[ParamStep]] = {}
    for p, g in zip(params, grads, strict=True):
        state = optimizer.__dict__["state"][p]
        # Ask the state first: dynamo guards on a value that is read, and a schedule of momentum would recompile.
        averages = {name: real(state[name]) for name in AVERAGES if name in state or group.get(NEEDED_BY.get(name, ""))}
        param_step = ParamStep(real(p), real(scaled(g, 1.0)), state["step"], averages)
        lists.setdefault((p.device, *averages), []).append(param_step)
    for (device, *_), steps in lists.items():
        lr, mu = torch.ops.rmsprop.rates(optimizer_id, index, device).unbind()
        rule = _TracedRule(*[mu if name == "momentum" else group[name] for name in RULE_NAMES])
        buffers = [each.averages["momentum_buffer"] for each in steps if "momentum_buffer" in each.averages]
        with torch.set_grad_enabled(bool(group["differentiable"])):
            off = (mu == 0).double()
            kept: Any = torch._foreach_mul(buffers, off) if buffers else []
            step_params({**execution, "lr": lr, "capturable": True}, rule, steps)
            if buffers:  # restore them where μ is 0: the graph steps with momentum whatever μ is
                torch._foreach_mul_(buffers, 1 - off)
                torch._foreach_add_(buffers, kept)
