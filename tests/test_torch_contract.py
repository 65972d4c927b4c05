"""What PyTorch promises of every optimizer, compared with torch.optim.RMSprop wherever possible.

`test_torch.py` compares numbers with the rule, and `test_fused.py` tests the paths. This file tests what training code
relies on.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import cases
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from rmsprop import Rule
from rmsprop.torch import RMSprop

BOTH: tuple[Any, Any] = (RMSprop, torch.optim.RMSprop)
SUMS: Any = {"rtol": 1e-12, "atol": 1e-15}  # two orders of the same operations in float64


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def give_gradients(params: list[Tensor], seed: int) -> None:
    for i, p in enumerate(params):
        p.grad = randn(*p.shape, seed=100 * seed + i, dtype=p.dtype)


def backward(loss: Tensor) -> None:
    torch.autograd.backward([loss])


def parameters(count: int = 2) -> list[Tensor]:
    return [nn.Parameter(randn(3, 2, seed=i)) for i in range(count)]


# -- learning rate schedulers ------------------------------------------------------------------------------------------

Make = Callable[[Optimizer], Any]
SCHEDULERS: dict[str, Make] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.8 + 0.01 * t),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 7, 0.3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 11, 20], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.25, 9),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 12),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.93),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 20, 1e-4),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 25, 2.0),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 6, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 2e-2, 5, cycle_momentum=True),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 3e-2, total_steps=31, cycle_momentum=True),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=2, factor=0.4),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.9)], [6]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 2e-3, anneal_epochs=8),
}


def test_no_stock_scheduler_is_missing_from_the_table() -> None:
    theirs = {
        name
        for name in lr_scheduler.__all__
        if isinstance(getattr(lr_scheduler, name), type) and name not in ("LRScheduler",)
    }
    assert theirs | {"SWALR"} == set(SCHEDULERS)


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # of SequentialLR itself, in older torch
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float lr", "Tensor lr"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_stock_scheduler_drives_it_as_it_drives_torchs(name: str, tensor_lr: bool) -> None:
    """The same rates, momenta, losses and parameters over 30 steps; two groups have different rates."""
    paths = []
    for optimizer_class in BOTH:
        params = parameters()
        rate = (lambda x: torch.tensor(x, dtype=torch.float64)) if tensor_lr else float
        groups: list[dict[str, Any]] = [{"params": params[:1]}, {"params": params[1:], "lr": rate(0.005)}]
        optimizer = optimizer_class(groups, lr=rate(0.02), momentum=0.8)
        scheduler, path = SCHEDULERS[name](optimizer), []
        for t in range(30):
            give_gradients(params, t)
            optimizer.step()
            scheduler.step(*([1.0 / (t + 1) if t < 5 else 1.0] if name == "ReduceLROnPlateau" else []))
            path += [float(g[key]) for g in optimizer.param_groups for key in ("lr", "momentum")]
            assert all(isinstance(g["lr"], Tensor) == tensor_lr for g in optimizer.param_groups) or tensor_lr
        paths.append((path, scheduler.state_dict().get("_last_lr"), params))
    (ours, last, p), (theirs, their_last, q) = paths
    assert ours == theirs
    assert len(set(ours)) > 3
    assert last == their_last
    torch.testing.assert_close(p, q, **SUMS)


def test_a_scheduler_fills_the_tensor_it_was_given() -> None:
    """torch's schedulers change a Tensor lr in place, because compiled and captured steps hold it."""
    lr = torch.tensor(0.1)
    optimizer = RMSprop(parameters(), lr=lr)
    scheduler: LRScheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    give_gradients(optimizer.param_groups[0]["params"], 0)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == pytest.approx(0.05)


# -- hooks -------------------------------------------------------------------------------------------------------------


