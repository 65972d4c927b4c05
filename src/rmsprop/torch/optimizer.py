"""The optimizer class: parameter groups, state and checkpoints around the step in `tensors`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    _default_to_fused_or_foreach,
    _get_scalar_dtype,
    _use_grad_for_differentiable,
)

from rmsprop.errors import InputError, Received
from rmsprop.rule import Rule
from rmsprop.torch import tensors
from rmsprop.torch.groups import EXECUTION, FIELDS, check_group, lr_number, rule_of
from rmsprop.torch.tensors import TensorList

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

_COMPUTE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}  # else a dtype computes in itself
_STATE = ("square_avg", "grad_avg", "momentum_buffer")


class RMSprop(Optimizer):
    r"""RMSprop with every variant; a drop-in for `torch.optim.RMSprop`, whose arguments and defaults come first.

    For a parameter p with gradient g, at each step (η = lr, β = alpha, ε = eps, μ = momentum, λ = weight_decay)::

        g ← g + λ·p
        v ← β·v + (1−β)·g²
        m ← m + (1−β)·(g − m)          s ← max(v − m², κ·v)     if centered, else s ← v
        b ← μ·b + g/(√s + ε)
        p ← p − η·b                    (without momentum: p ← p − η·g/(√s + ε))

    `rmsprop.rule` has the equations with all variants; `optimizer.rule().explain()` those that are active.

    Parameters
    ----------
    params
        Tensors, named tensors, or groups (dicts) that may override every argument below up to `differentiable`
        and every variant.
    lr
        Learning rate η; a one-element Tensor is read at every step, or with `capturable` stays on its device.
    alpha
        Decay β of the averages, in [0, 1).
    eps
        ε of the denominator; may be 0.
    weight_decay
        λ, added to the gradient (L2) unless `decoupled_weight_decay`.
    momentum
        μ in [0, 1).
    centered
        Divide by the standard deviation of the gradient.
    capturable
        Keep the step counter on the parameter's device, for graph capture.
    foreach
        Update many tensors per call (more memory). None: on CUDA as torch decides, elsewhere no.
    maximize
        Ascend.
    differentiable
        Let autograd record the step.
    fused
        None or False: tensor operations. True raises: this version has no native kernel.
    nesterov
        Nesterov momentum; needs momentum > 0.
    eps_inside_sqrt
        √(v + ε) instead of √v + ε.
    initial_square_avg
        Start of v; 1 in TensorFlow 1.
    lr_in_momentum
        Gather η·g/d in the momentum buffer instead of g/d.
    bias_correction
        Divide the averages by 1 − βᵗ.
    decoupled_weight_decay
        Shrink p by η·λ before the step instead of adding λ·p to the gradient.
    state_dtype, stochastic_rounding, sparse, nonfinite
        Only the defaults are accepted by this version: state in the parameter's dtype (float32 for float16 and
        bfloat16), rounding to nearest, dense gradients, and gradients used as they come.

    Raises
    ------
    InputError
        A ValueError, for an argument out of range: its name, the range, the value and a remedy.

    Notes
    -----
    Differences from `torch.optim.RMSprop`: `centered` cannot take the root of a negative number; float16 and bfloat16
    parameters are computed in float32 with float32 state; eps = 0 gives no NaN; momentum or centered may be switched
    on during a run; alpha and momentum must be below 1; `capturable` and a Tensor lr with `foreach`
    work on the CPU, too.

    Examples
    --------
    >>> import torch
    >>> from rmsprop.torch import RMSprop
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = RMSprop([weight], lr=0.01, alpha=0.9)
    >>> weight.grad = torch.tensor([10.0, 0.01])
    >>> optimizer.step()
    >>> weight.data
    tensor([0.9684, 0.9684])
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        fused: bool | None = None,
        nesterov: bool = False,
        eps_inside_sqrt: bool = False,
        initial_square_avg: float = 0.0,
        lr_in_momentum: bool = False,
        bias_correction: bool = False,
        decoupled_weight_decay: bool = False,
        state_dtype: str | None = None,
        stochastic_rounding: bool = False,
        sparse: str = "exact",
        nonfinite: str = "propagate",
    ) -> None:
        for name, value, accepted in (
            ("fused", fused, (None, False)),
            ("state_dtype", state_dtype, (None,)),
            ("stochastic_rounding", stochastic_rounding, (False,)),
            ("sparse", sparse, ("exact",)),
            ("nonfinite", nonfinite, ("propagate",)),
        ):
            if value not in accepted:
                allowed = " or ".join(map(repr, accepted)) + " in this version"
                raise InputError(name, allowed, value, f"leave {name} out")
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "nesterov": nesterov,
            "eps_inside_sqrt": eps_inside_sqrt,
            "initial_square_avg": initial_square_avg,
            "lr_in_momentum": lr_in_momentum,
            "bias_correction": bias_correction,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        check_group(defaults)
        super().__init__(params, defaults)

    @classmethod
    def from_rule(cls, params: Params, rule: Rule, **execution: Any) -> RMSprop:
        """Return an optimizer that follows `rule`; `execution` takes the arguments that are no part of a rule."""
        return cls(params, **{name: getattr(rule, field) for name, field in FIELDS.items()}, **execution)

    def rule(self, group: int = 0) -> Rule:
        """Return the rule that parameter group number `group` follows now (a Tensor lr is read)."""
        hyperparameters = self.param_groups[group]
        return dataclasses.replace(rule_of(hyperparameters), lr=max(0.0, lr_number(hyperparameters["lr"])))

    def effective_lr(self, param: Tensor) -> Tensor:
        """Return η/d, the effective learning rate of every element of `param`, as of its last step.

        The shape is that of `param` (for a complex one that of `torch.view_as_real(param)`), the dtype that of its
        state. 0 stands where d = 0. Raises InputError if `param` has made no step with this optimizer.
        """
        group = next((g for g in self.param_groups if any(p is param for p in g["params"])), None)
        state = self.state.get(param)
        if group is None or not state:
            found = Received("one without state")
            raise InputError("param", "a parameter that this optimizer has stepped", found, "call step() first")
        rule = rule_of(group)
        v, m = _real(state["square_avg"]), state.get("grad_avg")
        power = tensors.bias_power(rule, [state["step"]], capturable=False)[0] if rule.bias_correction else None
        d = tensors.denominator(rule, v, None if m is None else _real(m), power, v.dtype)
        return cast("Tensor", group["lr"] / d)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group (see `torch.optim.Optimizer.add_param_group`); its values are checked before it is added."""
        if isinstance(param_group, dict):
            check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, field in FIELDS.items():
                group.setdefault(name, getattr(Rule, field))
            for name, default in EXECUTION.items():
                group.setdefault(name, default)
            for p in group["params"]:
                own = self.state.get(p)
                if own and not isinstance(own["step"], Tensor):
                    own["step"] = _step_counter(p, group["capturable"], float(own["step"]))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class or of `torch.optim.RMSprop`.

        As in torch, the saved groups replace the present ones; what they do not speak of (the variants, in a dict
        from torch) stays as it is. State of float16 and bfloat16 parameters is loaded in float32, not rounded.
        """
        loaded: dict[str, Any] = {}

        def complete(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            loaded.update(given, param_groups=_completed(self.param_groups, given))
            return loaded

        # Registered last, it sees what the other hooks made of the dict.
        handle = self.register_load_state_dict_pre_hook(complete)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        for group, saved in zip(self.param_groups, loaded["param_groups"], strict=True):
            for p, key in zip(group["params"], saved["params"], strict=True):
                if p.dtype in _COMPUTE:
                    for name, value in loaded["state"].get(key, {}).items():
                        if name in _STATE:
                            self.state[p][name] = value.to(device=p.device, dtype=_COMPUTE[p.dtype])

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step; `closure`, if given, reevaluates the model and returns the loss, which is returned."""
        self._accelerator_graph_capture_health_check()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Everything that may raise comes before the first change.
        work = [(group, rule_of(group), self._with_gradient(group)) for group in self.param_groups]
        for group, rule, slots in work:
            for slot_list in _together(group, slots):
                _step_together(group, rule, slot_list)
        return loss

    def _with_gradient(self, group: dict[str, Any]) -> list[_Slot]:
        """Return the parameters of `group` that have a gradient, with their state, made where it is missing."""
        slots = []
        for i, p in enumerate(group["params"]):
            if p.grad is None:
                continue
            if p.grad.layout != torch.strided:
                raise RuntimeError(
                    f"RMSprop needs dense gradients, got {p.grad.layout} for parameter {i} of shape {tuple(p.shape)}; "
                    "make the layer dense, for example nn.Embedding(..., sparse=False)"
                )
            state, fill = self.state[p], group["initial_square_avg"]
            if "step" not in state:
                state["step"] = _step_counter(p, group["capturable"])
            if "square_avg" not in state:
                state["square_avg"] = _state_like(p, complex(fill, fill) if p.is_complex() else fill)
            own = state["square_avg"].dtype
            dtype = own if own == p.dtype else torch.promote_types(own, _COMPUTE.get(p.dtype, p.dtype))
            if dtype != own:  # the model was moved to a wider dtype: its state follows
                state.update({name: state[name].to(dtype) for name in _STATE if name in state})
            if group["centered"] and "grad_avg" not in state:
                state["grad_avg"] = _state_like(p, 0).to(dtype)
            if group["momentum"] and "momentum_buffer" not in state:
                state["momentum_buffer"] = _state_like(p, 0).to(dtype)
            slots.append(
                _Slot(
                    _real(p),
                    _real(p.grad),
                    state["step"],
                    _real(state["square_avg"]),
                    _real(state["grad_avg"]) if group["centered"] else None,
                    _real(state["momentum_buffer"]) if group["momentum"] else None,
                )
            )
        return slots


class _Slot(NamedTuple):
    """One parameter and what a step reads and writes for it; complex tensors are seen as real ones."""

    p: Tensor
    g: Tensor
    step: Tensor
    v: Tensor
    m: Tensor | None
    b: Tensor | None


def _completed(groups: list[dict[str, Any]], given: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the groups of the state dict `given`, what they leave out taken from `groups`; check all of it."""
    saved_groups = given["param_groups"]
    if [len(g["params"]) for g in groups] != [len(g["params"]) for g in saved_groups]:
        return cast("list[dict[str, Any]]", saved_groups)  # torch refuses it
    completed = []
    for number, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        completed.append({**group, **saved})
        check_group(completed[-1])
        for i, (p, key) in enumerate(zip(group["params"], saved["params"], strict=True)):
            own = given["state"].get(key, {})
            if own and "square_avg" not in own:
                found = Received(f"one with {', '.join(map(str, own))}")
                raise InputError(
                    "the state dict", "one of RMSprop, with square_avg", found, "load it into its optimizer"
                )
            for name, value in own.items():
                if name in _STATE and value.shape != p.shape:
                    where = f"{name} of parameter {i} in group {number} of the state dict"
                    found = Received(f"shape {tuple(value.shape)}")
                    raise InputError(where, f"of shape {tuple(p.shape)}", found, "load it for the model that made it")
    return completed


def _together(group: dict[str, Any], slots: list[_Slot]) -> list[list[_Slot]]:
    """Return the slots in lists that one call can update: by device and dtype with foreach, else one by one."""
    foreach = group["foreach"]
    if foreach is None:
        params = [slot.p for slot in slots]
        foreach = _default_to_fused_or_foreach(params, group["differentiable"], use_fused=False)[1]
    if not foreach:
        return [[slot] for slot in slots]
    lists: dict[tuple[torch.device, torch.dtype, torch.dtype], list[_Slot]] = {}
    for slot in slots:
        lists.setdefault((slot.p.device, slot.p.dtype, slot.v.dtype), []).append(slot)
    return list(lists.values())


def _step_together(group: dict[str, Any], rule: Rule, slots: list[_Slot]) -> None:
    """Update the parameters and state of `slots`, which share device and dtype."""
    for slot in slots:
        slot.step.add_(1)
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if not (group["capturable"] or group["differentiable"]):
            lr = lr.item()
        elif lr.dim():
            lr = lr.squeeze()
    given, dtype = slots[0].p.dtype, slots[0].v.dtype
    work = slots
    if given != dtype:  # half precision computes in that of its state
        work = [slot._replace(p=slot.p.to(dtype), g=slot.g.to(dtype)) for slot in slots]
    power: Any = None
    if rule.bias_correction:
        power = tensors.bias_power(rule, [slot.step for slot in slots], capturable=group["capturable"])
    if len(work) == 1:
        p, g, _, v, m, b = work[0]
        tensors.step(rule, lr, p, g, v, m, b, power and power[0], dtype)
    else:
        lists: list[Any] = [None if column[0] is None else TensorList(column) for column in zip(*work, strict=True)]
        p, g, _, v, m, b = lists
        tensors.step(rule, lr, p, g, v, m, b, power, dtype)
    if given != dtype:
        for slot, computed in zip(slots, work, strict=True):
            slot.p.copy_(computed.p)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _state_like(p: Tensor, value: complex) -> Tensor:
    dtype = _COMPUTE.get(p.dtype, p.dtype)
    return torch.full_like(p, value, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)


def _step_counter(p: Tensor, capturable: bool, value: float = 0.0) -> Tensor:
    dtype = _get_scalar_dtype()  # type: ignore[no-untyped-call]
    return torch.tensor(value, dtype=dtype, device=p.device if capturable else "cpu")
