"""Which path steps what in rmsprop.torch.RMSprop, that each path is right, and that torch sees the step."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import cases
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from rmsprop import InputError, native
from rmsprop.torch import RMSprop
from rmsprop.torch.engines import cpu_kernel
from rmsprop.torch.engines.cpu_kernel import CpuKernel
from rmsprop.torch.engines.tensor_ops import TensorOps

pytestmark = pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")


@pytest.fixture(autouse=True)
def two_engines(monkeypatch: pytest.MonkeyPatch, reader: str) -> None:
    """Leave the engines that these tests name, whatever others there are. The kernel reads tensors in both ways."""
    monkeypatch.setattr("rmsprop.torch.step.ENGINES", (CpuKernel, TensorOps))


RULE = cases.RULES["all of it, the other way"]
KERNEL = f"native kernel ({native.kernel.instruction_set()})" if native.kernel else ""
SUMS = {"rtol": 1e-12, "atol": 1e-14}  # two paths in float64


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(params: list[Tensor], **options: Any) -> tuple[RMSprop, RMSprop]:
    """Return an optimizer of `params`, and one of copies of them that uses tensor operations."""
    plain = [p.detach().clone() for p in params]
    return RMSprop.from_rule(params, RULE, **options), RMSprop.from_rule(plain, RULE, foreach=False)


def steps(a: RMSprop, b: RMSprop, gradients: Callable[[Tensor, int], Tensor | None], count: int = 3) -> None:
    """Step both optimizers with the same gradients and compare parameters and state."""
    for t in range(count):
        for x, y in zip(a.param_groups, b.param_groups, strict=True):
            for i, (p, q) in enumerate(zip(x["params"], y["params"], strict=True)):
                p.grad = gradients(p, 10 * t + i)
                q.grad = None if p.grad is None else p.grad.clone().to_dense()
        a.step()
        b.step()
    agree(a, b)


def agree(a: RMSprop, b: RMSprop) -> None:
    for x, y in zip(a.param_groups, b.param_groups, strict=True):
        for p, q in zip(x["params"], y["params"], strict=True):
            torch.testing.assert_close(p.detach().clone(), q.detach().clone(), **SUMS)  # type: ignore[arg-type]
            assert a.state[p].keys() == b.state[q].keys()
            for name, value in a.state[p].items():
                torch.testing.assert_close(value, b.state[q][name], **SUMS)  # type: ignore[arg-type]


def usual(p: Tensor, seed: int) -> Tensor:
    return randn(*p.shape, seed=seed, dtype=p.dtype)


# -- what the kernel steps, and what it leaves to tensor operations ----------------------------------------------------


class Subclass(torch.Tensor):
    pass


def transposed(p: Tensor, seed: int) -> Tensor:
    return randn(*reversed(p.shape), seed=seed).t()


def negated(p: Tensor, seed: int) -> Tensor:
    return torch.complex(randn(*p.shape, seed=seed), randn(*p.shape, seed=seed + 1)).conj().imag


def conjugated(p: Tensor, seed: int) -> Tensor:
    return torch.complex(randn(*p.shape, seed=seed), randn(*p.shape, seed=seed + 1)).conj()


# A parameter beside usual ones, its gradients, and why the kernel refuses it.
CASES: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor, int], Tensor | None], str]] = {
    "usual": (lambda: randn(3, 4), usual, ""),
    "no elements": (lambda: randn(0, 4), usual, ""),
    "scalar": (lambda: randn(), usual, ""),
    "Parameter": (lambda: nn.Parameter(randn(5)), usual, ""),
    "no gradient": (lambda: randn(5), lambda *_: None, ""),
    "channels last": (lambda: randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
                      lambda p, n: usual(p, n).to(memory_format=torch.channels_last), ""),
    "strides of dimensions of size 1": (lambda: randn(4, 3, 1, 1).to(memory_format=torch.channels_last), usual, ""),
    "dense in another order": (lambda: randn(3, 4).t(), lambda p, n: transposed(p, n), ""),
    "at an offset": (lambda: randn(20)[3:], usual, ""),
    "complex": (lambda: torch.complex(randn(3), randn(3, seed=1)),
                lambda p, n: torch.complex(randn(3, seed=n), randn(3, seed=n + 1)), ""),
    "subclass": (lambda: randn(3).as_subclass(Subclass), usual, cpu_kernel.REASONS["class"]),
    "gaps": (lambda: randn(4, 6)[:, ::2], usual, cpu_kernel.REASONS["strides"]),
    "other strides": (lambda: randn(3, 4), transposed, cpu_kernel.REASONS["gradient strides"]),
    "expanded gradient": (lambda: randn(3, 4), lambda p, n: randn(4, seed=n).expand(3, 4),
                          cpu_kernel.REASONS["gradient strides"]),
    "negated gradient": (lambda: randn(3), negated, cpu_kernel.REASONS["gradient strides"]),
    "negated gradient of one number": (lambda: randn(1), negated, cpu_kernel.REASONS["gradient flag"]),
    "conjugated gradient": (lambda: torch.complex(randn(3), randn(3, seed=1)), conjugated,
                            cpu_kernel.REASONS["gradient flag"]),
    "subclass gradient": (lambda: randn(3), lambda p, n: usual(p, n).as_subclass(Subclass),
                          cpu_kernel.REASONS["gradient class"]),
    "negated parameter": (lambda: torch.complex(randn(3), randn(3)).conj().imag, usual, cpu_kernel.REASONS["strides"]),
    "negated parameter of one number": (lambda: torch.complex(randn(1), randn(1)).conj().imag, usual,
                                        cpu_kernel.REASONS["flag"]),
    "gradient in the parameter's memory": (lambda: randn(3), lambda p, _: p.view_as(p), cpu_kernel.REASONS["overlap"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_tensor_is_stepped_right_by_the_path_that_can(name: str) -> None:
    make, gradients, reason = CASES[name]
    params = [randn(7, seed=5), make(), randn(2, 2, seed=6)]
    a, b = pair(params)
    steps(a, b, lambda p, n: gradients(p, n) if p is params[1] else usual(p, n))
    if not reason:
        assert a.implementation == KERNEL
    else:
        assert a.implementation == f"{KERNEL}, but tensor operations for some (parameter 1 of group 0: {reason})"


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][2]])
def test_fused_raises_with_the_reason_before_anything_changes(name: str) -> None:
    make, gradients, reason = CASES[name]
    params = [randn(7, seed=5), make()]
    optimizer = RMSprop(params, fused=True)
    before = [p.clone() for p in params]
    params[0].grad, params[1].grad = randn(7), gradients(params[1], 0)
    with pytest.raises(InputError) as caught:
        optimizer.step()
    assert str(caught.value) == (
        f"fused must be None or False for parameter 1 of group 0, got True; {reason}; omit fused"
    )
    assert all(torch.equal(p, x) for p, x in zip(params, before, strict=True))
    assert all(state["step"] == 0 for state in optimizer.state.values())


def test_devices_without_a_kernel_are_left_to_tensor_operations() -> None:
    p = torch.ones(3, device="meta")
    p.grad = torch.ones(3, device="meta")
    optimizer = RMSprop([p])
    optimizer.step()
    assert optimizer.implementation == f"tensor operations ({cpu_kernel.REASONS['layout']})"
    with pytest.raises(InputError, match="it has no memory of its own"):
        RMSprop([p], fused=True).step()


@pytest.mark.parametrize(("options", "text"), [
    ({"fused": False}, "fused=False"), ({"foreach": False}, "foreach=False"), ({"foreach": True}, "foreach=True"),
    ({"capturable": True}, "capturable=True"), ({"differentiable": True}, "differentiable=True"),
])  # fmt: skip
def test_the_path_asked_for_is_the_path_taken(options: dict[str, bool], text: str) -> None:
    a, b = pair([randn(3), randn(2, 2)], **options)
    steps(a, b, usual)
    assert a.implementation == f"tensor operations ({text})"


@pytest.mark.parametrize("name", ["foreach", "capturable", "differentiable"])
def test_fused_with_another_path_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"^fused must be None or False with {name}=True.*, got True; omit fused or"):
        RMSprop([randn(3)], fused=True, **{name: True})  # type: ignore[arg-type]


def test_groups_may_take_different_paths() -> None:
    params = [randn(3), randn(4, seed=1), randn(2, seed=2)]
    own: list[dict[str, Any]] = [{"params": params[:1]}, {"params": params[1:], "foreach": True, "lr": 0.5}]
    a = RMSprop.from_rule(own, RULE)
    copies = [p.clone() for p in params]
    groups: list[dict[str, Any]] = [{"params": copies[:1]}, {"params": copies[1:], "lr": 0.5}]
    b = RMSprop.from_rule(groups, RULE, foreach=False)
    steps(a, b, usual)
    assert a.implementation == f"{KERNEL}, but tensor operations for some (group 1: foreach=True)"


def test_before_the_first_step_the_path_is_told_as_far_as_the_parameters_tell() -> None:
    assert RMSprop([randn(3)]).implementation == KERNEL
    assert RMSprop([randn(3), randn(2)], foreach=True).implementation == "tensor operations (foreach=True)"
    params = [randn(3), torch.ones(2, device="meta"), randn(3).as_subclass(Subclass)]
    assert RMSprop(params).implementation == (
        f"{KERNEL}, but tensor operations for some (parameter 1 of group 0: {cpu_kernel.REASONS['device']}; "
        f"parameter 2 of group 0: {cpu_kernel.REASONS['class']})"
    )


def test_without_a_kernel_it_is_said_once_and_the_numbers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "the native kernel was not built: …"
    monkeypatch.setattr(native, "kernel", None)
    monkeypatch.setattr(cpu_kernel, "UNAVAILABLE", reason)
    cpu_kernel.warn_once.cache_clear()
    a, b = pair([randn(3)])
    with pytest.warns(UserWarning, match="the native kernel was not built"):
        steps(a, b, usual)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(*pair([randn(3)]), usual)
    assert a.implementation == f"tensor operations ({reason})"
    with pytest.raises(InputError, match="the native kernel was not built"):
        RMSprop([randn(3)], fused=True)
    cpu_kernel.warn_once.cache_clear()


def test_overlapping_parameters_are_stepped_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads would race. The kernel steps such parameters in order, as tensor operations do."""
    monkeypatch.setattr(native, "GRAIN", 1)
    rule = cases.RULES["L2"]
    whole, copied = randn(3000), randn(3000)
    a = RMSprop.from_rule([whole[:2000], whole[1000:]], rule)
    b = RMSprop.from_rule([copied[:2000], copied[1000:]], rule, foreach=False)
    for _ in range(20):
        steps(a, b, usual, count=1)