def test_hooks_on_state_dicts_run_in_torchs_order_see_what_torchs_see_and_can_be_removed() -> None:
    stories = []
    for optimizer_class in BOTH:
        params, story = parameters(1), list[Any]()
        optimizer = optimizer_class(params)
        give_gradients(params, 0)
        optimizer.step()

        def tell(word: str, story: list[Any] = story) -> Callable[..., None]:
            return lambda *given: story.append((word, [sorted(x) for x in given[1:]]))

        handles = [
            optimizer.register_state_dict_pre_hook(tell("before making 1")),
            optimizer.register_state_dict_pre_hook(tell("before making 2"), prepend=True),
            optimizer.register_state_dict_post_hook(tell("after making 1")),
            optimizer.register_state_dict_post_hook(tell("after making 2"), prepend=True),
            optimizer.register_load_state_dict_pre_hook(tell("before loading 1")),
            optimizer.register_load_state_dict_pre_hook(tell("before loading 2"), prepend=True),
            optimizer.register_load_state_dict_post_hook(tell("after loading 1")),
            optimizer.register_load_state_dict_post_hook(tell("after loading 2"), prepend=True),
        ]
        optimizer.load_state_dict(optimizer.state_dict())
        for handle in handles[::2]:
            handle.remove()
        optimizer.load_state_dict(optimizer.state_dict())
        stories.append(story)
    assert stories[0] == stories[1]
    assert len(stories[0]) == 12


def test_hooks_may_replace_a_state_dict_on_its_way_out_and_in() -> None:
    for optimizer_class in BOTH:
        params = parameters(1)
        optimizer = optimizer_class(params, lr=0.5)
        give_gradients(params, 0)
        optimizer.step()

        def faster(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            return {**given, "param_groups": [{**g, "lr": 2 * g["lr"]} for g in given["param_groups"]]}

        optimizer.register_state_dict_post_hook(faster)
        optimizer.register_load_state_dict_pre_hook(faster)
        optimizer.load_state_dict(optimizer.state_dict())
        assert optimizer.param_groups[0]["lr"] == 2.0


def test_a_step_hook_may_change_gradients_and_a_removed_one_is_silent() -> None:
    for optimizer_class in BOTH:
        params = parameters(1)
        optimizer = optimizer_class(params)
        handle = optimizer.register_step_pre_hook(lambda o, *_: o.zero_grad(set_to_none=False))
        before = params[0].detach().clone()
        give_gradients(params, 0)
        optimizer.step()
        assert torch.equal(params[0], before)
        handle.remove()
        give_gradients(params, 0)
        optimizer.step()
        assert not torch.equal(params[0], before)


# -- state dicts -------------------------------------------------------------------------------------------------------


def test_a_state_dict_has_the_structure_of_torchs() -> None:
    """The same keys and numbers. Groups have more keys, which torch's own class accepts."""
    dicts = []
    for optimizer_class in BOTH:
        params = parameters(3)
        optimizer = optimizer_class([{"params": [("a", params[0])]}, {"params": [("b", params[1]), ("c", params[2])]}],
                                    momentum=0.5, centered=True)  # fmt: skip
        give_gradients(params[:2], 0)
        optimizer.step()
        dicts.append(optimizer.state_dict())
    ours, theirs = dicts
    assert list(ours) == list(theirs)
    assert [g["params"] for g in ours["param_groups"]] == [g["params"] for g in theirs["param_groups"]] == [[0], [1, 2]]
    assert [g["param_names"] for g in ours["param_groups"]] == [["a"], ["b", "c"]]
    assert all(set(b) <= set(a) for a, b in zip(ours["param_groups"], theirs["param_groups"], strict=True))
    assert ours["state"].keys() == theirs["state"].keys() == {0, 1}
    for number, state in theirs["state"].items():
        assert ours["state"][number].keys() == state.keys()
        for name, value in state.items():
            value = value.double() if name == "step" else value  # torch's float32 counts to 2²⁴ only
            torch.testing.assert_close(ours["state"][number][name], value, **SUMS)


def test_a_state_dict_refers_to_the_state_and_so_does_what_loads_it() -> None:
    for optimizer_class in BOTH:
        params = parameters(1)
        first, second = optimizer_class(params), optimizer_class(params)
        give_gradients(params, 0)
        first.step()
        saved = first.state_dict()
        assert saved["state"][0]["square_avg"] is first.state[params[0]]["square_avg"]
        second.load_state_dict(saved)
        assert second.state[params[0]]["square_avg"].data_ptr() == first.state[params[0]]["square_avg"].data_ptr()
        second.load_state_dict(copy.deepcopy(saved))
        kept = second.state[params[0]]["square_avg"].clone()
        first.step()
        assert torch.equal(second.state[params[0]]["square_avg"], kept)
        assert second.param_groups[0]["params"][0] is params[0]


def test_a_group_added_later_is_saved_and_loaded_with_the_rest() -> None:
    ends = []
    for first_class, second_class in ((RMSprop, RMSprop), (RMSprop, BOTH[1]), (BOTH[1], RMSprop), (BOTH[1], BOTH[1])):
        params = parameters(2)
        first = first_class(params[:1], momentum=0.5)
        give_gradients(params, 0)
        first.step()
        first.add_param_group({"params": params[1:], "lr": 0.2, "momentum": 0.9})
        first.step()
        second = second_class([{"params": params[:1]}, {"params": params[1:]}])
        second.load_state_dict(first.state_dict())
        assert [float(second.state[p]["step"]) for p in params] == [2, 1]
        give_gradients(params, 1)
        second.step()
        ends.append(params)
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], **SUMS)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_with_its_model_shares_the_copied_parameters(copier: Callable[[Any], Any]) -> None:
    model = nn.Linear(2, 2)
    optimizer = RMSprop(model.named_parameters(), momentum=0.5)
    give_gradients(list(model.parameters()), 0)
    optimizer.step()
    other_model, other = copier((model, optimizer))
    assert [id(p) for p in other_model.parameters()] == [id(p) for p in other.param_groups[0]["params"]]
    assert set(other.state) == set(other_model.parameters())
    assert other.defaults == optimizer.defaults
    assert not set(map(id, other.state)) & set(map(id, optimizer.state))


