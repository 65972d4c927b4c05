"""The optimizer class: parameter groups, state and checkpoints around the step in `tensors`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from rmsprop import native
from rmsprop.errors import InputError, Received
from rmsprop.rule import Rule
from rmsprop.torch import compiled, tensors
from rmsprop.torch import fused as fused_module
from rmsprop.torch.fused import Refused, describe, expected, gather
from rmsprop.torch.groups import EXECUTION, FIELDS, check_group, lr_number, rule_of
from rmsprop.torch.loading import completed, reload_unrounded
from rmsprop.torch.slots import Group, Slot, complete_state, real, slot, step_counter, step_slots

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


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
        None: the native kernel for CPU tensors that it can step (see `implementation`), tensor operations for others
        and where `foreach`, `capturable` or `differentiable` is given. True: raise where the kernel cannot. False: no.
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
    work on the CPU, too. With `fused=True`, as with torch's fused optimizers, `torch.amp.GradScaler` leaves dividing
    by its scale and skipping to `step`: hooks then see scaled gradients.

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
            "fused": fused,
            "nesterov": nesterov,
            "eps_inside_sqrt": eps_inside_sqrt,
            "initial_square_avg": initial_square_avg,
            "lr_in_momentum": lr_in_momentum,
            "bias_correction": bias_correction,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        check_group(defaults)
        if fused and fused_module.UNAVAILABLE:
            raise InputError("fused", "None or False here", True, fused_module.UNAVAILABLE)
        super().__init__(params, defaults)
        self._start()

    def _start(self) -> None:
        self._batches: list[Any] = []  # spare ones: they know where the parameters were
        self._refused: list[Refused] = []
        self._stepped = 0

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

        The shape is that of `param` (for a complex one that of `torch.view_asreal(param)`), the dtype that of its
        state. 0 stands where d = 0. Raises InputError if `param` has made no step with this optimizer.
        """
        group = next((g for g in self.param_groups if any(p is param for p in g["params"])), None)
        state = self.state.get(param)
        if group is None or not state or not state["step"]:
            found = Received("one without state")
            raise InputError("param", "a parameter that this optimizer has stepped", found, "call step() first")
        rule = rule_of(group)
        v, m = real(state["square_avg"]), state.get("grad_avg")
        power = tensors.bias_power(rule, [state["step"]], capturable=False)[0] if rule.bias_correction else None
        d = tensors.denominator(rule, v, None if m is None else real(m), power, v.dtype)
        lr = group["lr"]
        return cast("Tensor", (lr if isinstance(lr, Tensor) else float(lr)) / d)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group (see `torch.optim.Optimizer.add_param_group`); its values are checked before it is added."""
        if isinstance(param_group, dict):
            check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_batches" not in self.__dict__:  # a copy
            self._start()
        for group in self.param_groups:
            for name, field in FIELDS.items():
                group.setdefault(name, getattr(Rule, field))
            for name, default in EXECUTION.items():
                group.setdefault(name, default)
            for p in group["params"]:
                own = self.state.get(p)
                if own and not isinstance(own["step"], Tensor):
                    own["step"] = step_counter(p, group["capturable"], float(own["step"]))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class or of `torch.optim.RMSprop`.

        As in torch, the saved groups replace the present ones; what they do not speak of (the variants, in a dict
        from torch) stays as it is. State of float16 and bfloat16 parameters is loaded in float32, not rounded.
        """
        loaded: dict[str, Any] = {}

        def complete(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            loaded.update(given, param_groups=completed(self.param_groups, given))
            return loaded

        def unrounded(_: Optimizer) -> None:
            reload_unrounded(self.param_groups, self.state, loaded)

        # The one sees what the other hooks made of the dict, the others see what the second one made of the state.
        handles = (
            self.register_load_state_dict_pre_hook(complete),
            self.register_load_state_dict_post_hook(unrounded, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step; `closure`, if given, reevaluates the model and returns the loss, which is returned."""
        try:
            if self._is_watched():
                return _watched_step(self) if closure is None else _watched_step(self, closure)
            return self._step(closure)
        except BaseException:  # GradScaler would find them at its next step, and multiply scales
            for name in ("grad_scale", "found_inf"):
                self.__dict__.pop(name, None)
            raise

    # torch would wrap step in a record for the profiler, which takes longer than the step of a small network.
    step.hooked = True  # type: ignore[attr-defined]

    def _is_watched(self) -> bool:
        """Return whether hooks or the profiler want to know of the step (a subclass's own step tells them itself)."""
        watchers = (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or (not torch.compiler.is_compiling() and torch._C._autograd._profiler_enabled())
        )
        return bool(watchers) and type(self).step is RMSprop.step

    def _step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_compiling():
            compiled.step(self)
            return loss
        found_inf, grad_scale = self.__dict__.get("found_inf"), self.__dict__.get("grad_scale")  # from GradScaler
        if found_inf is not None and float(found_inf):
            return loss
        scale = 1.0 if grad_scale is None else float(grad_scale.item())
        try:
            batch = self._batches.pop()
        except IndexError:  # the first step, or another thread is stepping
            batch = native.new_batch()
        # Everything that may raise comes before the first change.
        self._refused = gather(batch, self.param_groups, self.state)
        work = self._left_over(scale) if self._refused else []
        if batch is not None:
            self._stepped = len(batch)
            batch.run(torch.get_num_threads(), native.GRAIN, scale)
            self._batches.append(batch)
        for group, rule, slots in work:
            with torch.set_grad_enabled(self.defaults["differentiable"]):
                step_slots(group, rule, slots)
        if scale != 1:  # torch's fused optimizers leave the gradients so
            for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
                with torch.no_grad():
                    p.grad.div_(scale)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients or, with `set_to_none=False`, set them to zero; see `torch.optim.Optimizer`."""
        if not set_to_none or torch.compiler.is_compiling() or torch._C._autograd._profiler_enabled():
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:  # without torch's record for the profiler, as in step
            for p in group["params"]:
                p.grad = None

    def _init_group(
        self,
        group: Group,
        params: list[Tensor],
        grads: list[Tensor],
        steps: list[Tensor],
        square_avgs: list[Tensor],
        grad_avgs: list[Tensor],
        momentum_buffers: list[Tensor],
    ) -> None:
        """Fill the lists for the parameters with a gradient; torch.compile runs this instead of tracing it."""
        for i, p in enumerate(group["params"]):
            if p.grad is None:
                continue
            state = complete_state(group, i, self.state)
            params.append(p)
            grads.append(p.grad)
            steps.append(state["step"])
            square_avgs.append(state["square_avg"])
            if group["centered"]:
                grad_avgs.append(state["grad_avg"])
            if group["momentum"]:
                momentum_buffers.append(state["momentum_buffer"])

    def _left_over(self, scale: float) -> list[tuple[Group, Rule, list[Slot]]]:
        """Return what the kernel has refused: group, rule and slots."""
        self._accelerator_graph_capture_health_check()
        work = []
        for index, numbers, reason in self._refused:
            group = self.param_groups[index]
            if numbers is None:
                numbers = [i for i, p in enumerate(group["params"]) if p.grad is not None]
            if reason == fused_module.UNAVAILABLE and any(p.device.type == "cpu" for p in group["params"]):
                fused_module.say_once(reason)
            with torch.set_grad_enabled(self.defaults["differentiable"]):
                work.append((group, rule_of(group), [slot(group, i, self.state, scale) for i in numbers]))
        return work

    @property
    def implementation(self) -> str:
        """How the last step ran, in words: by the native kernel, by tensor operations and why, or some of each.

        Before the first step, how it will run as far as the parameters tell.
        """
        if self._stepped or self._refused:
            return describe(self.param_groups, self._stepped, self._refused)
        refused = expected(self.param_groups)
        left = sum(len(self.param_groups[i]["params"]) if numbers is None else 1 for i, numbers, _ in refused)
        return describe(self.param_groups, sum(len(g["params"]) for g in self.param_groups) - left, refused)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether torch's GradScaler leaves dividing and skipping to `step`: with fused=True, as in torch."""
        return all(group["fused"] is True for group in self.param_groups)


_watched_step = Optimizer.profile_hook_step(RMSprop._step)