def test_a_rate_of_any_number_type_serves_every_path() -> None:
    params = [randn(3), randn(3).clone()]
    optimizer = RMSprop([{"params": params[:1]}, {"params": params[1:], "foreach": False}], lr=Fraction(1, 8))  # type: ignore[arg-type]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(*params)
    torch.testing.assert_close(*map(optimizer.effective_lr, params))


def test_a_refused_step_has_no_effective_rates() -> None:
    p = randn(4, 6)[:, ::2]
    p.grad = torch.ones_like(p)
    optimizer = RMSprop([p], fused=True)
    for call in (optimizer.step, lambda: optimizer.effective_lr(p)):
        with pytest.raises(InputError):
            call()


# -- nothing goes stale -----------------------------------------------------------------------------------------------


def swap_data(p: Tensor, optimizer: RMSprop) -> None:
    p.data = p.data.clone()


def swap_state_data(p: Tensor, optimizer: RMSprop) -> None:
    for value in optimizer.state[p].values():
        value.data = value.data.clone()


def negate(p: Tensor, optimizer: RMSprop) -> None:
    p.data = torch._neg_view(p.data)


def replace_state(p: Tensor, optimizer: RMSprop) -> None:
    optimizer.state[p] = {name: value.clone() for name, value in optimizer.state[p].items()}


