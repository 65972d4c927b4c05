"""decay_groups: which parameters get weight decay, in modules that people train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, parametrize

from rmsprop import InputError
from rmsprop.monitor.torch_record import names_of
from rmsprop.names import plain_name, plain_names
from rmsprop.torch import RMSprop, decay_groups


class Net(nn.Module):
    """One layer of each kind; `head` shares its weight with `embed`, and `shift` is a bias with its own name."""

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
    optimizer.step()  # g = λ·p: every decayed element moves by lr/√(1−β), except zeros
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


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Holding(nn.Module):
    """Parameters in lists and dicts, as mixtures of experts have them."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.ParameterList([torch.ones(2, 2), nn.Parameter(torch.ones(2, 2))])
        self.table = nn.ParameterDict({"bias": torch.ones(2, 2), "weight": torch.ones(2, 2)})
        self.nested = nn.ParameterList([nn.ParameterDict({"bias": torch.ones(2, 2), "scale": torch.ones(2, 2)})])


def parametrized(layer: nn.Module, name: str) -> nn.Module:
    return parametrize.register_parametrization(layer, name, Doubled())


DEPTHWISE = {"without": ("depthwise",)}
ROLES: dict[str, tuple[nn.Module, dict[str, Any], set[str]]] = {
    "a bias": (parametrized(nn.Linear(2, 2), "bias"), {}, {"parametrizations.bias.original"}),
    "a weight": (parametrized(nn.Linear(2, 2), "weight"), {}, {"bias"}),
    "both": (
        parametrized(parametrized(nn.Linear(2, 2), "weight"), "bias"), {}, {"parametrizations.bias.original"},
    ),
    "a norm's weight": (
        parametrized(nn.LayerNorm(2), "weight"), {}, {"bias", "parametrizations.weight.original"},
    ),
    "weight norm of a norm": (
        parametrizations.weight_norm(nn.GroupNorm(1, 2), "bias"), {},
        {"weight", "parametrizations.bias.original0", "parametrizations.bias.original1"},
    ),
    "a depthwise kernel": (
        parametrized(nn.Conv2d(3, 3, 2, groups=3), "weight"), DEPTHWISE, {"parametrizations.weight.original"},
    ),
    "weight norm": (parametrizations.weight_norm(nn.Linear(2, 2)), {}, {"bias"}),
    "weight norm of a depthwise kernel": (
        parametrizations.weight_norm(nn.Conv1d(2, 2, 2, groups=2)), DEPTHWISE,
        {"parametrizations.weight.original0", "parametrizations.weight.original1"},
    ),
    "spectral norm": (parametrizations.spectral_norm(nn.Linear(2, 2)), {}, {"bias"}),
    "an embedding": (parametrized(nn.Embedding(2, 2), "weight"), {}, set()),
    "lists and dicts": (Holding(), {}, {"bias.0", "bias.1", "table.bias", "nested.0.bias"}),
    "a list alone": (nn.ParameterList([torch.ones(2), torch.ones(2)]), {"without": ("vectors",)}, {"0", "1"}),
}  # fmt: skip


@pytest.mark.parametrize("name", ROLES)
def test_a_parameter_is_what_the_tensor_is_that_it_serves(name: str) -> None:
    module, options, left_out = ROLES[name]
    groups = decay_groups(module, 0.1, named=True, **options)
    assert {n for group in groups if group["weight_decay"] == 0 for n, _ in group["params"]} == left_out
    assert {n for group in groups for n, _ in group["params"]} == {n for n, _ in module.named_parameters()}


def test_weight_norm_s_first_form_keeps_kernels_depthwise() -> None:
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.Conv1d(2, 2, 2, groups=2))
    (decayed, others) = decay_groups(layer, 0.1, named=True, without=("depthwise",))
    assert [name for name, _ in decayed["params"]] == ["bias"]
    assert {name for name, _ in others["params"]} == {"weight_g", "weight_v"}


