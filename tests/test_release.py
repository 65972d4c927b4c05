"""release_gradients: the bits of ordinary steps, inside the backward pass; each gradient is freed."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import cases
import pytest
import torch
from torch import Tensor, nn

from rmsprop import InputError, Rule
from rmsprop.torch import RMSprop, release_gradients
from rmsprop.torch.groups import FIELDS

EXECUTIONS: dict[str, dict[str, Any]] = {
    "native kernel": {},
    "one by one": {"foreach": False},
    "foreach": {"foreach": True},
    "capturable": {"capturable": True},
}
STEPS = 4


def backward(loss: Any) -> None:
    """Call a method without types."""
    loss.backward()


class Tied(nn.Module):
    """An embedding tied to the output layer, a frozen layer, a layer that is used every other time, and an LSTM."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4, sparse=sparse)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.seldom = nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.turn = 0

    def forward(self, words: Tensor) -> Tensor:
        x = self.frozen(self.embed(words))
        if self.turn % 2:
            x = self.seldom(x)
        self.turn += 1
        x = self.norm(self.lstm(x)[0])
        y: Tensor = x if self.embed.sparse else x @ self.embed.weight.t()
        return y


def batch(seed: int) -> Tensor:
    return torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(seed))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int = 0) -> None:
    for t in range(first, first + STEPS):
        for group in optimizer.param_groups:
            group["lr"] = cases.lr_at(3 * t)
        optimizer.zero_grad()
        model(batch(t)).square().mean().backward()
        optimizer.step()


def same(a: tuple[nn.Module, RMSprop], b: tuple[nn.Module, RMSprop]) -> None:
    """Assert that parameters and state agree bit for bit."""
    for p, q in zip(a[0].parameters(), b[0].parameters(), strict=True):
        assert torch.equal(p, q)
        x, y = a[1].state.get(p, {}), b[1].state.get(q, {})
        assert x.keys() == y.keys()
        for name in x:
            assert x[name] == y[name] if not isinstance(x[name], Tensor) else torch.equal(x[name], y[name])


def pair(make: Callable[[nn.Module], RMSprop], **options: Any) -> tuple[tuple[nn.Module, RMSprop], ...]:
    torch.manual_seed(0)
    model = Tied(**options)
    other = copy.deepcopy(model)
    return (model, make(model)), (other, make(other))


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("rule", cases.RULES.values(), ids=cases.RULES)
def test_every_variant_on_every_path_gives_the_bits_of_ordinary_steps(rule: Rule, execution: dict[str, Any]) -> None:
    """The rate changes; one weight is tied, one layer is frozen, and one has a gradient every other time."""
    released, ordinary = pair(lambda model: RMSprop.from_rule(model.parameters(), rule, **execution))
    with release_gradients(released[1]):
        train(*released)
        assert all(p.grad is None for p in released[0].parameters())
    train(*ordinary)
    same(released, ordinary)
    assert released[1].state[released[0].embed.weight]["step"] == STEPS  # type: ignore[index,union-attr]
    train(*released, first=STEPS)
    train(*ordinary, first=STEPS)
    same(released, ordinary)
    assert any(p.grad is not None for p in released[0].parameters())


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {"state_dtype": "uint8"}),
        (torch.float32, {"state_dtype": "bfloat16"}),
        (torch.bfloat16, {"stochastic_rounding": True}),
        (torch.bfloat16, {"stochastic_rounding": 5, "state_dtype": "uint8"}),
        (torch.float16, {}),
    ],
    ids=str,
)
def test_noise_and_small_state_are_the_same(dtype: torch.dtype, options: dict[str, Any], fused: bool | None) -> None:
    """The noise depends on the parameter's index in its group, not on the parameters stepped with it."""
    rule = cases.RULES["all of it"]

    def make(model: nn.Module) -> RMSprop:
        model.to(dtype)
        params = list(model.parameters())
        return RMSprop.from_rule([{"params": params[:3]}, {"params": params[3:]}], rule, fused=fused, **options)

    released, ordinary = pair(make)
    with release_gradients(released[1]):
        train(*released)
    train(*ordinary)
    same(released, ordinary)


def test_groups_may_differ_in_everything() -> None:
    def make(model: nn.Module) -> RMSprop:
        rules = [cases.RULES[name] for name in ("all of it", "plain", "TensorFlow 1")]
        params = list(model.parameters())
        return RMSprop(
            [
                {"params": params[i::3], **{name: getattr(rule, field) for name, field in FIELDS.items()}}
                for i, rule in enumerate(rules)
            ]
        )

    released, ordinary = pair(make)
    with release_gradients(released[1]):
        train(*released)
    train(*ordinary)
    same(released, ordinary)