def reorder_state(p: Tensor, optimizer: RMSprop) -> None:
    optimizer.state[p] = optimizer.state.pop(p)


def move_to_shared_memory(p: Tensor, optimizer: RMSprop) -> None:
    p.data.share_memory_()  # type: ignore[no-untyped-call]


def load_own_state(p: Tensor, optimizer: RMSprop) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def add_a_group(p: Tensor, optimizer: RMSprop) -> None:
    other = torch.full((3,), 0.25, dtype=p.dtype)
    optimizer.add_param_group({"params": [other], "lr": 0.7})


def change_the_rule(p: Tensor, optimizer: RMSprop) -> None:
    optimizer.param_groups[0].update(lr=0.5, alpha=0.5, centered=False, momentum=0.25, nesterov=False)


def lr_as_tensor(p: Tensor, optimizer: RMSprop) -> None:
    optimizer.param_groups[0]["lr"] = torch.tensor(0.125)


def widen(p: Tensor, optimizer: RMSprop) -> None:
    for q in optimizer.param_groups[0]["params"]:
        q.data = q.data.double()
        q.grad = None


@pytest.mark.parametrize("change", [swap_data, swap_state_data, replace_state, reorder_state, move_to_shared_memory,
                                    load_own_state, add_a_group, change_the_rule, lr_as_tensor])  # fmt: skip
