"""A parameter, state or group that cannot be stepped is named before anything has moved, on every engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rmsprop import InputError
from rmsprop.torch import RMSprop, release_gradients

Fault = Callable[[RMSprop, Tensor], Any]
GOES_ON, REFUSED, EITHER = "goes on", "refused", "either"  # EITHER: an engine may refuse it or step it


def put(**values: Any) -> Fault:
    """Return a fault that puts these values into a parameter's state."""
    return lambda optimizer, p: optimizer.state[p].update(values)


def set_group(**values: Any) -> Fault:
    """Return a fault that puts these values into the last group."""
    return lambda optimizer, p: optimizer.param_groups[-1].update(values)


def set_data(make: Callable[[Tensor], Tensor]) -> Fault:
    def change(optimizer: RMSprop, p: Tensor) -> None:
        p.data = make(p.data)

    return change


def grow_at_the_start(optimizer: RMSprop, p: Tensor) -> None:
    """Only the gradient has another shape, because the state is built anew."""
    del optimizer.state[p]
    p.data = torch.ones(5)


def half_gradient(optimizer: RMSprop, p: Tensor) -> None:
    """Move the model to another dtype between backward and step."""
    p.data = p.data.bfloat16()
    p.grad = torch.ones_like(p)
    p.data = p.data.float()


def overlapping_state(optimizer: RMSprop, p: Tensor) -> None:
    memory = torch.ones(4)
    p.data = memory[:-1]
    optimizer.state[p]["square_avg"] = memory[1:]


def inference_state(optimizer: RMSprop, p: Tensor) -> None:
    with torch.inference_mode():
        optimizer.state[p]["square_avg"] = torch.ones(3)


def sparse_gradient(optimizer: RMSprop, p: Tensor) -> None:
    """The gradient names a row that the parameter does not have."""
    p.grad = torch.sparse_coo_tensor(torch.tensor([[7]]), torch.ones(1), (3,), check_invariants=False)


def failing_hook(optimizer: RMSprop, p: Tensor) -> None:
    def fail(*_: Any) -> None:
        raise InputError("the hook", "whole", None, "mend it")

    optimizer.register_step_pre_hook(fail)


FAULTS: dict[str, tuple[str, Fault]] = {
    "expanded parameter": (REFUSED, set_data(lambda x: torch.ones(1).expand(3))),
    "parameter that grew": (REFUSED, set_data(lambda x: torch.ones(5))),
    "parameter without state that grew": (REFUSED, grow_at_the_start),
    "gradient of another dtype": (GOES_ON, half_gradient),
    "sparse gradient out of range": (REFUSED, sparse_gradient),
    "average on another device": (REFUSED, put(square_avg=torch.ones(3, device="meta"))),
    "gradient average on another device": (REFUSED, put(grad_avg=torch.ones(3, device="meta"))),
    "average of another shape": (REFUSED, put(grad_avg=torch.ones(2))),
    "expanded average": (REFUSED, put(square_avg=torch.ones(1).expand(3))),
    "average that is a number": (REFUSED, put(square_avg=0.5)),
    "average from inference mode": (EITHER, inference_state),
    "average over the parameter's memory": (REFUSED, overlapping_state),
    "two step counts": (REFUSED, put(step=torch.ones(2, dtype=torch.float64))),
    "a step count that is a number": (GOES_ON, put(step=0)),
    "lr in a Tensor, NaN": (REFUSED, set_group(lr=torch.tensor(math.nan))),
    "lr in a Tensor, below 0": (REFUSED, set_group(lr=torch.tensor(-1.0))),
    "lr in a Tensor, infinite": (REFUSED, set_group(lr=torch.tensor([math.inf]))),
    "two rates in a Tensor": (REFUSED, set_group(lr=torch.ones(2))),
    "lr that is text": (REFUSED, set_group(lr="1e-3")),
    "alpha in a Tensor, too large": (REFUSED, set_group(alpha=torch.tensor(1.5))),
    "momentum that is a list": (REFUSED, set_group(momentum=[0.9])),
    "no such choice": (REFUSED, set_group(nonfinite="raise")),
    "differentiable with a leaf": (REFUSED, set_group(differentiable=True, fused=None, foreach=None)),
    "hook that fails": (REFUSED, failing_hook),
}
ENGINES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "kernel": ({}, {}),
    "operations": ({"fused": False}, {"fused": False}),
    "foreach": ({"foreach": True}, {"foreach": True}),
    "kernel, then operations": ({}, {"fused": False}),
    "operations, then kernel": ({"fused": False}, {}),
    "all gradients judged first": ({"nonfinite": "skip"}, {"fused": False, "nonfinite": "skip"}),
}


