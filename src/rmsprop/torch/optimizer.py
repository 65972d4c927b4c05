"""Define the optimizer class `RMSprop`. Module `step` executes its steps, `state_dict` saves and loads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rmsprop.errors import InputError
from rmsprop.hyperparameters import check_fields
from rmsprop.profiles import VERSION, VERSION_KEY
from rmsprop.rule import Rule
from rmsprop.torch import state_dict as state_dicts
from rmsprop.torch import step as stepping
from rmsprop.torch.effective_lr import effective_lr
from rmsprop.torch.engines.report import describe, expected
from rmsprop.torch.engines.sparse_rows import catch_up_all
from rmsprop.torch.groups import (
    EXECUTION,
    FIELDS,
    answers_other_names,
    check_params,
    check_values,
    complete_groups,
    lr_number,
    nothing_to_round,
    other_names,
    rule_of,
    warn_of_other_names,
)
from rmsprop.torch.observer import Observer, check_observer, on_new
from rmsprop.torch.private import TRACES, global_post_hooks, global_pre_hooks, profiler_enabled, untraced
from rmsprop.torch.state_dict_checks import checked
from rmsprop.torch.step_state import StepState

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class RMSprop(Optimizer):
    r"""RMSprop with every variant: a drop-in for `torch.optim.RMSprop`, whose arguments and defaults come first.

    For a parameter p with gradient g, at each step (η = lr, β = alpha, ε = eps, μ = momentum, λ = weight_decay)::

        g ← g + λ·p
        v ← β·v + (1−β)·g²
        m ← m + (1−β)·(g − m)          s ← max(v − m², κ·v)     if centered, else s ← v
        b ← μ·b + g/(√s + ε)
        p ← p − η·b                    (without momentum: p ← p − η·g/(√s + ε))

    With `first_moment`, b averages gradients: b ← b + (1−μ)·(g − b) and p ← p − η·b/(√s + ε).

    `rmsprop.rule` has the equations of all variants. `optimizer.rule().explain()` returns the active ones.

    Parameters
    ----------
    params
        Tensors, named tensors, or groups (dicts). A group may override every argument below. Other keys are kept for
        their owner, such as a wrapper.
    lr
        Learning rate η. A one-element Tensor is read at every step; with `capturable` or `differentiable` it stays on
        its device. On the CPU, the value is checked at every step; elsewhere, when the group is added or loaded.
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
        Update many tensors per call (more memory). None: as torch decides on accelerators; on the CPU, no.
    maximize
        Ascend.
    differentiable
        Let autograd record the step.
    fused
        None: the native kernel steps the CPU tensors that it supports, a Triton kernel those on GPUs (see
        `implementation`). Tensor operations step the others, and all tensors if `foreach` or `differentiable` is given;
        on the CPU also with `capturable`. True: raise if no kernel can step a parameter. False: no kernel.
    nesterov
        Nesterov momentum; needs momentum > 0.
    eps_inside_sqrt
        √(v + ε) instead of √v + ε.
    initial_square_avg
        Initial v; 1 in TensorFlow 1.
    lr_in_momentum
        Accumulate η·g/d in the momentum buffer instead of g/d. Not with `first_moment`, whose buffer has no η.
    bias_correction
        Divide the averages by 1 − βᵗ, and the average of gradients (`first_moment`) by 1 − μᵗ.
    decoupled_weight_decay
        Shrink p by η·λ before the step instead of adding λ·p to the gradient.
    first_moment
        Momentum averages the gradient before the division. With `bias_correction` this is Adam, with
        `decoupled_weight_decay` AdamW, with `nesterov` NAdam.
    momentum_decay
        Decay of NAdam's momentum schedule: 4e-3 in torch.optim.NAdam, 0 for constant momentum.
    amsgrad
        Divide by the maximum that the square average has reached; it never falls again.
    state_dtype
        The dtype of the averages. None: float32, or the parameter's dtype for float64 and complex parameters.
        "bfloat16": two bytes for each number, rounded stochastically. "uint8": one byte for each number and one more
        for every 32 (see `rmsprop.torch.low_precision`).
    stochastic_rounding
        Round bfloat16 parameters up or down at random. The expectation is exact: small steps are not lost. An integer
        is the seed of the noise (True is 1). The noise depends on the seed, the parameter's index in the optimizer, the
        step and the element, not on threads or devices. Replicas need the same seed.
    sparse
        How sparse gradients are stepped. "exact": as dense ones. A row without gradient catches up when it is next
        touched. "lazy": rows without gradient keep their averages, as in TensorFlow.
    nonfinite
        What happens to gradient elements that are not finite or whose square is not (from 1.8e19 in float32).
        "propagate": they enter the averages (in eight bits, their block of 32 becomes NaN). "skip": the whole step is
        skipped, on every rank of torch.distributed; every rank must call `step`. "zero": they count as 0.
        `nonfinite_steps` counts the steps with such elements, except for "propagate".

    Raises
    ------
    InputError
        A ValueError, for an argument out of range: its name, the range, the value and a remedy. From `step`, for
        tensors or groups that cannot be stepped (memory, shapes, devices, values). No parameter, average or counter has
        then changed.

    Notes
    -----
    Differences from `torch.optim.RMSprop`:

    - `centered` never takes the root of a negative number. eps = 0 gives no NaN.
    - float16 and bfloat16 parameters are computed in float32 with float32 state.
    - `momentum` or `centered` may be switched on during a run. `alpha` and `momentum` must be below 1.
    - `capturable` works on the CPU, too, and so does a Tensor lr with `foreach`.
    - The step counter is float64, since float32 counts to 2²⁴ only. Each class loads the other's counter.
    - If a parameter and its averages differ in shape, `step` raises before the first change.

    With `fused=True`, as with torch's fused optimizers, `step` divides by the scale of `torch.amp.GradScaler` and skips
    its steps. Hooks then see scaled gradients.

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

    @answers_other_names
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
        first_moment: bool = False,
        momentum_decay: float = 0.0,
        amsgrad: bool = False,
        state_dtype: str | None = None,
        stochastic_rounding: bool | int = False,
        sparse: str = "exact",
        nonfinite: str = "propagate",
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name in FIELDS or name in EXECUTION}
        defaults = check_values(arguments)
        if isinstance(params, torch.nn.Module):
            raise TypeError(f"params must be tensors or groups, got a {type(params).__name__}; pass model.parameters()")
        if fused:
            stepping.check_fused_available()
        Optimizer.__init__(self, params, defaults)  # not super(): see rmsprop.torch.install
        self.step_state = StepState()
        # The default must apply to at least one bfloat16 parameter. Explicit groups are checked when they are added.
        rounded = [p.dtype for g in self.param_groups if g["stochastic_rounding"] for p in g["params"]]
        if stochastic_rounding and torch.bfloat16 not in rounded:
            raise nothing_to_round(stochastic_rounding)
        for tell in on_new:
            tell(self)

    @classmethod
    def from_rule(cls, params: Params, rule: Rule, **execution: Any) -> RMSprop:
        """Return an optimizer that follows `rule`; `execution` are the arguments that are not in a rule."""
        if not isinstance(rule, Rule):
            raise InputError("rule", "a rmsprop.Rule", rule, 'pass Rule(lr=0.01) or profile("tf1", lr=0.01)')
        check_fields(rule, FIELDS.values(), "rmsprop.torch")
        if twice := execution.keys() & FIELDS.keys():
            name = min(twice)
            raise InputError(name, "omitted with a rule", execution[name], "change the rule by dataclasses.replace")
        return cls(params, **{name: getattr(rule, field) for name, field in FIELDS.items()}, **execution)

    def rule(self, group: int = 0) -> Rule:
        """Return the current rule of the parameter group with index `group`, with the value of a Tensor lr."""
        complete_groups(self.param_groups, self.defaults)
        hyperparameters = self.param_groups[group]
        return dataclasses.replace(rule_of(hyperparameters), lr=max(0.0, lr_number(hyperparameters["lr"])))

    def effective_lr(self, param: Tensor) -> Tensor:
        """Return η/d, the effective learning rate of every element of `param`, as of its last step.

        The shape is that of `param` (of `torch.view_as_real(param)` if complex), the dtype the compute dtype. Elements
        with d = 0 have 0. Averages in bfloat16 or eight bits are read as stored: rounded after the step. Raises
        InputError if this optimizer has not stepped `param`.
        """
        return effective_lr(self.param_groups, self.state, self.step_state.lags, param)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Check a group and add it (see `torch.optim.Optimizer.add_param_group`).

        Keys that are not arguments of this class are kept for their owner, such as a wrapper. A key that is another
        library's name of an argument gives one warning.
        """
        if isinstance(param_group, dict):  # torch raises for anything else
            others = other_names(param_group)
            values = check_values({**self.defaults, **param_group})
            explicit_rounding = param_group.get("stochastic_rounding", False)
        untraced(self, super().add_param_group)(param_group)
        group = self.param_groups[-1]
        try:
            check_params(group, explicit_rounding)
        except InputError:
            self.param_groups.pop()
            raise
        group.update({name: values[name] for name in (*FIELDS, *EXECUTION)})
        # In the live group, too: torch's tools compare its keys with those of `state_dict()`.
        group.setdefault(VERSION_KEY, VERSION)
        if not any(others.keys() & earlier.keys() for earlier in self.param_groups[:-1]):
            warn_of_other_names(others)

    def __getstate__(self) -> dict[str, Any]:
        catch_up_all(self.state, self.step_state.lags)
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        Optimizer.__setstate__(self, state)
        if "step_state" not in self.__dict__:  # copied or unpickled
            self.step_state = StepState()
        self.step_state.lags.clear()  # of the replaced state
        state_dicts.upgrade(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups, as `torch.optim.Optimizer.state_dict` describes them.

        Groups and states have the keys of the live ones, since torch's tools compare these. Each group has
        `state_version`, the version of this form. The state of a parameter with eight-bit averages has the `shape` of
        the parameter, which loading checks. NumPy numbers in groups become Python numbers, which `torch.load` reads
        with weights_only. As in torch, the tensors are the live ones. Parameters with exact sparse gradients are the
        exception: their state is copied, since rows may lag after the next step.
        """
        return state_dicts.make(self, untraced(self, super().state_dict))

    def load_state_dict(self, state_dict: Mapping[str, Any], source: str | None = None) -> None:
        """Load a state dict of this class, `torch.optim.RMSprop`, timm's `RMSpropTF` or SB3's `RMSpropTFLike`.

        State dicts of `torch.optim.Adam`, `AdamW` and `NAdam` need an optimizer with `first_moment`: `from_rule` with
        `rmsprop.profile("adam")`, `"adamw"` or `"nadam"`.

        Parameters
        ----------
        state_dict
            What `state_dict()` returned. The groups identify the library, except for SB3 and torch before 1.12.
        source
            The library, if the groups do not identify it: "torch" or "sb3".

        Raises
        ------
        InputError
            For the first mismatch that `check_state_dict` returns. Nothing is loaded then.

        Warns
        -----
        UserWarning
            If an average changes its dtype, and if the `state_dtype` of the dict replaces another one.

        Notes
        -----
        As in torch, the saved groups replace the present ones. Arguments that the saved groups lack stay: the variants,
        for a dict from torch. A variant that would misread torch's averages raises InputError. Groups of timm and SB3
        determine the whole rule: ε inside the root, averages that start at 1, and for timm whether `momentum_buffer`
        holds η·g/d. The run continues as in that library. timm's `caution` with momentum and `corrected_weight_decay`
        with weight decay raise InputError: no other RMSprop has these rules.

        State is looked up by the keys in `params` of the groups, by the same keys as text (some stores turn 0 into
        "0"), and by `param_names`. Group keys that are not arguments of this class belong to a wrapper and are kept. If
        loading fails, also in a hook, nothing has changed.

        As in torch, the optimizer shares tensors of the dict that need no conversion: `copy.deepcopy` the dict of an
        optimizer that trains on. Unlike in torch, `differentiable` of this optimizer's groups stays.

        Averages keep their saved dtype: float32 for parameters in half precision, bfloat16 or eight bits with the
        `state_dtype` of their group. torch casts them to the parameter's dtype.

        Examples
        --------
        >>> import torch
        >>> from rmsprop.torch import RMSprop
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> other = torch.optim.RMSprop([weight], lr=0.5, momentum=0.9)
        >>> optimizer = RMSprop([weight])
        >>> optimizer.check_state_dict(other.state_dict())
        []
        >>> optimizer.load_state_dict(other.state_dict())
        >>> optimizer.rule().momentum
        0.9
        """
        state_dicts.load(self, state_dict, source, untraced(self, super().load_state_dict))

    def check_state_dict(self, state_dict: Mapping[str, Any], source: str | None = None) -> list[str]:
        """Return a sentence for each mismatch that prevents loading a state dict, and change nothing.

        The arguments are those of `load_state_dict`, which raises the first mismatch. Load hooks are not called.

        Examples
        --------
        >>> import torch
        >>> from rmsprop.torch import RMSprop
        >>> saved = RMSprop([torch.ones(2)]).state_dict()
        >>> for sentence in RMSprop([torch.ones(2), torch.ones(3)]).check_state_dict(saved):
        ...     print(sentence.partition(":")[0])
        the state dict must be of 1 group with 2 parameters, got 1 group with 1 parameter
        """
        complete_groups(self.param_groups, self.defaults)
        return [str(error) for error in checked(self.param_groups, state_dict, source)[1]]

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Execute one step. If `closure` is given, call it first to reevaluate the model, and return its loss.

        Step hooks get `closure` as a keyword argument. torch's optimizers pass it to hooks as the caller did.
        """
        try:
            if self._has_hooks():
                return _step_with_hooks(self) if closure is None else _step_with_hooks(self, closure=closure)
            return self._step(closure)
        except BaseException:  # a stale grad_scale would multiply the next scale of GradScaler
            for name in ("grad_scale", "found_inf"):
                self.__dict__.pop(name, None)
            raise

    # Keeps torch from wrapping `step` in a profiler record, which takes longer than the step of a small network.
    step.hooked = True  # type: ignore[attr-defined]
    # Keeps schedulers from wrapping `step`: dynamo traces no wrapper. `_opt_called` tells them that `step` was called.
    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]

    def _has_hooks(self) -> bool:
        """Return whether `step` must call hooks or the profiler. torch wraps the `step` of a subclass for that."""
        hooks = (  # len: dynamo guards on len, but not on whether a dict is empty
            len(self._optimizer_step_pre_hooks)
            or len(self._optimizer_step_post_hooks)
            or len(global_pre_hooks)
            or len(global_post_hooks)
            or (not torch.compiler.is_compiling() and profiler_enabled())
        )
        return bool(hooks) and type(self).step is RMSprop.step

    def _step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf, grad_scale = self.__dict__.get("found_inf"), self.__dict__.get("grad_scale")  # from GradScaler
        if torch.compiler.is_compiling():
            if TRACES:
                from rmsprop.torch import compiled  # imports torch's compiler

                compiled.step(self, grad_scale, found_inf)
            else:
                stepping.untraced_step(self, grad_scale, found_inf)
        else:
            self._opt_called = True  # for schedulers
            stepping.step(self, self.param_groups, self.state, grad_scale, found_inf)
        return loss

    def watch(self, observer: Observer | None) -> None:
        """Report every step to `observer`, from the next one on; None ends the reports.

        `rmsprop.monitor.Monitor` is an observer. `rmsprop.torch.observer.Observer` lists the methods of an observer.
        Statistics of a sparse gradient cover the rows that it touches. Statistics of a DTensor cover this rank's shard.

        Raises
        ------
        InputError
            If there is an observer already, or if gradients are released (`release_gradients`). Steps of
            `torch.compile(optimizer.step)` raise while there is an observer.
        """
        if observer is not None:
            check_observer(observer, self.step_state.observer, released="released" in self.__dict__)
        self.step_state.observer = observer

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients to None or, with `set_to_none=False`, to zero; see `torch.optim.Optimizer`."""
        if TRACES and torch.compiler.is_compiling():
            from rmsprop.torch import compiled

            compiled.zero_grad(self, set_to_none)
            return
        if not set_to_none or profiler_enabled():
            untraced(self, super().zero_grad)(set_to_none)
            return
        for group in self.param_groups:  # without torch's profiler record, as in `step`
            for p in group["params"]:
                p.grad = None

    @property
    def nonfinite_steps(self) -> int:
        """Return how many steps of this object met a non-finite gradient, with nonfinite "skip" or "zero".

        Steps that a GradScaler skips are not counted. State dicts do not hold the count.
        """
        count = self.step_state.nonfinite_steps
        return 0 if count is None else int(count)

    @property
    def implementation(self) -> str:
        """Return in words how the last step ran: by a kernel, by tensor operations and why, or by several of them.

        Before the first step, describe the expected engines, from parameters and groups.
        """
        complete_groups(self.param_groups, self.defaults)
        report = self.step_state.report
        if not any(taken or left for _, taken, left in report):
            report = expected([engine() for engine in stepping.ENGINES], self.param_groups)
        return describe(report, self.param_groups)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Return whether GradScaler leaves dividing and skipping to `step`: with fused=True, as in torch.

        Also with released gradients: a hook before `step` then sees the scaler and raises.
        """
        return "released" in self.__dict__ or all(bool(group.get("fused")) for group in self.param_groups)


@Optimizer.profile_hook_step
def _step_with_hooks(optimizer: RMSprop, closure: Callable[[], float] | None = None) -> float | None:
    return optimizer._step(closure)
