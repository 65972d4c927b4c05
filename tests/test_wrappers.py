"""What others do to an optimizer: where torch.optim.RMSprop goes on, this one goes on to the same numbers."""

from __future__ import annotations

import copy
import functools
import io
import math
import pickle
import types
import weakref
from collections import UserDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rmsprop import InputError
from rmsprop.torch import RMSprop

ARGUMENTS: dict[str, Any] = {"lr": 0.1, "alpha": 0.9, "momentum": 0.5, "centered": True, "weight_decay": 0.01}
Case = Callable[["Training"], None]
CASES: dict[str, Case] = {}


class Training:
    """Two parameters in two groups, and an optimizer of `cls` that steps them."""

    def __init__(self, cls: Any, **arguments: Any) -> None:
        self.cls = cls
        self.model = nn.ParameterList([nn.Parameter(torch.tensor([1.0, -2.0, 0.5])), nn.Parameter(torch.ones(2, 2))])
        groups = [{"params": [p]} for p in self.model]
        self.optimizer: Any = cls(groups, **ARGUMENTS, **arguments)
        self.count = 0

    def step(self, times: int = 1, optimizer: Any = None) -> None:
        """Step with the next gradients."""
        for _ in range(times):
            self.count += 1
            for group in self.optimizer.param_groups:
                for p in group["params"]:
                    p.grad = torch.linspace(-1, 1, p.numel(), dtype=p.dtype).view_as(p) * self.count
            (optimizer or self.optimizer).step()

    @property
    def values(self) -> list[list[float]]:
        return [p.detach().double().flatten().tolist() for p in self.model]


def case(function: Case) -> Case:
    CASES[function.__name__.replace("_", " ")] = function
    return function


# -- groups and defaults ----------------------------------------------------------------------------------------------


@case
def keys_of_a_wrapper_in_groups_and_defaults(t: Training) -> None:
    keys = {"rho": 0.05, "adaptive": False, "k": 6, "scheduled_lr": torch.ones(2), "train_mode": True}
    t.optimizer.defaults.update(keys)
    for group in t.optimizer.param_groups:
        group.update(keys)
    t.step(2)
    t.optimizer.load_state_dict(copy.deepcopy(t.optimizer.state_dict()))
    p = nn.Parameter(torch.ones(2))
    t.optimizer.add_param_group({"params": [p]})
    t.model.append(p)
    t.step()


def numbers(wrap: Callable[[Any], Any]) -> Case:
    def change(t: Training) -> None:
        t.step()
        for group in t.optimizer.param_groups:
            for name in (*ARGUMENTS, "eps", "maximize", "capturable", "differentiable"):
                group[name] = wrap(group[name])
        t.step(2)

    return change


CASES |= {
    "numbers that are tensors": numbers(torch.tensor),
    "numbers that are scalars of NumPy": numbers(lambda x: np.asarray(x)[()]),
    "numbers that are arrays of NumPy": numbers(np.asarray),
    "numbers in single precision": numbers(lambda x: np.float32(x) if isinstance(x, float) else np.bool_(x)),
    "flags that are integers": numbers(lambda x: int(x) if isinstance(x, bool) else x),
}


@case
def numbers_that_are_tensors_in_a_file(t: Training) -> None:
    t.step(2)
    saved = t.optimizer.state_dict()
    for group in saved["param_groups"]:
        group |= {name: torch.tensor(group[name]) for name in (*ARGUMENTS, "eps", "maximize")}
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    t.optimizer.load_state_dict(torch.load(file))
    t.step()


@case
def groups_rewritten_with_the_keys_of_torch(t: Training) -> None:
    """As wrappers do that know an optimizer by its `defaults`, or by torch's class."""
    t.step()
    names = [*torch.optim.RMSprop([torch.ones(1)]).defaults]
    for index, group in enumerate(t.optimizer.param_groups):
        t.optimizer.param_groups[index] = {"params": group["params"], **{name: group[name] for name in names}}
    t.step(2)


@case
def groups_in_another_list(t: Training) -> None:
    t.step()
    t.optimizer.param_groups = tuple(dict(group) for group in t.optimizer.param_groups)
    t.step(2)


@case
def groups_that_are_other_mappings(t: Training) -> None:
    t.step()
    t.optimizer.param_groups[:] = [UserDict(group) for group in t.optimizer.param_groups]
    t.step(2)


@case
def a_group_joined_without_a_call_and_another_taken_away(t: Training) -> None:
    t.step()
    p = nn.Parameter(torch.ones(3))
    t.optimizer.param_groups.append({**t.optimizer.param_groups[0], "params": [p]})
    del t.optimizer.param_groups[0]
    t.model.append(p)
    t.step(2)