def bits(x: Any) -> Any:
    """Return the parts of a value, for a comparison bit for bit."""
    if not isinstance(x, Tensor):
        return x
    if x.is_sparse:
        return x.shape, bits(x._indices()), bits(x._values())
    return x.dtype, x.shape, x.stride(), None if x.device.type == "meta" else x.detach().clone().view(-1).tolist()


def everything(optimizer: RMSprop, params: list[Tensor]) -> str:
    """Return all that a step may change, as text: there NaN equals NaN."""
    states = [{name: bits(x) for name, x in optimizer.state.get(p, {}).items()} for p in params]
    groups = [{name: bits(x) for name, x in group.items() if name != "params"} for group in optimizer.param_groups]
    return repr([[bits(p) for p in params], [bits(p.grad) for p in params], states, groups, optimizer.nonfinite_steps])


def build(engine: str) -> tuple[RMSprop, list[Tensor], Tensor]:
    """Return an optimizer of five parameters, one sparse, after a step; its parameters; and the one to spoil."""
    first, last = ENGINES[engine]
    table = nn.Parameter(torch.ones(4, 2))
    params: list[Tensor] = [nn.Parameter(torch.ones(3)) for _ in range(4)]
    groups = [{"params": [params[0], table], **first}, {"params": params[1:], **last}]
    optimizer = RMSprop(groups, lr=0.1, centered=True)
    for _ in range(2):
        for p in params:
            p.grad = torch.tensor([1.0, -2.0, 0.5])
        table.grad = torch.sparse_coo_tensor(torch.tensor([[2]]), torch.ones(1, 2), (4, 2), check_invariants=True)
        if not optimizer.state:
            optimizer.step()
            optimizer.state_dict()  # catches lagging rows up
    return optimizer, [*params, table], params[2]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FAULTS)
def test_nothing_moves_where_a_step_cannot_be_made(name: str, engine: str) -> None:
    outcome, spoil = FAULTS[name]
    optimizer, params, spoiled = build(engine)
    spoil(optimizer, spoiled)
    before, moved = everything(optimizer, params), [p.detach().clone() for p in params]
    raised = False
    try:
        optimizer.step()
    except (InputError, IndexError):
        raised = True
    assert outcome in (EITHER, REFUSED if raised else GOES_ON)
    if raised:
        assert everything(optimizer, params) == before
    else:
        assert not any(torch.equal(p, old) for p, old in zip(params, moved, strict=True))


@pytest.mark.parametrize("engine", ["operations", "foreach"])
def test_a_gradient_of_another_dtype_steps_as_one_of_the_parameter_s(engine: str) -> None:
    """torch's own class steps too, unless it is centered."""
    results = []
    for spoil in (half_gradient, lambda o, p: setattr(p, "grad", torch.ones(3))):
        optimizer, params, spoiled = build(engine)
        spoil(optimizer, spoiled)
        with torch.no_grad():
            spoiled.copy_(torch.ones(3))
        optimizer.step()
        results.append(everything(optimizer, params).replace("bfloat16", "float32"))
    assert results[0] == results[1]


RELEASED = [
    name
    for name in FAULTS
    if "gradient of" not in name
    and name not in ("sparse gradient out of range", "hook that fails", "parameter without state that grew")
]