def test_a_file_is_read_with_weights_only() -> None:
    params, file = parameters(2), io.BytesIO()
    optimizer = RMSprop(params, lr=torch.tensor(0.5), momentum=0.5)
    give_gradients(params, 0)
    optimizer.step()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    again = RMSprop(params)
    again.load_state_dict(read)
    assert float(again.param_groups[0]["lr"]) == 0.5
    for p in params:
        for name, value in optimizer.state[p].items():
            assert torch.equal(again.state[p][name], value)


# -- parameter groups --------------------------------------------------------------------------------------------------


def test_parameters_may_come_from_a_generator_a_tuple_groups_or_with_names() -> None:
    params = parameters(2)

    def generated() -> Iterator[Tensor]:
        yield from params

    forms: list[Any] = [
        params, tuple(params), generated(), [{"params": generated()}], [{"params": params[0]}, {"params": params[1:]}],
        iter([("first", params[0]), ("second", params[1])]), {"a": params[0], "b": params[1]}.items(),
    ]  # fmt: skip
    for form in forms:
        optimizer = RMSprop(form)
        assert [p for g in optimizer.param_groups for p in g["params"]] == params


def test_a_group_keeps_what_it_says_and_takes_the_rest_from_the_defaults() -> None:
    params = parameters(2)
    groups: list[dict[str, Any]] = [{"params": params[:1], "alpha": 0.5, "mine": "kept"}, {"params": params[1:]}]
    optimizer = RMSprop(groups, lr=0.3, eps=0.1)
    first, second = optimizer.param_groups
    assert (first["alpha"], first["lr"], first["eps"], first["mine"]) == (0.5, 0.3, 0.1, "kept")
    assert {k: v for k, v in second.items() if k not in ("params", "state_version")} == optimizer.defaults
    assert optimizer.rule(0) == Rule(lr=0.3, decay=0.5, eps=0.1)


def test_an_empty_group_is_no_obstacle() -> None:
    for optimizer_class in BOTH:
        params = parameters(1)
        optimizer = optimizer_class([{"params": []}, {"params": params}])
        give_gradients(params, 0)
        optimizer.step()
        optimizer.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
        assert float(optimizer.state[params[0]]["step"]) == 1


def _non_leaf() -> Tensor:
    return nn.Parameter(torch.ones(2)) * 2