@pytest.mark.parametrize("fused", [None, False])
def test_gradients_that_are_not_finite_count_as_zero(fused: bool | None) -> None:
    released, ordinary = pair(lambda model: RMSprop(model.parameters(), nonfinite="zero", fused=fused))
    with release_gradients(released[1]):
        for each in (released, ordinary):
            handle = each[0].get_parameter("norm.weight").register_hook(lambda g: g / 0)  # type: ignore[no-untyped-call]
            train(*each)
            handle.remove()
    same(released, ordinary)
    assert all(p.isfinite().all() for p in released[0].parameters())
    assert released[1].nonfinite_steps == ordinary[1].nonfinite_steps == STEPS


@pytest.mark.parametrize("sparse", ["exact", "lazy"])
def test_sparse_gradients_are_stepped_and_freed_too(sparse: str) -> None:
    released, ordinary = pair(lambda model: RMSprop(model.parameters(), sparse=sparse), sparse=True)
    with release_gradients(released[1]):
        train(*released)
        assert all(p.grad is None for p in released[0].parameters())
    train(*ordinary)
    same(released, ordinary)
    for name, value in released[1].state_dict()["state"][0].items():  # lagging rows are caught up
        assert torch.equal(value, ordinary[1].state_dict()["state"][0][name])


def test_gradients_are_gone_one_by_one() -> None:
    """At no time do two parameters have a gradient."""
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(5)])
    optimizer = RMSprop(model.parameters())
    most = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            lambda _: most.append(sum(q.grad is not None for q in model.parameters()))
        )  # runs before the hook that steps
    with release_gradients(optimizer):
        model(torch.ones(2, 3)).sum().backward()
    assert most == [1] * 10


def test_hooks_schedulers_and_closures_work_as_ever() -> None:
    """A scheduler warns if it misses a step."""
    released, ordinary = pair(lambda model: RMSprop(model.parameters(), lr=0.1))
    calls: list[str] = []
    with release_gradients(released[1]):
        for model, optimizer in (released, ordinary):
            optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

            def closure(model: nn.Module = model, optimizer: RMSprop = optimizer) -> float:
                optimizer.zero_grad()
                loss = model(batch(0)).square().mean()
                loss.backward()
                return float(loss.detach())

            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for _ in range(STEPS):
                    optimizer.step(closure)
                    scheduler.step()
    same(released, ordinary)
    assert calls == ["before"] * 2 * STEPS


def test_loading_a_state_dict_while_released() -> None:
    """Loading creates new groups."""
    released, ordinary = pair(lambda model: RMSprop(model.parameters(), momentum=0.5))
    train(*ordinary)
    released[0].load_state_dict(ordinary[0].state_dict())
    released[0].turn = ordinary[0].turn
    with release_gradients(released[1]):
        released[1].load_state_dict(copy.deepcopy(ordinary[1].state_dict()))
        train(*released, first=STEPS)
    train(*ordinary, first=STEPS)
    same(released, ordinary)


def test_what_is_thawed_or_added_later_is_stepped_by_step() -> None:
    model, added = Tied(), nn.Parameter(torch.ones(2))
    optimizer = RMSprop(model.parameters())
    with release_gradients(optimizer):
        model.frozen.requires_grad_(True)
        optimizer.add_param_group({"params": [added]})
        before = model.frozen.weight.detach().clone()
        backward(model(batch(0)).sum() + added.sum())
        assert added.grad is not None
        assert torch.equal(model.frozen.weight, before)
        optimizer.step()
    torch.testing.assert_close(added.detach(), torch.full((2,), 0.9))
    assert not torch.equal(model.frozen.weight, before)
    assert optimizer.state[model.embed.weight]["step"] == 1


def test_removing_ends_it_and_it_can_begin_anew() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = RMSprop([p])
    handle = release_gradients(optimizer)
    with pytest.raises(
        InputError, match="optimizer must be one without released gradients, got one that has them; call"
    ):
        release_gradients(optimizer)
    handle.remove()
    handle.remove()
    backward(p.sum())
    assert p.grad is not None
    assert torch.equal(p.detach(), torch.ones(2))
    assert not optimizer._optimizer_step_pre_hooks
    with release_gradients(optimizer):
        backward(p.sum())  # adds to the gradient from before
    assert optimizer.state[p]["step"] == 1
    torch.testing.assert_close(p.detach(), torch.full((2,), 0.9))
    assert copy.deepcopy(optimizer).step() is None  # the copy is not released