@pytest.mark.parametrize("engine", ["kernel", "operations", "foreach"])
@pytest.mark.parametrize("name", RELEASED)
def test_nothing_moves_in_a_backward_pass_that_steps(name: str, engine: str) -> None:
    outcome, spoil = FAULTS[name]
    optimizer, _, spoiled = build(engine)
    optimizer.zero_grad()
    with release_gradients(optimizer):
        spoil(optimizer, spoiled)
        before = everything(optimizer, [spoiled])
        raised = False
        try:
            torch.autograd.backward([(spoiled * torch.tensor(2.0)).sum()])
        except InputError:
            raised = True
        assert outcome in (EITHER, REFUSED if raised else GOES_ON)
        assert (everything(optimizer, [spoiled]) == before) == raised


@pytest.mark.parametrize("execution", [{}, {"fused": False}, {"foreach": True}])
def test_an_expanded_parameter_is_named(execution: dict[str, Any]) -> None:
    """torch's own class also raises, but moves the first parameter before."""
    first, expanded = nn.Parameter(torch.ones(3)), torch.ones(1).expand(3)
    first.grad, expanded.grad = torch.ones(3), torch.ones(3)
    optimizer = RMSprop([first, expanded], **execution)
    message = (
        r"^parameter 1 must be without elements that share memory, got strides \(0,\) for shape \(3,\); use x.clone"
    )
    with pytest.raises(InputError, match=message):
        optimizer.step()
    assert first.tolist() == [1, 1, 1]
    assert all(int(state["step"]) == 0 for state in optimizer.state.values())


def test_an_expanded_gradient_is_scaled_as_others_are() -> None:
    """A GradScaler leaves the division to the step. The step must not fail after dividing."""
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = RMSprop([p, q])
    p.grad, q.grad = torch.ones(1).expand(3), torch.ones(3)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(p, q)
    assert p.grad.tolist() == q.grad.tolist() == [0.25] * 3


@pytest.mark.parametrize("lr", [math.nan, -1.0, math.inf])
@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"foreach": True}, {"sparse": "lazy"}])
def test_a_rate_in_a_tensor_is_checked_at_every_step(lr: float, options: dict[str, Any]) -> None:
    p, rate = nn.Parameter(torch.ones(3)), torch.tensor(0.1)
    optimizer = RMSprop([p], lr=rate, **options)
    p.grad = torch.ones(3)
    optimizer.step()
    rate.fill_(lr)
    before = everything(optimizer, [p])
    with pytest.raises(InputError, match=rf"^lr must be a finite number >= 0, got {lr}; 1e-4 to 1e-2 is usual"):
        optimizer.step()
    assert everything(optimizer, [p]) == before
    rate.fill_(0.1)
    optimizer.step()


def loading_fails(optimizer: RMSprop, saved: dict[str, Any]) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the hook fails")

    optimizer.register_load_state_dict_post_hook(fail)


BROKEN: dict[str, Callable[[RMSprop, dict[str, Any]], Any]] = {
    "sparse average": lambda o, s: s["state"][1].update(square_avg=torch.ones(3).to_sparse()),
    "average without memory": lambda o, s: s["state"][1].update(square_avg=torch.ones(3, device="meta")),
    "hook that fails": loading_fails,
}


@pytest.mark.parametrize("name", BROKEN)
def test_nothing_is_loaded_where_loading_fails(name: str) -> None:
    optimizer, params, _ = build("kernel")
    saved = build("kernel")[0].state_dict()
    saved["param_groups"][0]["lr"] = 0.7
    BROKEN[name](optimizer, saved)
    identities = id(optimizer.state), id(optimizer.param_groups[0])
    before = everything(optimizer, params)
    with pytest.raises((InputError, RuntimeError)):
        optimizer.load_state_dict(saved)
    assert everything(optimizer, params) == before
    assert (id(optimizer.state), id(optimizer.param_groups[0])) == identities
    if name != "hook that fails":
        assert optimizer.check_state_dict(saved) != []