TWICE = nn.Parameter(torch.ones(2))
BAD_PARAMETERS: dict[str, Callable[[], Any]] = {
    "nothing": list,
    "a tensor": lambda: torch.ones(2),
    "numbers": lambda: [1.0, 2.0],
    "a set": lambda: [{"params": {TWICE}}],
    "a result": lambda: [_non_leaf()],
    "in two groups": lambda: [{"params": [TWICE]}, {"params": [TWICE]}],
    "some with names": lambda: [("a", TWICE), nn.Parameter(torch.ones(2))],
    "groups, some with names": lambda: [{"params": [("a", TWICE)]}, {"params": [nn.Parameter(torch.ones(2))]}],
    "a group without params": lambda: [{"lr": 0.1}],
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_parameters_that_torch_refuses_are_refused_with_the_same_error(name: str) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        torch.optim.RMSprop(BAD_PARAMETERS[name]())
    with pytest.raises(type(theirs.value)) as ours:
        RMSprop(BAD_PARAMETERS[name]())
    assert type(ours.value) is type(theirs.value)
    assert str(ours.value) == str(theirs.value)


def test_a_parameter_twice_in_one_group_is_warned_of() -> None:
    for optimizer_class in BOTH:
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer_class([TWICE, TWICE])


BAD_VALUES: list[dict[str, Any]] = [
    {"lr": -0.1}, {"eps": -1e-8}, {"momentum": -0.5}, {"weight_decay": -0.1}, {"alpha": -0.1},
    {"lr": torch.tensor([0.1, 0.2])},
]  # fmt: skip


@pytest.mark.parametrize("values", BAD_VALUES, ids=str)
def test_values_that_torch_refuses_are_refused_with_the_same_kind_of_error(values: dict[str, Any]) -> None:
    params = parameters(2)
    with pytest.raises(ValueError):  # noqa: PT011
        torch.optim.RMSprop(params, **values)
    with pytest.raises(ValueError, match=next(iter(values))):
        RMSprop(params, **values)
    optimizer = RMSprop(params[:1])
    with pytest.raises(ValueError, match=next(iter(values))):  # torch accepts it here, and fails later
        optimizer.add_param_group({"params": params[1:], **values})
    assert len(optimizer.param_groups) == 1


def test_a_state_dict_of_other_groups_is_refused() -> None:
    params = parameters(2)
    for optimizer_class in BOTH:
        one, two = optimizer_class(params), optimizer_class([{"params": params[:1]}, {"params": params[1:]}])
        with pytest.raises(ValueError, match="group"):
            one.load_state_dict(two.state_dict())


def test_it_prints_as_torchs_does_with_its_own_arguments_besides() -> None:
    ours, theirs = (repr(optimizer_class(parameters(), lr=0.5)) for optimizer_class in BOTH)
    assert ours.splitlines()[:2] == theirs.splitlines()[:2] == ["RMSprop (", "Parameter Group 0"]
    assert set(theirs.splitlines()) <= set(ours.splitlines())
    assert "    nesterov: False" in ours.splitlines()
    assert isinstance(RMSprop(parameters()), Optimizer)


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"foreach": True}, {"capturable": True}], ids=str)
@pytest.mark.parametrize("name", cases.RULES)
def test_a_step_with_zero_gradients_moves_only_by_weight_decay_and_momentum(name: str, options: dict[str, Any]) -> None:
    rule = cases.RULES[name]
    params = [torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)]
    start = [p.clone() for p in params]
    optimizer = RMSprop.from_rule(params, rule, **options)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, q in zip(params, start, strict=True):
        assert torch.equal(p, q) == (rule.weight_decay == 0)
        assert torch.equal(p[q == 0], q[q == 0])
    give_gradients(params, 0)
    optimizer.step()
    moved = [p.clone() for p in params]
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, q in zip(params, moved, strict=True):
        # A centered update of a zero gradient is also zero: only the denominator uses the mean.
        assert torch.equal(p, q) == (rule.weight_decay == 0 and rule.momentum == 0)


def test_no_gradient_is_no_step_and_makes_no_state() -> None:
    for optimizer_class in BOTH:
        params = parameters(3)
        params[1].requires_grad_(False)
        optimizer = optimizer_class(params, weight_decay=0.5, momentum=0.5)
        before = [p.detach().clone() for p in params]
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
        assert set(optimizer.state) == {params[0]}
        assert [torch.equal(p, q) for p, q in zip(params, before, strict=True)] == [False, True, True]


def test_a_gradient_counts_though_its_parameter_has_been_frozen_since() -> None:
    ends = []
    for optimizer_class in BOTH:
        (p,) = parameters(1)
        give_gradients([p], 0)
        p.requires_grad_(False)
        optimizer = optimizer_class([p])
        optimizer.step()
        ends.append(p)
    torch.testing.assert_close(*ends, **SUMS)