def test_a_change_between_steps_is_seen(change: Callable[[Tensor, RMSprop], None]) -> None:
    params = [randn(3), randn(2, 2, seed=1), randn(5, seed=2)]
    a, b = pair(params)
    for _ in range(2):
        steps(a, b, usual)
        change(a.param_groups[0]["params"][1], a)
        change(b.param_groups[0]["params"][1], b)
    steps(a, b, usual)
    assert a.implementation == KERNEL


def test_a_flag_set_between_steps_is_seen() -> None:
    a, b = pair([randn(3), randn(1)])
    steps(a, b, usual)
    for optimizer in (a, b):
        negate(optimizer.param_groups[0]["params"][1], optimizer)
    steps(a, b, usual)
    assert cpu_kernel.REASONS["flag"] in a.implementation


def test_a_group_may_hold_its_parameters_in_a_tuple() -> None:
    a, b = pair([randn(3), randn(2)])
    a.param_groups[0]["params"] = tuple(a.param_groups[0]["params"])
    steps(a, b, usual)


def test_a_model_moved_to_a_wider_dtype_is_stepped_in_it() -> None:
    params = [randn(3, dtype=torch.float32), randn(4, dtype=torch.float32)]
    a = RMSprop.from_rule(params, RULE)
    for p in params:
        p.grad = torch.ones_like(p)
    a.step()
    widen(params[0], a)
    for p in params:
        p.grad = torch.ones_like(p)
    a.step()
    assert a.implementation == KERNEL
    assert {v.dtype for p in params for k, v in a.state[p].items() if k != "step"} == {torch.float64}


def test_gradients_come_and_go() -> None:
    params = [randn(3), randn(4, seed=1), randn(5, seed=2)]
    a, b = pair(params)
    for present in ({0}, {1, 2}, {0, 2}, set(), {0, 1, 2}):

        def gradients(p: Tensor, number: int, present: set[int] = present) -> Tensor | None:
            return usual(p, number) if number % 10 in present else None

        steps(a, b, gradients, count=1)


def test_copies_step_on_their_own() -> None:
    a, b = pair([randn(3)])
    steps(a, b, usual)
    again = copy.deepcopy(a)
    buffer = io.BytesIO()
    torch.save(a.state_dict(), buffer)
    buffer.seek(0)
    loaded = RMSprop.from_rule([a.param_groups[0]["params"][0].clone()], RULE)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    for optimizer in (a, b, again, loaded):
        (p,) = optimizer.param_groups[0]["params"]
        p.grad = randn(3, seed=9)
        optimizer.step()
    agree(a, again)
    agree(a, loaded)


# -- torch sees the step ----------------------------------------------------------------------------------------------


def test_autograd_notices_that_parameters_have_changed() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = RMSprop([weight], fused=True)
    loss = (weight * weight).sum()
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


def test_inference_mode_is_no_obstacle() -> None:
    with torch.inference_mode():
        p = torch.ones(3)
        p.grad = torch.ones(3)
        optimizer = RMSprop([p], fused=True)
        optimizer.step()
        assert p[0] < 1


def test_hooks_run_in_torchs_order_and_may_change_the_arguments() -> None:
    seen: list[str] = []
    p = torch.ones(3)
    p.grad = torch.ones(3)
    ours, theirs = RMSprop([p]), torch.optim.RMSprop([p])
    order = []
    handles = [register_optimizer_step_pre_hook(lambda *_: seen.append("global before")),
               register_optimizer_step_post_hook(lambda *_: seen.append("global after"))]  # fmt: skip
    try:
        for optimizer in (ours, theirs):
            seen.clear()
            optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
            optimizer.register_step_post_hook(lambda *_: seen.append("after"))
            optimizer.step(lambda: seen.append("closure") or 1.0)  # type: ignore[func-returns-value]
            order.append(list(seen))
    finally:
        for handle in handles:
            handle.remove()
    assert order[0] == order[1] == ["global before", "before", "closure", "after", "global after"]
    replaced = RMSprop([p])
    replaced.register_step_pre_hook(lambda optimizer, args, kwargs: ((optimizer, lambda: 7.0), kwargs))
    assert replaced.step() == 7.0


