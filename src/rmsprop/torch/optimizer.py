"""The optimizer class: its arguments, groups and state. `step` executes a step, `state_dict` saves and loads."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rmsprop.errors import InputError, Received
from rmsprop.hyperparameters import check_fields
from rmsprop.profiles import VERSION, VERSION_KEY
from rmsprop.rule import Rule
from rmsprop.torch import state_dict as state_dicts
from rmsprop.torch import step as stepping
from rmsprop.torch.engines import arithmetic, cpu_kernel
from rmsprop.torch.engines.report import describe, expected
from rmsprop.torch.engines.sparse_rows import catch_up, catch_up_all
from rmsprop.torch.groups import EXECUTION, FIELDS, check_values, lr_number, other_names, rule_of
from rmsprop.torch.observer import Observer, refuse
from rmsprop.torch.private import (
    TRACES,
    global_post_hooks,
    global_pre_hooks,
    outside_graphs,
    profiler_enabled,
    untraced,
)
from rmsprop.torch.state import average, check_shapes, kappa_of, state_dtype, step_counter
from rmsprop.torch.state_dict_checks import checked
from rmsprop.torch.step_state import StepState

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
        and every variant. Other keys are kept for their owner, such as a wrapper.
    lr
        Learning rate η; a one-element Tensor is read at every step, or with `capturable` stays on its device. One on
        the CPU is checked at every step, one on another device is followed whatever it is.
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
    state_dtype
        None: averages are float32, for float64 and complex parameters in the parameter's dtype. "bfloat16": two bytes
        each, rounded stochastically. "uint8": one byte each and one more for every 32 (see
        `rmsprop.torch.low_precision`).
    stochastic_rounding
        Round bfloat16 parameters up or down at random so that the mean is right: no step is lost, however small. An
        integer is the seed of the noise (True is 1). The noise depends on the seed, the parameter's index in the
        optimizer, the step and the element: threads and devices change no bit. Replicas need the same seed.
    sparse
        What sparse gradients do. "exact": what dense ones would; rows without gradient are caught up with when they are
        next touched. "lazy": rows without gradient keep their averages, as in TensorFlow.
    nonfinite
        What a gradient does that is not finite, or whose square is not (from 1.8e19 in float32). "propagate": it goes
        into the averages (in eight bits, its block of 32 becomes NaN). "skip": the whole step is skipped, on every rank
        of torch.distributed; every rank has to call `step`. "zero": it counts as 0. `nonfinite_steps` counts the steps
        that met one, unless they propagate.

    Raises
    ------
    InputError
        A ValueError, for an argument out of range: its name, the range, the value and a remedy. From `step`, for what
        cannot be stepped (memory, shapes, devices, values in groups): no parameter, average or counter has changed.

    Notes
    -----
    Differences from `torch.optim.RMSprop`: `centered` cannot take the root of a negative number; float16 and bfloat16
    parameters are computed in float32 with float32 state; eps = 0 gives no NaN; momentum or centered may be switched
    on during a run; alpha and momentum must be below 1; `capturable` and a Tensor lr with `foreach`
    work on the CPU, too. The step counter is float64, since float32 counts to 2²⁴ only; either class loads the
    other's. A parameter that has another shape than its averages is refused before anything moves. With `fused=True`,
    as with torch's fused optimizers, `torch.amp.GradScaler` leaves dividing by its scale and skipping to `step`:
    hooks then see scaled gradients.

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
        stochastic_rounding: bool | int = False,
        sparse: str = "exact",
        nonfinite: str = "propagate",
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name in FIELDS or name in EXECUTION}
        defaults = check_values(arguments)
        if fused and cpu_kernel.UNAVAILABLE:
            raise InputError("fused", "None or False here", True, cpu_kernel.UNAVAILABLE)
        super().__init__(params, defaults)
        self.step_state = StepState()
        # The default must apply to at least one bfloat16 parameter. Explicit groups are checked when they are added.
        rounded = [p.dtype for g in self.param_groups if g["stochastic_rounding"] for p in g["params"]]
        if stochastic_rounding and torch.bfloat16 not in rounded:
            raise _unrounded(stochastic_rounding)

    @classmethod
    def from_rule(cls, params: Params, rule: Rule, **execution: Any) -> RMSprop:
        """Return an optimizer that follows `rule`; `execution` takes the arguments that are no part of a rule."""
        if not isinstance(rule, Rule):
            raise InputError("rule", "a rmsprop.Rule", rule, 'say Rule(lr=0.01) or profile("tf1", lr=0.01)')
        check_fields(rule, FIELDS.values(), "rmsprop.torch")
        if twice := execution.keys() & FIELDS.keys():
            name = min(twice)
            raise InputError(name, "left out beside a rule, which has one", execution[name], "use dataclasses.replace")
        return cls(params, **{name: getattr(rule, field) for name, field in FIELDS.items()}, **execution)

    def rule(self, group: int = 0) -> Rule:
        """Return the rule that parameter group number `group` follows now (a Tensor lr is read)."""
        hyperparameters = self.param_groups[group]
        return dataclasses.replace(rule_of(hyperparameters), lr=max(0.0, lr_number(hyperparameters["lr"])))

    def effective_lr(self, param: Tensor) -> Tensor:
        """Return η/d, the effective learning rate of every element of `param`, as of its last step.

        The shape is that of `param` (for a complex one that of `torch.view_as_real(param)`), the dtype that in which
        its steps are computed. 0 stands where d = 0. Averages in fewer bits are read as they are stored, rounded after
        the step. Raises InputError if `param` has made no step with this optimizer.
        """
        group = next((g for g in self.param_groups if any(p is param for p in g["params"])), None)
        state = self.state.get(param, {})
        if group is None or not state.get("step"):
            found = Received("one without state")
            raise InputError("param", "a parameter that this optimizer has stepped", found, "call step() first")
        catch_up(state, self.step_state.lags)
        check_shapes(group, next(i for i, p in enumerate(group["params"]) if p is param), state)
        rule = rule_of(group)
        v = average(state, "square_avg", param)
        m = average(state, "grad_avg", param) if "grad_avg" in state else None
        power = arithmetic.bias_power(rule, [state["step"]], capturable=False)[0] if rule.bias_correction else None
        d = arithmetic.denominator(rule, v, m, power, kappa_of(state["square_avg"].dtype))
        lr = group["lr"]
        return cast("Tensor", (lr if isinstance(lr, Tensor) else float(lr)) / d)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group (see `torch.optim.Optimizer.add_param_group`); its values are checked before it is added.

        Keys that are no arguments of this class are kept for their owner, such as a wrapper. A key by which another
        library calls one of the arguments is warned of, once.
        """
        if isinstance(param_group, dict):  # torch raises for anything else
            others = other_names(param_group)
            values = check_values({**self.defaults, **param_group})
            said = param_group.get("stochastic_rounding", False)
        untraced(self, super().add_param_group)(param_group)
        group = self.param_groups[-1]
        try:
            for p in group["params"]:
                state_dtype(group, p)
            if said and all(p.dtype != torch.bfloat16 for p in group["params"]):
                raise _unrounded(said)
        except InputError:
            self.param_groups.pop()
            raise
        group.update({name: values[name] for name in (*FIELDS, *EXECUTION)})
        # In the group: what torch's own tools load, compare or replace are groups with the keys of `state_dict()`.
        group.setdefault(VERSION_KEY, VERSION)
        if others and not any(others.keys() & earlier.keys() for earlier in self.param_groups[:-1]):
            advice = " and ".join(f"{ours!r} for {name!r}" for name, ours in others.items())
            text = f"rmsprop: {', '.join(others)} in a parameter group is kept as a wrapper's own and changes no step"
            warnings.warn(f"{text}; if meant for this optimizer, say {advice}", stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        catch_up_all(self.state, self.step_state.lags)
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "step_state" not in self.__dict__:  # a copy
            self.step_state = StepState()
        self.step_state.lags.clear()  # the state is another one
        for values in (self.defaults, *self.param_groups):
            for name, field in FIELDS.items():
                values.setdefault(name, getattr(Rule, field))
            for name, default in EXECUTION.items():
                values.setdefault(name, default)
        for group in self.param_groups:
            group[VERSION_KEY] = VERSION
            for p in group["params"]:
                own = self.state.get(p, {})
                if "step" in own and not isinstance(own["step"], Tensor):
                    own["step"] = step_counter(p, group["capturable"], float(own["step"]))

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups, as `torch.optim.Optimizer.state_dict` describes them.

        Its groups and states have the keys of the live ones, which torch's own tools compare. Among them are
        `state_version`, the version of this form, and, where averages are packed in eight bits, the `shape` of their
        parameter, by which they are checked when they are loaded. Numbers of NumPy in groups become Python's, which
        `torch.load` reads with weights_only. As in torch, the tensors are
        the live ones, but for parameters with sparse gradients, whose rows may lag after the next step: of those they
        are copies.
        """
        return state_dicts.make(self, untraced(self, super().state_dict))

    def load_state_dict(self, state_dict: Mapping[str, Any], source: str | None = None) -> None:
        """Load a state dict of this class, `torch.optim.RMSprop`, timm's `RMSpropTF` or SB3's `RMSpropTFLike`.

        Parameters
        ----------
        state_dict
            What `state_dict()` returned; whose it is, its groups tell, but for SB3 and a torch before 1.12.
        source
            Whose it is, where they do not: "torch" or "sb3".

        Raises
        ------
        InputError
            For the first mismatch that `check_state_dict` names; nothing is loaded then.

        Warns
        -----
        UserWarning
            If an average cannot keep its dtype, and if the dict's `state_dtype` replaces another one.

        Notes
        -----
        As in torch, the saved groups replace the present ones, and what they do not speak of (the variants, in a dict
        from torch) stays as it is; where averages of torch would be misread by it, InputError is raised. Groups of timm
        and SB3 speak of all of the rule: ε inside the root, averages that begin at 1, and for timm whether
        `momentum_buffer` holds η·g/d; the run goes on as it would have there. timm's `caution` and
        `corrected_weight_decay` are rules of its own and are refused.

        State is found under the keys in `params` of the groups, under the same as text ("0", as some stores have it),
        and under `param_names`. Keys of groups that are no arguments of this class are a wrapper's and are kept. If
        loading fails, a hook's included, nothing has changed.

        As in torch, tensors of the dict are taken over and not copied where they fit: `copy.deepcopy` that of an
        optimizer that goes on. Unlike in torch, `differentiable` stays as this optimizer's groups have it.

        Averages stay as they were saved: float32 for parameters in half precision, bfloat16 or eight bits with the
        `state_dtype` of their group. torch itself casts them to the parameter's dtype.

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
        """Return what keeps a state dict from being loaded, one sentence for each mismatch; nothing is changed.

        The arguments are those of `load_state_dict`, which raises the first. Hooks on loading are not called.

        Examples
        --------
        >>> import torch
        >>> from rmsprop.torch import RMSprop
        >>> saved = RMSprop([torch.ones(2)]).state_dict()
        >>> for sentence in RMSprop([torch.ones(2), torch.ones(3)]).check_state_dict(saved):
        ...     print(sentence.partition(":")[0])
        the state dict must be of 1 group with 2 parameters, got 1 group with 1 parameter
        """
        return [str(error) for error in checked(self.param_groups, state_dict, source)[1]]

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step; `closure`, if given, reevaluates the model and returns the loss, which is returned.

        Hooks see it by its name, however it was passed; those of torch's optimizers, as it was passed.
        """
        try:
            if self._is_watched():
                return _watched_step(self) if closure is None else _watched_step(self, closure=closure)
            return self._step(closure)
        except BaseException:  # GradScaler would find them at its next step, and multiply scales
            for name in ("grad_scale", "found_inf"):
                self.__dict__.pop(name, None)
            raise

    # torch would wrap step in a record for the profiler, which takes longer than the step of a small network.
    step.hooked = True  # type: ignore[attr-defined]
    # Schedulers would wrap it to learn whether it was called, which `_opt_called` tells, and dynamo traces no wrapper.
    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]

    def _is_watched(self) -> bool:
        """Return whether hooks or the profiler want to know of the step (a subclass's own step tells them itself)."""
        watchers = (  # len: dynamo guards on it, and not on whether a dict is empty
            len(self._optimizer_step_pre_hooks)
            or len(self._optimizer_step_post_hooks)
            or len(global_pre_hooks)
            or len(global_post_hooks)
            or (not torch.compiler.is_compiling() and profiler_enabled())
        )
        return bool(watchers) and type(self).step is RMSprop.step

    def _step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf, grad_scale = self.__dict__.get("found_inf"), self.__dict__.get("grad_scale")  # from GradScaler
        if torch.compiler.is_compiling():
            if TRACES:
                from rmsprop.torch import compiled  # which imports torch's compiler

                compiled.step(self, grad_scale, found_inf)
            else:
                _untraced_step(self, grad_scale, found_inf)
        else:
            self._opt_called = True  # schedulers ask
            stepping.step(self, self.param_groups, self.state, grad_scale, found_inf)
        return loss

    def watch(self, observer: Observer | None) -> None:
        """Report every step to `observer`, from the next one on; None ends the reports.

        `rmsprop.monitor.Monitor` is an observer; `rmsprop.torch.observer.Observer` says what one has to do. Statistics
        of a sparse gradient cover the rows that it touches. Statistics of a DTensor cover this rank's shard.

        Raises
        ------
        InputError
            If there is one already, if gradients are released (`release_gradients`), and from a step of
            `torch.compile(optimizer.step)`.
        """
        if observer is not None and not isinstance(observer, Observer):
            remedy = "rmsprop.monitor.Monitor is one"
            raise InputError("observer", "an object with wanted, measured and skipped, or None", observer, remedy)
        if observer is not None and "released" in self.__dict__:
            found = Received("one with released gradients")
            raise InputError("optimizer", "one whose steps are made at once", found, "call remove() of them first")
        if observer is not None:
            refuse(self.step_state.observer, "another one")
        self.step_state.observer = observer

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients or, with `set_to_none=False`, set them to zero; see `torch.optim.Optimizer`."""
        if TRACES and torch.compiler.is_compiling():
            from rmsprop.torch import compiled

            compiled.zero_grad(self, set_to_none)
            return
        if not set_to_none or profiler_enabled():
            untraced(self, super().zero_grad)(set_to_none)
            return
        for group in self.param_groups:  # without torch's record for the profiler, as in step
            for p in group["params"]:
                p.grad = None

    @property
    def nonfinite_steps(self) -> int:
        """How many steps of this object met a gradient that is not finite, with nonfinite "skip" or "zero".

        Steps that a GradScaler skips are not counted.
        """
        count = self.step_state.nonfinite_steps
        return 0 if count is None else int(count)

    @property
    def implementation(self) -> str:
        """How the last step ran, in words: by the native kernel, by tensor operations and why, or some of each.

        Before the first step, how it will run as far as the parameters tell.
        """
        report = self.step_state.report
        if not any(taken or left for _, taken, left in report):
            report = expected([engine() for engine in stepping.ENGINES], self.param_groups)
        return describe(report, self.param_groups)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether torch's GradScaler leaves dividing and skipping to `step`: with fused=True, as in torch.

        Also with released gradients, so that `step` learns of it and can refuse it.
        """
        return "released" in self.__dict__ or all(bool(group["fused"]) for group in self.param_groups)


def _unrounded(value: Any) -> InputError:
    found = Received(f"{value} without any")
    return InputError("stochastic_rounding", "False without bfloat16 parameters", found, "leave it out")


@outside_graphs
def _untraced_step(optimizer: RMSprop, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
    optimizer._opt_called = True
    stepping.step(optimizer, optimizer.param_groups, optimizer.state, grad_scale, found_inf)


@Optimizer.profile_hook_step
def _watched_step(optimizer: RMSprop, closure: Callable[[], float] | None = None) -> float | None:
    return optimizer._step(closure)
