"""decay_groups: what weight decay reaches, on modules that people train."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch
from torch import nn

import rmsprop.torch.decay
from rmsprop import InputError
from rmsprop.torch import RMSprop, decay_groups


class Net(nn.Module):
    """One of each kind of layer; `head` shares its weight with `embed`, `shift` is a bias of its own name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.conv = nn.Sequential(nn.Conv1d(4, 4, 3, groups=4), nn.BatchNorm1d(4), nn.Conv1d(4, 8, 1, groups=2))
        self.lstm = nn.LSTM(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norms = nn.ModuleList(
            [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.InstanceNorm1d(4, affine=True)]
        )
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(()))
        self.shift = nn.Parameter(torch.ones(2, 2))


WEIGHTS = {
    "embed.weight", "conv.2.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "attention.in_proj_weight",
    "attention.out_proj.weight",
}  # fmt: skip
BIASES = {
    "conv.0.bias", "conv.1.bias", "conv.2.bias", "lstm.bias_ih_l0", "lstm.bias_hh_l0", "attention.in_proj_bias",
    "attention.out_proj.bias", "norms.0.bias", "norms.1.bias", "norms.3.bias", "head.bias",
}  # fmt: skip
NORMS = {
    "conv.1.weight", "conv.1.bias", *(f"norms.{i}.weight" for i in range(4)),
    *(f"norms.{i}.bias" for i in (0, 1, 3)),
}  # fmt: skip
EVERY = WEIGHTS | BIASES | NORMS | {"conv.0.weight", "scale", "shift"}


@pytest.mark.parametrize(
    ("without", "left_out"),
    [
        ((), set()),
        (("biases",), BIASES),
        (("norms",), NORMS),
        (("biases", "norms"), BIASES | NORMS),
        (("depthwise",), {"conv.0.weight"}),
        (("vectors",), BIASES | NORMS | {"scale"}),
        (("norms", "depthwise"), NORMS | {"conv.0.weight"}),
    ],
    ids=lambda value: None if isinstance(value, set) else str(value),  # sets have no order
)
def test_what_is_left_out(without: tuple[str, ...], left_out: set[str]) -> None:
    model = Net()
    groups = decay_groups(model, 0.1, without=without, named=True)
    assert [group["weight_decay"] for group in groups] == ([0.1, 0.0] if left_out else [0.1])
    found = [[name for name, _ in group["params"]] for group in groups]
    assert set(found[0]) == EVERY - left_out
    assert set().union(*found[1:]) == left_out
    order = [name for name, _ in model.named_parameters()]
    assert all(names == sorted(names, key=order.index) for names in found)
    parameters = dict(model.named_parameters())
    assert all(p is parameters[name] for group in groups for name, p in group["params"])


def test_biases_and_norms_are_left_out_unless_told() -> None:
    (_, others) = decay_groups(model := Net(), 0.1)
    names = {p: name for name, p in model.named_parameters()}
    assert {names[p] for p in others["params"]} == BIASES | NORMS


def test_every_parameter_is_there_once_frozen_ones_too_and_the_optimizer_decays_as_told() -> None:
    model = Net()
    model.embed.weight.requires_grad_(False)
    optimizer = RMSprop(
        decay_groups(model, 0.5, without=("biases", "norms", "vectors")), 0.1, eps=0.0, weight_decay=9.0
    )
    given = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(given) == len(set(given)) == len(list(model.parameters()))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in given:
        p.grad = torch.zeros_like(p)
    optimizer.step()  # g = λ·p: every decayed element moves by lr/√(1−β), 0 excepted
    for name, p in model.named_parameters():
        moved = torch.where(before[name] == 0, 0.0, before[name].sign())
        decayed = name in WEIGHTS | {"conv.0.weight", "shift"}
        torch.testing.assert_close(before[name] - p, moved if decayed else torch.zeros_like(p), rtol=1e-3, atol=1e-6)


def test_a_weight_used_in_two_places_is_left_out_if_one_of_them_is() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3)
            self.norm = nn.LayerNorm(3)
            self.one.factor = self.norm.weight

    model = Tied()
    (decayed, others) = decay_groups(model, 0.1, named=True)
    assert [name for name, _ in decayed["params"]] == ["one.weight"]
    assert [name for name, _ in others["params"]] == ["one.bias", "one.factor", "norm.bias"]
    RMSprop([decayed, others])


def test_names_reach_the_state_dict() -> None:
    optimizer = RMSprop(decay_groups(nn.Linear(2, 2), 0.1, named=True))
    assert [group["param_names"] for group in optimizer.state_dict()["param_groups"]] == [["weight"], ["bias"]]


ERRORS: list[tuple[Any, dict[str, Any], str]] = [
    ([torch.ones(1)], {}, "module must be an nn.Module, whose layers tell what is decayed, got a list; pass the model"),
    (nn.Linear(1, 1), {"weight_decay": -1.0}, "weight_decay must be a finite number >= 0, got -1.0"),
    (nn.Linear(1, 1), {"without": ("norm",)}, r"without must be a tuple of biases, norms, depthwise, vectors, got"),
    (nn.Linear(1, 1), {"without": "biases"}, r"without must be a tuple of biases, norms, depthwise, vectors, got"),
    (nn.Linear(1, 1), {"without": None}, r"without must be a tuple of biases, norms, depthwise, vectors, got None"),
    (nn.Linear(1, 1), {"without": ([],)}, r"without must be a tuple of biases, norms, depthwise, vectors, got"),
    (nn.Linear(1, 1), {"without": iter(())}, r"without must be a tuple of biases, norms, depthwise, vectors, got"),
    (nn.Linear(1, 1), {"named": 1}, "named must be True or False, got 1"),
]


@pytest.mark.parametrize(("module", "arguments", "message"), ERRORS)
def test_bad_arguments_are_named(module: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        decay_groups(module, **{"weight_decay": 0.1, **arguments})


def test_the_example_runs() -> None:
    assert doctest.testmod(rmsprop.torch.decay).failed == 0