def test_a_subclass_that_extends_step_runs_hooks_once() -> None:
    class Mine(RMSprop):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    p, seen = torch.ones(3), []
    p.grad = torch.ones(3)
    optimizer = Mine([p])
    optimizer.register_step_pre_hook(lambda *_: seen.append(1))
    optimizer.step()
    assert seen == [1]


def test_the_profiler_shows_the_step() -> None:
    p = torch.ones(3)
    p.grad = torch.ones(3)
    optimizer = RMSprop([p])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.zero_grad()
    seen = {event.key for event in profile.key_averages()}
    assert {"Optimizer.step#RMSprop.step", "Optimizer.zero_grad#RMSprop.zero_grad"} <= seen


def test_zero_grad_forgets_or_zeroes() -> None:
    p = torch.ones(3)
    p.grad = torch.ones(3)
    optimizer = RMSprop([p])
    kept = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is kept
    assert torch.equal(kept, torch.zeros(3))
    optimizer.zero_grad()
    assert p.grad is None


def test_modes_that_watch_operations_see_them() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
        seen = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen += 1
            return func(*args, **(kwargs or {}))

    a, b = pair([randn(3)])
    with Count() as count:  # type: ignore[no-untyped-call]
        steps(a, b, usual)
    assert count.seen > 0
    assert a.implementation == "tensor operations (a torch dispatch mode watches tensor operations)"


def test_the_number_of_threads_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    class Batch(native.kernel.Batch):  # type: ignore[misc, name-defined]
        def run(self, threads: int, *rest: Any) -> Any:
            used.append(threads)
            return super().run(threads, *rest)

    kept = torch.get_num_threads()
    monkeypatch.setattr(native.kernel, "Batch", Batch)
    p = randn(3)
    p.grad = randn(3)
    optimizer = RMSprop([p])
    for number in (1, 5):
        torch.set_num_threads(number)
        optimizer.step()
    torch.set_num_threads(kept)
    assert used == [1, 5]


# -- loss scaling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"fused": False}, {"foreach": True}])
@pytest.mark.parametrize("unscale", [False, True])
def test_a_grad_scaler_divides_and_skips(options: dict[str, Any], unscale: bool) -> None:
    """Step with unscaled gradients, skip a step with an infinite gradient, and unscale the gradients in place."""
    rule = cases.RULES["momentum"]
    p, q = torch.ones(4), torch.ones(4)
    ours, plain = RMSprop.from_rule([p], rule, **options), RMSprop.from_rule([q], rule, foreach=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(6):
        gradient = torch.tensor([1e-3, -2.0, 3.0, 0.0]) * (t + 1)
        p.grad = gradient * scaler.get_scale()
        scaler.scale(torch.zeros(()))
        if t == 3:
            p.grad[1] = torch.inf
        else:
            q.grad = gradient
            plain.step()
        if unscale:
            scaler.unscale_(ours)
        scaler.step(ours)
        if t != 3:
            torch.testing.assert_close(p.grad, gradient, rtol=1e-6, atol=0)
        scaler.update()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=0)
    assert ours.state[p]["step"] == plain.state[q]["step"] == 5
    assert not hasattr(ours, "found_inf")


def test_hooks_see_the_gradients_that_torchs_hooks_see() -> None:
    """Hooks see unscaled gradients unless fused=True asks the step to divide; clipping needs the true scale."""
    results = []
    for optimizer_class in (RMSprop, torch.optim.RMSprop):
        p = torch.ones(2)
        optimizer = optimizer_class([p], eps=1.0)
        optimizer.register_step_pre_hook(lambda *_, p=p: (nn.utils.clip_grad_norm_([p], 1.0), None)[1])
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(torch.zeros(()))
        p.grad = torch.tensor([3.0, 4.0]) * 1024
        scaler.step(optimizer)
        results.append(p)
    torch.testing.assert_close(*results)