def test_a_parametrized_weight_that_is_tied_is_left_out_if_one_of_its_uses_is() -> None:
    norm, linear = parametrized(nn.LayerNorm(2), "weight"), parametrized(nn.Linear(2, 2), "bias")
    norm.parametrizations.weight.original = linear.parametrizations.bias.original  # type: ignore[union-attr]
    groups = decay_groups(nn.Sequential(linear, norm), 0.1, without=("norms",))
    assert linear.parametrizations.bias.original in set(groups[1]["params"])  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_names_are_those_without_wrappers() -> None:
    """Remove prefixes of torch.compile, activation checkpointing, FSDP and DDP, but no word of the model's own."""
    inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    inner[1] = checkpoint_wrapper(inner[1])
    compiled: Any = torch.compile(inner)
    models: list[Any] = [inner, nn.DataParallel(inner), compiled, nn.DataParallel(compiled)]
    for model in models:
        groups = decay_groups(model, 0.1, named=True)
        assert [n for group in groups for n, _ in group["params"]] == ["0.weight", "1.weight", "0.bias", "1.bias"]
        optimizer = RMSprop(model.parameters())
        names = names_of(optimizer.param_groups, model)
        assert list(names.values()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
        groups = [{"params": list(model.named_parameters())}]
        assert list(names_of(RMSprop(groups).param_groups, None).values()) == list(names.values())
    both = nn.ModuleDict({"module": nn.Linear(2, 1, bias=False), "other": nn.Linear(2, 1, bias=False)})
    assert [n for n, _ in decay_groups(both, 0.1, named=True)[0]["params"]] == ["weight", "other.weight"]
    assert plain_name("encoder.module.weight") == "encoder.module.weight"
    assert plain_name("module") == "module"
    wrapped = ["_fsdp_wrapped_module.a._checkpoint_wrapped_module.weight", "module.module._orig_mod.b", "c"]
    assert plain_names(wrapped) == ["a.weight", "b", "c"]
    assert plain_names(["a._orig_mod.w", "a.w", "_orig_mod.b"]) == ["a._orig_mod.w", "a.w", "b"]


def test_a_flat_parameter_of_fsdp_is_refused() -> None:
    """A flat parameter holds biases and weights together; no group can separate them."""
    layer = nn.Linear(2, 2)
    layer.weight._is_flat_param = True  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="use_orig_params=True"):
        decay_groups(layer, 0.1)


def test_names_reach_the_state_dict() -> None:
    optimizer = RMSprop(decay_groups(nn.Linear(2, 2), 0.1, named=True))
    assert [group["param_names"] for group in optimizer.state_dict()["param_groups"]] == [["weight"], ["bias"]]


ERRORS: list[tuple[Any, dict[str, Any], str]] = [
    ([torch.ones(1)], {}, "module must be an nn.Module, whose layers show what is decayed, got a list; pass the model"),
    (nn.Linear(1, 1), {"weight_decay": -1.0}, "weight_decay must be a finite number >= 0, got -1.0"),
    (nn.Linear(1, 1), {"without": ("norm",)}, r"without must be a tuple of biases, norms, depthwise, vectors, got"),
    (nn.Linear(1, 1), {"without": "biases"}, r"without must be a tuple of biases, norms, depthwise, vectors, got"),
    (nn.Linear(1, 1), {"without": None}, r"without must be a tuple of biases, norms, depthwise, vectors, got None"),
    (nn.Linear(1, 1), {"without": ([],)}, r"without must be a tuple of biases, norms, depthwise, vectors, got"),
    (nn.Linear(1, 1), {"without": iter(())}, r"without must be a tuple of biases, norms, depthwise, vectors, got"),
    (nn.Linear(1, 1), {"named": 2}, "named must be True or False, got 2"),
]


@pytest.mark.parametrize(("module", "arguments", "message"), ERRORS)
def test_bad_arguments_are_named(module: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        decay_groups(module, **{"weight_decay": 0.1, **arguments})