@case
def parameters_replaced_in_their_group(t: Training) -> None:
    """As master weights in float32 are."""
    t.step()
    for index, group in enumerate(t.optimizer.param_groups):
        (p,) = group["params"]
        group["params"] = [t.model[index]]
        t.model[index] = nn.Parameter(p.detach().clone())
        group["params"][0] = t.model[index]
        t.optimizer.state[t.model[index]] = t.optimizer.state.pop(p)
    t.step(2)


# -- state ------------------------------------------------------------------------------------------------------------


def steps_as(wrap: Callable[[Tensor], Any]) -> tuple[Case, Case]:
    def live(t: Training) -> None:
        t.step(2)
        for state in t.optimizer.state.values():
            state["step"] = wrap(state["step"])
        t.step(2)

    def loaded(t: Training) -> None:
        t.step(2)
        saved = copy.deepcopy(t.optimizer.state_dict())
        for state in saved["state"].values():
            state["step"] = wrap(state["step"])
        t.optimizer.load_state_dict(saved)
        t.step(2)
        assert [float(state["step"]) for state in t.optimizer.state.values()] == [4, 4]

    return live, loaded


WRAPS: dict[str, Callable[[Tensor], Any]] = {
    "an int": int,
    "a float": float,
    "a number of NumPy": lambda x: np.int64(x.item()),
    "an integer tensor": lambda x: x.long(),
    "a tensor of one element": lambda x: x.view(1),
}
for words, wrap in WRAPS.items():
    CASES[f"step is {words}"], CASES[f"step is {words} in a state dict"] = steps_as(wrap)


@case
def state_of_a_wrapper_beside_ours(t: Training) -> None:
    t.step()
    for p, state in t.optimizer.state.items():
        state |= {"z": p.detach().clone(), "slow": [1, 2], "counter": 3}
    t.step()
    t.optimizer.load_state_dict(copy.deepcopy(t.optimizer.state_dict()))
    t.step()
    assert all(state["slow"] == [1, 2] and state["z"].any() for state in t.optimizer.state.values())


@case
def state_emptied(t: Training) -> None:
    t.step()
    t.optimizer.state.clear()
    t.step()
    t.optimizer.state = defaultdict(dict)
    t.step()
    t.optimizer.state[t.model[0]] = {}
    t.step()


@case
def state_in_a_plain_dict(t: Training) -> None:
    t.step()
    t.optimizer.state = dict(t.optimizer.state)
    t.step(2)


@case
def state_replaced_by_copies(t: Training) -> None:
    t.step()
    for p, state in list(t.optimizer.state.items()):
        t.optimizer.state[p] = {name: x.clone() for name, x in state.items()}
    t.step(2)


@case
def an_average_that_is_a_parameter(t: Training) -> None:
    t.step()
    for state in t.optimizer.state.values():
        state["square_avg"] = nn.Parameter(state["square_avg"], requires_grad=False)
    t.step(2)


@case
def state_shared_by_processes(t: Training) -> None:
    """As A3C's SharedRMSprop builds it, before the first step."""
    for p in t.model:
        state = t.optimizer.state[p]
        state["step"] = torch.zeros(1)
        for name in ("square_avg", "grad_avg", "momentum_buffer"):
            state[name] = torch.zeros_like(p.data)
        for x in state.values():
            x.share_memory_()
    t.model.share_memory()
    shared = [x for p in t.model for x in t.optimizer.state[p].values()]
    t.step(2)
    now = [x for p in t.model for x in t.optimizer.state[p].values()]
    assert all(x is y for x, y in zip(now, shared, strict=True))
    assert all(x.is_shared() and x.any() for x in shared)
    assert [t.optimizer.state[p]["step"].tolist() for p in t.model] == [[2], [2]]


# -- methods ----------------------------------------------------------------------------------------------------------


@case
def zero_grad_patched(t: Training) -> None:
    inner, calls = t.optimizer.zero_grad, []

    def zero_grad(set_to_none: bool = False) -> None:
        calls.append(set_to_none)
        inner(set_to_none)

    t.optimizer.zero_grad = zero_grad
    t.step()
    t.optimizer.zero_grad()
    assert calls == [False]
    assert not t.model[0].grad.any()
    t.optimizer = copy.copy(t.optimizer)
    t.step()


@case
def step_patched(t: Training) -> None:
    inner, calls = t.optimizer.step, []

    @functools.wraps(inner)
    def step(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return inner(*args, **kwargs)

    t.optimizer.step = step
    t.step()
    t.optimizer.step = types.MethodType(lambda self, closure=None: step(closure), t.optimizer)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(t.optimizer, 0.5)
    t.step()
    scheduler.step()
    t.step()
    assert calls == [1, 1, 1]


@case
def step_patched_in_a_subclass(t: Training) -> None:
    class Wrapped(t.cls):  # type: ignore[misc,name-defined]
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.mul_(0.5)
            return super().step(closure)

    t.optimizer = Wrapped([{"params": [p]} for p in t.model], **ARGUMENTS)
    t.step(3)


# -- the object -------------------------------------------------------------------------------------------------------


class Delegate:
    """A wrapper of the kind that passes everything on."""

    def __init__(self, inner: Any) -> None:
        self.__dict__["inner"] = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["inner"], name, value)