def test_a_step_that_raises_leaves_no_scale_behind() -> None:
    p = torch.ones(2)
    optimizer = RMSprop([p], fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.zeros(()))
    for alpha in (2.0, 0.5):
        optimizer.param_groups[0]["alpha"] = alpha
        p.grad = torch.tensor([1024.0, 2048.0])
        with nullcontext() if alpha < 1 else pytest.raises(InputError):
            scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(optimizer.state[p]["square_avg"], torch.tensor([0.5, 2.0]))
    p.grad = None
    scaler.step(optimizer)  # without gradients the scaler sets found_inf to a plain 0
    optimizer.step()


def test_float16_gradients_too_small_for_float16_are_not_lost_when_scaled() -> None:
    p = torch.ones(2, dtype=torch.float16)
    optimizer = RMSprop([p], alpha=0.5, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(torch.zeros(()))
    p.grad = torch.tensor([1e-8 * 2.0**16, 0.0]).half()  # 1e-8 itself is 0 in float16
    assert optimizer._step_supports_amp_scaling
    gradient = p.grad.float() / 2.0**16
    scaler.step(optimizer)
    torch.testing.assert_close(optimizer.state[p]["square_avg"], 0.5 * gradient**2, rtol=1e-6, atol=0)


# -- processes and threads --------------------------------------------------------------------------------------------


def test_data_loader_workers_are_forked_after_steps_with_threads() -> None:
    """Steps also run in the workers: a thread pool would not survive the fork."""
    code = """
import torch
from torch.utils.data import DataLoader, Dataset
from rmsprop import native
from rmsprop.torch import RMSprop
native.GRAIN = 1
torch.set_num_threads(2)

def step(p):
    p.grad = torch.ones_like(p)
    optimizer = RMSprop([p], fused=True)
    optimizer.step()
    return p

class Data(Dataset):
    def __len__(self): return 8
    def __getitem__(self, i):
        torch.set_num_threads(2)
        return step(torch.full((1000,), float(i)))

for _ in range(3):
    before = step(torch.zeros(100_000))
    for batch in DataLoader(Data(), batch_size=4, num_workers=2, multiprocessing_context="fork"):
        assert batch.shape == (4, 1000) and (batch[1:] < torch.tensor([[1.], [2.], [3.]]) + 4).all()
    step(before)
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "done\n", done.stderr


def test_two_optimizers_step_in_two_threads() -> None:
    size = 200_000
    optimizers = [RMSprop.from_rule([torch.ones(size), torch.ones(3)], RULE) for _ in range(2)]
    alone = RMSprop.from_rule([torch.ones(size), torch.ones(3)], RULE)

    def work(optimizer: RMSprop) -> None:
        for t in range(30):
            for p in optimizer.param_groups[0]["params"]:
                p.grad = torch.full_like(p, 1.0 + t)
            optimizer.step()

    threads = [threading.Thread(target=work, args=(optimizer,)) for optimizer in optimizers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work(alone)
    for optimizer in optimizers:
        for p, q in zip(optimizer.param_groups[0]["params"], alone.param_groups[0]["params"], strict=True):
            assert torch.equal(p, q)


def test_one_optimizer_in_two_threads_does_not_crash() -> None:
    """The order of steps is open, as in torch; each step is executed once and whole."""
    p = torch.zeros(100_000)
    p.grad = torch.ones_like(p)
    optimizer = RMSprop([p], lr=1.0, alpha=0.0, eps=0.0)
    optimizer.step()

    def work() -> None:
        for _ in range(50):
            optimizer.step()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert optimizer.state[p]["step"] == 101
    assert torch.isfinite(p).all()


@pytest.mark.slow
def test_a_hundred_thousand_tiny_steps_do_not_grow_the_process() -> None:
    code = """
import torch
from pathlib import Path
from rmsprop.torch import RMSprop

def kilobytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4

torch.set_num_threads(1)
p = torch.ones(2)
p.grad = torch.ones(2)
optimizer = RMSprop([p], momentum=0.9)
for _ in range(1000): optimizer.step()
before = kilobytes()
for _ in range(100_000): optimizer.step()
print(kilobytes() - before, int(optimizer.state[p]["step"].item()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, count = map(int, done.stdout.split())
    assert count == 101_000
    assert grown < 512  # a leak of 16 bytes a step would be 1600 kB