@pytest.mark.parametrize("change", ["pop", "remove", "swap"])
def test_groups_that_change_are_looked_through(change: str) -> None:
    """A parameter is stepped with the values of the group that holds it now; without a group it is not stepped."""
    values = [torch.full((2,), float(i + 1)).bfloat16() for i in range(4)]

    def make() -> tuple[list[nn.Parameter], RMSprop]:
        ps = [nn.Parameter(value.clone()) for value in values]
        groups = [{"params": ps[:2], "lr": 0.1}, {"params": ps[2:], "lr": 0.01, "alpha": 0.5}]
        return ps, RMSprop(groups, stochastic_rounding=True)

    def alter(optimizer: RMSprop) -> None:
        groups = optimizer.param_groups
        if change == "pop":
            groups.pop(0)
        elif change == "remove":
            del groups[0]["params"][0]
        else:
            groups.reverse()

    (ps, released), (qs, ordinary) = make(), make()
    out = {"pop": {0, 1}, "remove": {0}, "swap": set()}[change]
    with release_gradients(released):
        alter(released)
        alter(ordinary)
        for _ in range(3):
            for each in (ps, qs):
                backward(sum(p.float().square().sum() for p in each))
            ordinary.step()
            ordinary.zero_grad()
    for i, (p, q) in enumerate(zip(ps, qs, strict=True)):
        assert torch.equal(p, q)
        assert (p.grad is not None) == (i in out)
        assert torch.equal(p.detach(), values[i]) == (i in out)


def test_a_gradient_is_gone_even_if_its_step_fails() -> None:
    """Otherwise the next backward pass would add to the gradient."""
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = RMSprop([p, q])
    with release_gradients(optimizer):
        backward(p.sum() + q.sum())
        before = optimizer.implementation
        optimizer.param_groups[0]["alpha"] = 2.0
        with pytest.raises(InputError, match="alpha must be"):
            backward(p.sum())
        assert p.grad is None
        assert optimizer.implementation == before
        optimizer.param_groups[0]["alpha"] = 0.9
        backward(p.sum())
    assert optimizer.state[p]["step"] == 2


class Doubling(RMSprop):
    """Overrides `step`, which released gradients would bypass."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        return super().step(closure)


ERRORS: list[tuple[Any, str]] = [
    (
        lambda p: Doubling([p]),
        "optimizer must be one with the step of rmsprop.torch.RMSprop, got a Doubling, which has its own; released",
    ),
    (lambda p: torch.optim.RMSprop([p]), "optimizer must be an rmsprop.torch.RMSprop, got a RMSprop; release works"),
    (
        lambda p: RMSprop([p], nonfinite="skip"),
        "nonfinite must be 'propagate' or 'zero' with released gradients, got 's",
    ),
    (lambda p: RMSprop([p], differentiable=True), "differentiable must be False with released gradients, got True"),
]


@pytest.mark.parametrize(("make", "message"), ERRORS)
def test_what_cannot_be_released_is_refused(make: Callable[[Tensor], Any], message: str) -> None:
    p = nn.Parameter(torch.ones(1))
    with pytest.raises(InputError, match=f"^{message}"):
        release_gradients(make(p))
    backward(p.sum())
    assert p.grad is not None  # no hook is left


def test_skipping_that_is_asked_for_later_is_refused_by_the_next_backward() -> None:
    p = nn.Parameter(torch.ones(1))
    optimizer = RMSprop([p])
    with release_gradients(optimizer):
        optimizer.param_groups[0]["nonfinite"] = "skip"
        with pytest.raises(InputError, match="nonfinite must be 'propagate' or 'zero'"):
            backward(p.sum())
    assert p.item() == 1


def test_what_ran_is_told_of_all_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).to(torch.float64))
    groups: list[dict[str, Any]] = [{"params": layer.parameters()} for layer in model]
    optimizer = RMSprop([groups[0], {**groups[1], "foreach": False}])
    before = optimizer.implementation
    with release_gradients(optimizer):
        model[0](torch.ones(1, 2)).sum().backward()
        assert optimizer.implementation == before


def test_a_scaler_is_refused() -> None:
    """The scaler would look for infinities after the steps, and would unscale gradients that are freed."""
    for fused, unscale in itertools.product((True, None, False), (False, True)):
        p, thawed = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)
        optimizer = RMSprop([p, thawed], fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        with release_gradients(optimizer):
            thawed.requires_grad_(True)  # added later: its gradient stays for the scaler
            backward(scaler.scale(p.sum() + thawed.sum()))
            if unscale:
                scaler.unscale_(optimizer)
            with pytest.raises(
                InputError, match="GradScaler must be unused with released gradients, got a step called"
            ):
                scaler.step(optimizer)
        assert torch.equal(thawed.detach(), torch.ones(2))
        assert not {"grad_scale", "found_inf"} & optimizer.__dict__.keys()
        assert optimizer._step_supports_amp_scaling == (fused is True)


def test_several_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(InputError, match="the number of ranks must be 1 with released gradients, got 2; DDP averages"):
        release_gradients(RMSprop([nn.Parameter(torch.ones(1))]))
