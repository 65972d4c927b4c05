"""torch's tools that compare or replace groups and state of an optimizer work with what `state_dict()` returns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from rmsprop.torch import RMSprop

swap: Any = getattr(torch.optim, "swap_in_optimizer_params_and_state", None)  # public since torch 2.13
needs_swap = pytest.mark.skipif(swap is None, reason="torch before 2.13")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum, centered": {"momentum": 0.9, "centered": True},
    "operations": {"fused": False, "bias_correction": True},
    "foreach": {"foreach": True, "momentum": 0.9, "nesterov": True},
    "small state": {"state_dtype": "uint8"},
}


def trained(options: dict[str, Any], cls: Any = RMSprop) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = cls(model.parameters(), lr=0.1, **options)
    give_gradients(model)
    optimizer.step()
    give_gradients(model)
    return model, optimizer


def give_gradients(model: nn.Module) -> None:
    for i, p in enumerate(model.parameters()):
        p.grad = torch.linspace(-1, 1, p.numel()).view_as(p) + i


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_state_dict_has_the_keys_of_the_live_groups_and_state(variant: str) -> None:
    _, optimizer = trained(VARIANTS[variant])
    for _ in range(2):
        saved = optimizer.state_dict()
        for live, group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
            assert live.keys() == group.keys()
        for live, own in zip(optimizer.state.values(), saved["state"].values(), strict=True):
            assert live.keys() == own.keys()
        optimizer = copy.deepcopy(optimizer)
        optimizer.load_state_dict(saved)
    added = {"params": [torch.ones(1)], "lr": 1.0}
    optimizer.add_param_group(added)
    assert optimizer.param_groups[-1].keys() == optimizer.state_dict()["param_groups"][-1].keys()


@needs_swap
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_of_other_tensors_is_that_of_the_optimizer_which_stays_as_it_was(variant: str) -> None:
    model, optimizer = trained(VARIANTS[variant])
    params = {name: nn.Parameter(p.detach().clone()) for name, p in model.named_parameters()}
    for p, old in zip(params.values(), model.parameters(), strict=True):
        p.grad = old.grad
    state = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy(optimizer.state_dict())
    with swap(optimizer, params, state):
        optimizer.step()
    assert str(optimizer.state_dict()) == str(before)
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, params[name])
    assert str(optimizer.state_dict()["state"]) == str(state["state"])


@needs_swap
def test_rows_that_lag_are_caught_up_with_after_a_swap() -> None:
    """A state dict of the other state is made in between."""
    table = nn.Embedding(3, 2, sparse=True)
    optimizer = RMSprop(table.parameters(), alpha=0.5)
    for row in (0, 1, 1):
        optimizer.zero_grad()
        torch.autograd.backward([table(torch.tensor([row])).sum()])
        optimizer.step()
        if row == 0:
            other = copy.deepcopy(optimizer.state_dict())
    with swap(optimizer, {"weight": nn.Parameter(table.weight.detach().clone())}, other):
        optimizer.state_dict()
    assert optimizer.state_dict()["state"][0]["square_avg"][0].tolist() == [0.125, 0.125]


@needs_swap
@pytest.mark.parametrize("cls", [RMSprop, torch.optim.RMSprop])
def test_the_example_of_torch_s_documentation_traces_a_step(cls: Any) -> None:
    """A step of fake tensors is traced into a graph, and the graph makes the step."""
    model, optimizer = trained({"momentum": 0.9}, cls)
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    with fake_mode:
        fake_params = {n: fake_mode.from_tensor(p) for n, p in model.named_parameters()}
        fake_osd = pytree.tree_map_only(Tensor, fake_mode.from_tensor, optimizer.state_dict())
        grads = {n: fake_mode.from_tensor(torch.ones_like(p)) for n, p in model.named_parameters()}

    def step_fn(params: Any, osd: Any, grads: Any) -> Any:
        for name, p in params.items():
            p.grad = grads[name]
        with swap(optimizer, params, osd):
            optimizer.step()
        return params, osd

    before = copy.deepcopy(optimizer.state_dict())
    graph = make_fx(step_fn)(fake_params, fake_osd, grads)
    assert str(optimizer.state_dict()) == str(before)
    real = {n: p.detach().clone() for n, p in model.named_parameters()}
    state = copy.deepcopy(optimizer.state_dict())
    with torch.no_grad():
        graph(real, state, {n: p.grad for n, p in model.named_parameters()})
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(real[name], p.detach())


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_state_by_names_goes_there_and_back(variant: str, flat: bool) -> None:
    """torch.distributed.checkpoint first steps an optimizer with zero gradients; that step must leave no trace."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = trained(VARIANTS[variant])
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    other_model = copy.deepcopy(model)
    other = RMSprop(other_model.parameters(), lr=0.5, **VARIANTS[variant])
    other_model.zero_grad()
    set_optimizer_state_dict(other_model, other, saved, options=options)
    give_gradients(other_model)
    assert str(other.state_dict()) == str(optimizer.state_dict())
    optimizer.step()
    other.step()
    for p, q in zip(model.parameters(), other_model.parameters(), strict=True):
        assert torch.equal(p, q)