def test_a_closure_is_called_once_with_gradients_on_and_its_loss_returned() -> None:
    for optimizer_class in BOTH:
        (p,) = parameters(1)
        optimizer, seen = optimizer_class([p]), list[bool]()

        def closure(p: Tensor = p, optimizer: Optimizer = optimizer, seen: list[bool] = seen) -> Tensor:
            seen.append(torch.is_grad_enabled())
            optimizer.zero_grad()
            loss = p.square().sum()
            backward(loss)
            return loss

        before = p.detach().square().sum()
        with torch.no_grad():
            loss: Any = optimizer.step(closure)
        assert seen == [True]
        assert torch.equal(loss, before)
        assert p.square().sum() < before
        assert not optimizer.state[p]["square_avg"].requires_grad


def test_a_closure_that_fails_changes_nothing() -> None:
    for optimizer_class in BOTH:
        (p,) = parameters(1)
        p.grad = torch.ones_like(p)
        before = p.detach().clone()

        def closure() -> float:
            raise ZeroDivisionError

        optimizer = optimizer_class([p])
        with pytest.raises(ZeroDivisionError):
            optimizer.step(closure)
        assert torch.equal(p, before)
        assert not optimizer.state


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_a_step_is_the_same_in_every_gradient_mode_and_leaves_no_trace_in_autograd(mode: Callable[[], Any]) -> None:
    ends = []
    for under in (torch.no_grad, mode):
        params = parameters(2)
        optimizer = RMSprop(params, momentum=0.5, weight_decay=0.1)
        for t in range(2):
            give_gradients(params, t)
            with under():
                optimizer.step()
        assert all(p.is_leaf and p.grad_fn is None for p in params)
        ends.append(params)
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


def test_complex_parameters_follow_torchs() -> None:
    ends = []
    for optimizer_class in BOTH:
        p = randn(4, dtype=torch.complex128)
        optimizer = optimizer_class([p], momentum=0.5, centered=True, weight_decay=0.1)
        for t in range(5):
            give_gradients([p], t)
            optimizer.step()
        ends.append(p)
    torch.testing.assert_close(*ends, **SUMS)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_lr_equals_the_number_in_it(shape: tuple[int, ...]) -> None:
    """torch accepts a Tensor of one element since 2.13, and with foreach only if capturable."""
    choices: list[dict[str, Any]] = [{}, {"foreach": False}, {"foreach": True}, {"capturable": True}]
    for options in choices:
        ends = []
        for lr in (0.03, torch.full(shape, 0.03, dtype=torch.float64)):
            params = parameters(2)
            optimizer = RMSprop(params, lr=lr, **options)
            for t in range(3):
                give_gradients(params, t)
                optimizer.step()
            ends.append(params)
        torch.testing.assert_close(*ends, **SUMS)


# -- together with the rest of torch -----------------------------------------------------------------------------------


def network(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network and data that it can learn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    x = randn(32, 4, seed=1, dtype=torch.float32)
    return model, x, x[:, :1] - x[:, 1:2] * x[:, 2:3]


def test_clipping_by_norm_and_by_value_come_before_the_step() -> None:
    for clip in (nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_):
        ends = []
        for optimizer_class in BOTH:
            model, x, y = network()
            optimizer = optimizer_class(model.parameters(), eps=0.1)
            for _ in range(5):
                optimizer.zero_grad()
                backward(nn.functional.mse_loss(model(x), y))
                clip(model.parameters(), 0.01)
                optimizer.step()
            ends.append(list(model.parameters()))
        torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_weights_are_averaged_by_swa_utils() -> None:
    model, x, y = network()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    optimizer = RMSprop(model.parameters(), lr=0.01)
    scheduler = torch.optim.swa_utils.SWALR(optimizer, swa_lr=1e-3, anneal_epochs=2)
    seen = []
    for _ in range(4):
        optimizer.zero_grad()
        backward(nn.functional.mse_loss(model(x), y))
        optimizer.step()
        scheduler.step()
        averaged.update_parameters(model)
        seen.append([p.detach().clone() for p in model.parameters()])
    for p, *values in zip(averaged.module.parameters(), *seen, strict=True):
        torch.testing.assert_close(p.detach(), torch.stack(values).mean(0))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}], ids=str)
def test_float16_autocast_with_a_grad_scaler_trains_and_an_overflow_lowers_the_scale(options: dict[str, Any]) -> None:
    model, x, y = network()
    optimizer = RMSprop(model.parameters(), lr=0.01, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=1000)
    losses, skipped = [], 0
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = nn.functional.mse_loss(model(x), y)
        before = [p.detach().clone() for p in model.parameters()]
        backward(scaler.scale(loss))
        scaler.step(optimizer)
        scale = scaler.get_scale()
        scaler.update()
        fell = scaler.get_scale() < scale
        assert fell == all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        skipped += fell
        losses.append(float(loss.detach()))
    assert 0 < skipped < 40
    assert losses[-1] < 0.3 * losses[0]
    assert {float(own["step"]) for own in optimizer.state.values()} == {60 - skipped}