@case
def a_proxy(t: Training) -> None:
    kept = t.optimizer
    proxies: list[Any] = [Delegate(kept), weakref.proxy(kept)]
    for proxy in proxies:
        t.step(2, proxy)
        proxy.load_state_dict(copy.deepcopy(proxy.state_dict()))
        proxy.param_groups = [dict(group) for group in proxy.param_groups]
        t.step(1, proxy)


class Outer(torch.optim.Optimizer):
    """An optimizer around another, which shares its groups and its state, as Lookahead does."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}
        self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, inner.defaults

    def step(self, closure: Any = None) -> Any:
        slow = [[p.detach().clone() for p in group["params"]] for group in self.param_groups]
        loss = self.inner.step(closure)
        for group, before in zip(self.param_groups, slow, strict=True):
            for p, old in zip(group["params"], before, strict=True):
                p.data.lerp_(old, 0.5)
                self.state[p]["slow"] = old
        return loss


@case
def an_optimizer_inside_others(t: Training) -> None:
    outer = Outer(Outer(t.optimizer))
    scheduler = torch.optim.lr_scheduler.StepLR(outer, 1, 0.5)
    for _ in range(3):
        t.step(1, outer)
        scheduler.step()
    t.optimizer.load_state_dict(copy.deepcopy(t.optimizer.state_dict()))
    t.step()


class Offloaded(torch.optim.Optimizer):
    """Steps a copy of each parameter, with an optimizer for each, as torchao's CPUOffloadOptimizer does on a GPU."""

    def __init__(self, groups: list[dict[str, Any]], cls: Any, arguments: dict[str, Any]) -> None:
        self.copies: dict[Tensor, Tensor] = {}
        self.optimizers: dict[Tensor, Any] = {}
        for group in groups:
            for p in group.pop("params"):
                copied = self.copies[p] = torch.empty_like(p)
                copied.grad = torch.empty_like(p)
                with torch.no_grad():
                    copied.copy_(p)
                p.register_post_accumulate_grad_hook(self._take_gradient)
                self.optimizers[p] = cls([{"params": copied, **group}], **arguments)

    def _take_gradient(self, p: Tensor) -> None:
        gradient = self.copies[p].grad
        assert gradient is not None
        assert p.grad is not None
        gradient.copy_(p.grad)

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return [group for each in self.optimizers.values() for group in each.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for p, each in self.optimizers.items():
            each.step()
            with torch.no_grad():
                p.copy_(self.copies[p])
            p.grad = None


@case
def an_optimizer_for_each_parameter(t: Training) -> None:
    arguments = {**ARGUMENTS, **{name: value for name, value in t.optimizer.defaults.items() if name == "fused"}}
    offloaded = Offloaded([{"params": [p], "lr": 0.05} for p in t.model], t.cls, arguments)
    schedule = torch.optim.lr_scheduler.StepLR(offloaded, step_size=1)
    for restart in (False, True, False):
        if restart:
            for each in offloaded.optimizers.values():
                each.load_state_dict(copy.deepcopy(each.state_dict()))
        for p in t.model:
            (p * torch.linspace(-1, 1, p.numel()).view_as(p)).sum().backward()
        offloaded.step()
        schedule.step()
    assert [group["lr"] for group in offloaded.param_groups] == pytest.approx([5e-5, 5e-5])


@case
def attributes_taken_by_another_object(t: Training) -> None:
    """As Lightning wraps: an object of a new class with the attributes of the optimizer."""
    other: Any = object.__new__(type("Wrapped", (type(t.optimizer),), {}))
    other.__dict__ = dict(t.optimizer.__dict__)
    t.step(2, other)
    t.step(1)


@case
def another_class(t: Training) -> None:
    class Counting:
        count = 0

        def step(self, closure: Any = None) -> Any:
            self.count += 1
            return super().step(closure)  # type: ignore[misc]

    t.step()
    t.optimizer.__class__ = type("Counted", (Counting, type(t.optimizer)), {})
    t.step(2)
    assert t.optimizer.count == 2


@case
def a_deep_copy(t: Training) -> None:
    t.step()
    t.model, t.optimizer = copy.deepcopy((t.model, t.optimizer))
    t.step(2)


@case
def a_shallow_copy(t: Training) -> None:
    t.step()
    other = copy.copy(t.optimizer)
    t.step(1, other)
    t.step(1)


@case
def a_pickle(t: Training) -> None:
    t.step()
    t.model, t.optimizer = pickle.loads(pickle.dumps((t.model, t.optimizer)))
    t.step(2)


# -- parameters -------------------------------------------------------------------------------------------------------


@case
def parameters_swapped(t: Training) -> None:
    """As `torch.__future__.set_swap_module_params_on_conversion` does."""
    t.step()
    for p in t.model:
        p.grad = None
        torch.utils.swap_tensors(p, nn.Parameter(p.detach().clone()))  # type: ignore[no-untyped-call]
    t.step(2)


@case
def parameters_of_another_class(t: Training) -> None:
    class Named(nn.Parameter):
        pass

    t.step()
    for p in t.model:
        p.__class__ = Named
    t.step(2)


@case
def parameters_in_other_memory(t: Training) -> None:
    t.step()
    flat = torch.cat([p.detach().flatten() for p in t.model])
    t.model[0].data, t.model[1].data = flat[:3], flat[3:].view(2, 2)
    t.step(2)
    assert t.model[0].data_ptr() == flat.data_ptr()


@case
def parameters_of_another_dtype(t: Training) -> None:
    t.step()
    for p in t.model:
        p.grad = None
        p.data = p.data.double()
    t.step(2)


@case
def parameters_frozen(t: Training) -> None:
    t.step()
    for p in t.model:
        p.requires_grad_(False)
    t.step(2)


# -- the test ---------------------------------------------------------------------------------------------------------


# Where torch's class raises and this one goes on, to the numbers of steps that nobody disturbed.
FURTHER = [
    *(f"step is {words}" for words in ("an int", "a float", "a number of NumPy")),
    "numbers that are arrays of NumPy",
    "parameters of another dtype",
]


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("name", CASES)
def test_where_torch_goes_on_it_goes_on_to_the_same_numbers(name: str, fused: bool | None) -> None:
    theirs, ours = Training(torch.optim.RMSprop), Training(RMSprop, fused=fused)
    CASES[name](ours)
    if name in FURTHER:
        with pytest.raises((RuntimeError, TypeError)):
            CASES[name](theirs)
        theirs = Training(torch.optim.RMSprop)
        theirs.step(ours.count)
    else:
        CASES[name](theirs)
    for mine, expected in zip(ours.values, theirs.values, strict=True):
        assert mine == pytest.approx(expected, rel=1e-5)


# -- what cannot go on ------------------------------------------------------------------------------------------------


def rewritten(optimizer: Any) -> None:
    optimizer.param_groups[1] = {"params": optimizer.param_groups[1]["params"], "lr": 0.1}


def averages_as_lists(optimizer: Any) -> None:
    for state in optimizer.state.values():
        state["square_avg"] = state["square_avg"].tolist()


def other_shapes(optimizer: Any) -> None:
    for state in optimizer.state.values():
        state["momentum_buffer"] = torch.zeros(7)


REFUSED: dict[str, tuple[Callable[[Any], None], str]] = {
    "a group without its rate": (rewritten, "group 1 must be one with alpha, got one without"),
    "text": (lambda o: o.param_groups[1].update(alpha="0.9"), "alpha must be .*, got '0.9'"),
    "a count that is text": (lambda o: o.state[o.param_groups[1]["params"][0]].update(step="3"), "step of parameter 0"),
    "averages as lists": (averages_as_lists, "square_avg of parameter 0 must be a Tensor, got a list"),
    "averages of another shape": (other_shapes, r"momentum_buffer of parameter 0 must be of its shape \(3,\)"),
    "a NaN": (lambda o: o.param_groups[1].update(lr=math.nan), "lr must be .*, got nan"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_it_cannot_go_on_it_says_why_before_anything_moved(name: str) -> None:
    change, message = REFUSED[name]
    t = Training(RMSprop)
    t.step()
    change(t.optimizer)
    before = t.values
    with pytest.raises(InputError, match=f"^{message}"):
        t.step()
    assert t.values == before


def test_arguments_that_a_wrapper_has_dropped_come_from_the_defaults() -> None:
    """Wherever they are read first."""
    reads: list[Callable[[Any], Any]] = [
        lambda o: o.rule().nesterov,
        lambda o: o.state_dict()["param_groups"][0]["nesterov"],
        lambda o: "kernel" in o.implementation or o.implementation,
        lambda o: not o._step_supports_amp_scaling,
        lambda o: o.check_state_dict(o.state_dict()) == [],
    ]
    for read in reads:
        optimizer = RMSprop([torch.ones(1)], momentum=0.5, nesterov=True)
        for name in ("nesterov", "fused", "nonfinite", "state_version"):
            del optimizer.param_groups[0][name]
        assert read(optimizer)