def test_bfloat16_autocast_trains() -> None:
    model, x, y = network()
    optimizer, losses = RMSprop(model.parameters(), lr=0.01), []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(model(x), y)
        backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    assert all(own["square_avg"].dtype == torch.float32 for own in optimizer.state.values())


# -- many processes ----------------------------------------------------------------------------------------------------

RANKS = 2
WAYS = ["DistributedDataParallel", "ZeroRedundancyOptimizer"]
if hasattr(torch.cpu.Stream, "record_event"):  # before torch 2.7, FSDP2 needs a GPU
    WAYS.append("fully_shard")


def train_on_a_rank(rank: int, folder: str) -> None:
    """Train a network in each of WAYS on this rank's part of the data, and write its parameters."""
    torch.set_num_threads(1)
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    try:
        for way in WAYS:
            train_one_way(way, rank, folder)
    finally:
        distributed.destroy_process_group()


def train_one_way(way: str, rank: int, folder: str) -> None:
    model, x, y = network()
    x, y = x[rank::RANKS], y[rank::RANKS]
    options: dict[str, Any] = {"lr": 0.01, "alpha": 0.9, "eps": 0.01, "momentum": 0.5, "weight_decay": 0.1}
    if way == "fully_shard":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    else:
        model = nn.parallel.DistributedDataParallel(model)
    if way == "ZeroRedundancyOptimizer":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        optimizer: Optimizer = ZeroRedundancyOptimizer(model.parameters(), RMSprop, **options)
    else:
        optimizer = RMSprop(model.parameters(), **options)
    for _ in range(6):
        optimizer.zero_grad()
        backward(nn.functional.mse_loss(model(x), y))
        optimizer.step()
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    torch.save([p.detach() for p in whole], f"{folder}/{way}-{rank}.pt")


@pytest.mark.slow
def test_two_processes_train_what_one_process_trains(tmp_path: Any) -> None:
    """Both ranks end with the same bits, close to torch's class trained on all data in one process."""
    processes: Any = torch.multiprocessing
    processes.start_processes(train_on_a_rank, (str(tmp_path),), RANKS, start_method="forkserver")
    model, x, y = network()
    options: dict[str, Any] = {"lr": 0.01, "alpha": 0.9, "eps": 0.01, "momentum": 0.5, "weight_decay": 0.1}
    optimizer = torch.optim.RMSprop(model.parameters(), **options)
    for _ in range(6):
        optimizer.zero_grad()
        backward(nn.functional.mse_loss(model(x), y))
        optimizer.step()
    for way in WAYS:
        first, second = (torch.load(tmp_path / f"{way}-{rank}.pt", weights_only=True) for rank in range(RANKS))
        for a, b, p in zip(first, second, model.parameters(), strict=True):
            assert torch.equal(a, b), way
            torch.testing.assert_close(a, p.detach(), rtol=1e-4, atol=1e-5)


# -- findings of the fuzzer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreach", [False, True])
def test_a_bfloat16_parameter_with_the_state_of_a_wider_one_is_rounded_stochastically(foreach: bool) -> None:
    """After model.double() and model.bfloat16() the average is float64, and so is the value that is rounded."""
    params = [torch.ones(64, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    optimizer = RMSprop(params, lr=1e-4, foreach=foreach)
    give_gradients(params, 0)
    optimizer.step()
    for p in params:
        p.grad = None
        p.data = p.data.bfloat16()
    optimizer.param_groups[0]["stochastic_rounding"] = True
    assert all(optimizer.state[p]["square_avg"].dtype == torch.float64 for p in params)
    optimizer.param_groups[0].update(momentum=0.5)
    before = [p.clone() for p in params]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p in params:  # no value passes through float32
        own = optimizer.state[p]
        torch.testing.assert_close(own["momentum_buffer"], 1 / (own["square_avg"].sqrt() + 1e-8), **SUMS)
    assert 0 < (params[0] != before[0]).sum() < 64, "a step of less than the distance of two numbers is made by some"
