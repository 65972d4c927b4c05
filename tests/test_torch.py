"""rmsprop.torch.RMSprop: equal to the rule, a drop-in for torch.optim.RMSprop, and sound where torch's fails."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import cases
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rmsprop import InputError, Rule, State, init, update
from rmsprop.hyperparameters import EVERYWHERE
from rmsprop.rule import AVERAGES, denominator
from rmsprop.torch import RMSprop
from rmsprop.torch.groups import FIELDS

EXECUTIONS: dict[str, dict[str, Any]] = {
    "native kernel": {"fused": True},
    "one by one": {"foreach": False},
    "foreach": {"foreach": True},
    "capturable": {"capturable": True},
    "capturable foreach": {"capturable": True, "foreach": True},
    "differentiable": {"differentiable": True},
}


def tensors(dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return three parameters of different shapes, and their gradients for every step."""
    start, gradients = cases.problem(np.float64, 60, seed)

    def cut(x: np.ndarray[Any, Any]) -> list[Tensor]:
        whole = torch.from_numpy(x.copy()).to(dtype)
        parts = [whole[:6], whole[6:30], whole[30:]]
        return [parts[0].reshape(3, 2).t(), parts[1].reshape(2, 3, 4).clone(), parts[2].clone()]

    return cut(start), [cut(g) for g in gradients]


def step(optimizer: torch.optim.Optimizer, params: list[Tensor], gradients: list[Tensor]) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = g.clone()
    optimizer.step()


# -- equal to the rule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("rule", cases.RULES.values(), ids=cases.RULES)
def test_every_variant_on_every_path_equals_the_rule(rule: Rule, execution: dict[str, Any]) -> None:
    """Compare parameters and all state after every step, in float64, while the rate changes."""
    params, gradients = tensors(torch.float64)
    optimizer = RMSprop.from_rule(params, rule, **execution)
    expected = [(p.numpy().copy(), init(rule, p.numpy())) for p in params]
    for t, now in enumerate(gradients, start=1):
        optimizer.param_groups[0]["lr"] = cases.lr_at(t)
        step(optimizer, params, now)
        current = dataclasses.replace(rule, lr=cases.lr_at(t))
        expected = [update(current, p, g.numpy(), s) for (p, s), g in zip(expected, now, strict=True)]
        for p, (value, state) in zip(params, expected, strict=True):
            mine = optimizer.state[p]
            np.testing.assert_allclose(p.detach().numpy(), value, rtol=1e-11, atol=1e-13)
            for name in AVERAGES:
                if getattr(state, name) is None:
                    assert name not in mine
                else:
                    np.testing.assert_allclose(
                        mine[name].detach().numpy(), getattr(state, name), rtol=1e-11, atol=1e-13
                    )
            assert mine["step"].item() == state.step


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("rule", cases.RULES.values(), ids=cases.RULES)
def test_float32_is_within_a_few_units_in_the_last_place_of_the_rule(rule: Rule, foreach: bool) -> None:
    """Each step starts from the rule's own state: errors cannot add up or cancel."""
    params, gradients = tensors(torch.float32)
    optimizer = RMSprop.from_rule(params, rule, foreach=foreach)
    expected = [(p.numpy().copy(), init(rule, p.numpy())) for p in params]
    eps = float(np.finfo(np.float32).eps)
    for now in gradients:
        before = [value for value, _ in expected]
        expected = [update(rule, p, g.numpy(), s) for (p, s), g in zip(expected, now, strict=True)]
        step(optimizer, params, now)
        for p, (value, state), old in zip(params, expected, before, strict=True):
            assert p.grad is not None
            size = np.abs(old) + np.abs(value - old)
            # If centered, s = v − m² loses the digits that v and m² share.
            lost = 1.0
            if rule.centered:
                assert state.grad_avg is not None
                lost = 1 + state.square_avg / np.maximum(np.abs(state.square_avg - state.grad_avg**2), 1e-30)
                lost = np.minimum(lost, 1 / (4 * eps)) * (1e3 if rule.bias_correction else 1)
            assert np.all(np.abs(p.numpy() - value) <= 8 * eps * size * lost + 1e-12)
            # g + λ·p also loses digits where the two almost cancel.
            terms = np.square(np.abs(p.grad.numpy()) + rule.weight_decay * np.abs(old))
            difference = np.abs(optimizer.state[p]["square_avg"].numpy() - state.square_avg)
            assert np.all(difference <= 4 * eps * (state.square_avg + (1 - rule.decay) * terms))
            with torch.no_grad():
                p.copy_(torch.from_numpy(value))
                for name in AVERAGES:
                    if getattr(state, name) is not None:
                        optimizer.state[p][name].copy_(torch.from_numpy(getattr(state, name)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", ["plain", "TensorFlow 1", "all of it"])
def test_half_precision_is_the_float32_rule_rounded_once(dtype: torch.dtype, foreach: bool, name: str) -> None:
    rule = cases.RULES[name]
    params, gradients = tensors(dtype)
    optimizer = RMSprop.from_rule(params, rule, foreach=foreach)
    states = [init(rule, p.float().numpy()) for p in params]
    for now in gradients[:4]:
        before = [p.float().numpy() for p in params]
        step(optimizer, params, now)
        for i, p in enumerate(params):
            value, states[i] = update(rule, before[i], now[i].float().numpy(), states[i])
            # A value halfway between two half numbers may round either way: hence one unit of the half dtype.
            torch.testing.assert_close(p, torch.from_numpy(value).to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
            assert all(optimizer.state[p][k].dtype == torch.float32 for k in AVERAGES if k in optimizer.state[p])
            assert p.dtype == dtype


def test_float16_with_a_zero_gradient_stays_as_it_is() -> None:
    """torch makes it NaN at the first step: its eps of 1e-8 is 0 in float16."""
    ours, theirs = torch.ones(3, dtype=torch.float16), torch.ones(3, dtype=torch.float16)
    for p, optimizer in ((ours, RMSprop([ours])), (theirs, torch.optim.RMSprop([theirs]))):
        step(optimizer, [p], [torch.zeros_like(p)])
    assert torch.equal(ours, torch.ones(3, dtype=torch.float16))
    assert theirs.isnan().all()


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("rule", cases.RULES.values(), ids=cases.RULES)
def test_complex_parameters_are_two_reals(rule: Rule, foreach: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(3, 2, dtype=torch.complex128, generator=generator) for _ in range(2)]
    pairs = [torch.view_as_real(p).clone() for p in start]
    a, b = RMSprop.from_rule(start, rule, foreach=foreach), RMSprop.from_rule(pairs, rule, foreach=foreach)
    for _ in range(5):
        g = [torch.randn(3, 2, dtype=torch.complex128, generator=generator) for _ in range(2)]
        step(a, start, g)
        step(b, pairs, [torch.view_as_real(x) for x in g])
    for p, q in zip(start, pairs, strict=True):
        assert torch.equal(torch.view_as_real(p), q)
        assert a.state[p]["square_avg"].is_complex()


@given(st.data())
def test_finite_gradients_give_finite_parameters_for_every_variant(data: st.DataObject) -> None:
    """In every dtype, one by one and foreach. Gradients too large for float16 are not drawn for float16."""
    rule, gradients = data.draw(cases.rules()), data.draw(cases.gradients())
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for foreach in (False, True):
            # In half precision the steps must be finite, too: at the floor of the variance they are 1e3 times lr or
            # more.
            lr = 1e-6 if dtype == torch.float16 else rule.lr
            params = [torch.ones(1, dtype=dtype), torch.ones(2, dtype=dtype)]
            optimizer = RMSprop.from_rule(params, dataclasses.replace(rule, lr=lr), foreach=foreach)
            for gradient in gradients:
                limit = float(torch.finfo(dtype).max)
                step(optimizer, params, [torch.full_like(p, max(-limit, min(limit, gradient))) for p in params])
            assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("foreach", [False, True])
def test_zero_gradients_without_eps_change_nothing(foreach: bool) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        params = [torch.ones(3, dtype=dtype), torch.ones(2, dtype=dtype)]
        optimizer = RMSprop(params, eps=0.0, momentum=0.5, foreach=foreach)
        for _ in range(3):
            step(optimizer, params, [torch.zeros_like(p) for p in params])
        assert all(torch.equal(p, torch.ones_like(p)) for p in params)


@pytest.mark.parametrize("foreach", [False, True])
def test_centered_stays_finite_on_constant_gradients(foreach: bool) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        params = [torch.zeros(64, dtype=dtype), torch.zeros(64, dtype=dtype)]
        optimizer = RMSprop(params, lr=1e-4, alpha=0.9, eps=0.0, centered=True, foreach=foreach)
        for _ in range(1000):
            step(optimizer, params, [torch.logspace(-3, 3, 64).to(dtype)] * 2)
        assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("foreach", [False, True])
def test_bias_correction_of_a_start_above_zero_stays_finite(foreach: bool) -> None:
    params = [torch.zeros(2), torch.zeros(2)]
    optimizer = RMSprop(params, alpha=0.9, eps=0.0, bias_correction=True, initial_square_avg=1.0, foreach=foreach)
    for _ in range(500):
        step(optimizer, params, [torch.tensor([0.0, 1e-6])] * 2)
    assert all(p.isfinite().all() for p in params)


# -- a drop-in for torch.optim.RMSprop --------------------------------------------------------------------------------

TORCH_OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "rates": {"lr": 0.003, "alpha": 0.9, "eps": 1e-3},
    "momentum": {"momentum": 0.7},
    "centered": {"centered": True, "eps": 1e-4},
    "weight_decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True, "weight_decay": 0.1},
    "all": {"lr": 0.003, "alpha": 0.95, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.7, "centered": True},
    "Tensor lr": {"lr": torch.tensor(0.003)},
}


@pytest.mark.parametrize(
    ("dtype", "foreach"),
    [(torch.float64, None), (torch.float64, False), (torch.complex128, None), (torch.complex128, True)],
)
@pytest.mark.parametrize("options", TORCH_OPTIONS.values(), ids=TORCH_OPTIONS)
def test_follows_the_trajectory_of_torch_for_500_steps(
    options: dict[str, Any], dtype: torch.dtype, foreach: bool | None
) -> None:
    theirs_options = dict(options)
    if foreach and "lr" in options:  # torch refuses a Tensor lr with foreach
        theirs_options["lr"] = float(options["lr"])
    generator = torch.Generator().manual_seed(1)
    theirs = [torch.randn(4, 5, dtype=dtype, generator=generator) for _ in range(2)]
    ours = [p.clone() for p in theirs]
    a = torch.optim.RMSprop(theirs, foreach=foreach, **theirs_options)
    b = RMSprop(ours, foreach=foreach, **options)
    for _ in range(500):
        g = [torch.randn(4, 5, dtype=dtype, generator=generator) for _ in range(2)]
        step(a, theirs, g)
        step(b, ours, g)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
        assert set(b.state[p]) == set(a.state[q])
        for name, value in a.state[q].items():
            value = value.double() if name == "step" else value  # torch's float32 counts to 2²⁴ only
            torch.testing.assert_close(b.state[p][name], value, rtol=1e-12, atol=1e-14)


def test_signature_begins_with_that_of_torch() -> None:
    theirs = list(inspect.signature(torch.optim.RMSprop.__init__).parameters.values())
    ours = list(inspect.signature(RMSprop.__init__).parameters.values())
    for a, b in zip(theirs, ours, strict=False):
        assert (a.name, a.default, a.kind) == (b.name, b.default, b.kind)
    assert all(p.kind == p.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_defaults_are_those_of_the_rule() -> None:
    optimizer = RMSprop([torch.zeros(1)])
    assert optimizer.rule() == Rule()
    assert set(EVERYWHERE) <= set(FIELDS.values()) <= {f.name for f in dataclasses.fields(Rule)}


@pytest.mark.parametrize("rule", cases.RULES.values(), ids=cases.RULES)
def test_from_rule_and_rule_are_inverse(rule: Rule) -> None:
    optimizer = RMSprop.from_rule([torch.zeros(1)], rule, foreach=True)
    assert optimizer.rule() == rule
    assert optimizer.param_groups[0]["foreach"] is True


def test_schedulers_hooks_closures_and_named_parameters() -> None:
    model = nn.Linear(2, 1)
    nn.init.ones_(model.weight)
    optimizer = RMSprop(model.named_parameters(), lr=0.01, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=20)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> float:
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).square().sum()
        loss.backward()
        return float(loss.detach())

    losses, momenta = [], []
    for _ in range(10):
        losses.append(optimizer.step(closure))
        momenta.append(optimizer.rule().momentum)
        scheduler.step()
    assert losses[-1] < losses[0]
    assert len(set(momenta)) == 10  # OneCycleLR also changes momentum
    assert calls == ["before", "after"] * 10
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_grad_scaler_skips_a_step_with_an_infinite_gradient() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = RMSprop([p])
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    p.grad = torch.tensor([float("inf"), 1.0])
    scaler.scale(torch.ones(()))  # initializes the scaler
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p, torch.ones(2))
    p.grad = torch.tensor([4.0, 1.0])
    scaler.step(optimizer)
    assert not torch.equal(p, torch.ones(2))


# -- groups, gradients and changes during a run -----------------------------------------------------------------------


@pytest.mark.parametrize("foreach", [False, True])
def test_groups_may_differ_in_everything(foreach: bool) -> None:
    _, gradients = cases.problem(np.float64)
    chosen = list(cases.RULES.values())
    params = [torch.full((60,), 0.5, dtype=torch.float64) for _ in chosen]
    groups = [
        {"params": [p], **{name: getattr(rule, field) for name, field in FIELDS.items()}}
        for p, rule in zip(params, chosen, strict=True)
    ]
    optimizer = RMSprop(groups, foreach=foreach)
    paths = [(np.full(60, 0.5), init(rule, np.full(60, 0.5))) for rule in chosen]
    for gradient in gradients:
        step(optimizer, params, [torch.from_numpy(gradient)] * len(params))
        paths = [update(rule, p, gradient, s) for rule, (p, s) in zip(chosen, paths, strict=True)]
    for i, (p, (value, _)) in enumerate(zip(params, paths, strict=True)):
        assert optimizer.rule(i) == chosen[i]
        np.testing.assert_allclose(p.numpy(), value, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("foreach", [False, True])
def test_parameters_without_gradient_keep_their_own_time(foreach: bool) -> None:
    """Bias correction counts the steps of each parameter."""
    rule = cases.RULES["bias correction"]
    params = [torch.ones(2, dtype=torch.float64) for _ in range(3)]
    optimizer = RMSprop.from_rule(params, rule, foreach=foreach)
    paths = [(np.ones(2), init(rule, np.ones(2))) for _ in params]
    for t in range(6):
        for i, p in enumerate(params):
            p.grad = torch.full((2,), t + 1.0, dtype=torch.float64) if t % (i + 1) == 0 else None
            if p.grad is not None:
                paths[i] = update(rule, paths[i][0], p.grad.numpy(), paths[i][1])
        optimizer.step()
    for p, (value, state) in zip(params, paths, strict=True):
        np.testing.assert_allclose(p.numpy(), value, rtol=1e-12)
        assert optimizer.state[p]["step"].item() == state.step


@pytest.mark.parametrize("foreach", [False, True])
def test_momentum_and_centered_may_be_switched_on_during_a_run(foreach: bool) -> None:
    """torch raises KeyError."""
    params = [torch.ones(2, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    optimizer = RMSprop(params, foreach=foreach)
    rules = [Rule(), Rule(momentum=0.5), Rule(momentum=0.5, centered=True), Rule()]
    paths = [(p.numpy().copy(), init(Rule(), p.numpy())) for p in params]
    for rule in rules:
        optimizer.param_groups[0].update(momentum=rule.momentum, centered=rule.centered)
        step(optimizer, params, [torch.ones_like(p) for p in params])
        paths = [update(rule, p, np.ones_like(p), s) for p, s in paths]
    for p, (value, _) in zip(params, paths, strict=True):
        np.testing.assert_allclose(p.numpy(), value, rtol=1e-12)


def test_parameters_and_gradients_of_other_strides() -> None:
    base = torch.randn(6, 8, dtype=torch.float64)
    params = [base[::2, 1::3].clone().t(), base.clone()[:, ::2], base.clone().as_strided((3, 4), (8, 2))]
    expected = [(p.numpy().copy(), init(Rule(), p.numpy())) for p in params]
    optimizer = RMSprop(params)
    for _ in range(3):
        gradients = [torch.randn(tuple(reversed(p.shape)), dtype=torch.float64).t() for p in params]
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        optimizer.step()
        expected = [update(Rule(), p, g.numpy(), s) for (p, s), g in zip(expected, gradients, strict=True)]
    for p, (value, _) in zip(params, expected, strict=True):
        np.testing.assert_allclose(p.numpy(), value, rtol=1e-12)


def test_a_tensor_lr_is_read_at_every_step() -> None:
    executions: list[dict[str, Any]] = [{}, {"foreach": True}, {"capturable": True}, EXECUTIONS["capturable foreach"]]
    for options in executions:
        lr = torch.tensor([0.03])
        params = [torch.ones(2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)]
        optimizer = RMSprop(params, lr=lr, weight_decay=0.1, decoupled_weight_decay=True, momentum=0.5, **options)
        rule = Rule(weight_decay=0.1, decoupled_weight_decay=True, momentum=0.5)
        value, state = np.ones(2), init(rule, np.ones(2))
        for rate in (0.03, 0.5):
            lr.fill_(rate)
            step(optimizer, params, [torch.ones_like(p) for p in params])
            value, state = update(dataclasses.replace(rule, lr=float(lr)), value, np.ones(2), state)
        np.testing.assert_allclose(params[0].numpy(), value, rtol=1e-7)
        assert optimizer.rule().lr == float(lr)


def test_a_learned_lr_and_a_default_device_are_no_obstacle() -> None:
    """A rate that requires grad is read without a warning; the counter is on the CPU, whatever the default device."""
    p = torch.ones(2)
    lr = torch.tensor(0.5, requires_grad=True)
    optimizer = RMSprop([p], lr=lr, bias_correction=True, differentiable=True)
    assert optimizer.rule().lr == 0.5
    with torch.device("meta"):
        optimizer = RMSprop([p], bias_correction=True)
        p.grad = torch.ones(2, device="cpu")
        optimizer.step()
    assert optimizer.state[p]["step"].device.type == "cpu"


def test_a_schedule_that_ends_in_rounding_noise_below_zero_is_no_error() -> None:
    p = torch.ones(1)
    optimizer = RMSprop([p], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.3, 0.0, total_iters=3)
    for _ in range(5):
        step(optimizer, [p], [torch.ones(1)])
        scheduler.step()
    assert -1e-15 < optimizer.param_groups[0]["lr"] < 0
    assert optimizer.rule().lr == 0


def test_effective_lr_between_switching_centered_on_and_the_next_step() -> None:
    p = torch.ones(2)
    optimizer = RMSprop([p], bias_correction=True)
    step(optimizer, [p], [torch.ones(2)])
    optimizer.param_groups[0]["centered"] = True
    assert optimizer.effective_lr(p).isfinite().all()


def test_capturable_keeps_the_counter_a_tensor_that_compiled_code_may_hold() -> None:
    p = torch.ones(2)
    optimizer = RMSprop([p], capturable=True, bias_correction=True)
    step(optimizer, [p], [torch.ones(2)])
    counter = optimizer.state[p]["step"]
    step(optimizer, [p], [torch.ones(2)])
    assert optimizer.state[p]["step"] is counter
    assert counter.device == p.device
    assert counter.item() == 2


@pytest.mark.parametrize("name", cases.RULES)
def test_differentiable_steps_have_the_right_derivative(name: str) -> None:
    """By the gradient, the initial parameter and the learning rate."""
    rule = cases.RULES[name]

    def two_steps(start: Tensor, gradient: Tensor, lr: Tensor) -> Tensor:
        p = start.clone()
        options = {k: getattr(rule, f) for k, f in FIELDS.items() if k != "lr"}
        optimizer = RMSprop([p], lr=0.1, differentiable=True, **options)
        optimizer.param_groups[0]["lr"] = lr
        for k in (1.0, 2.0):
            p.grad = gradient * k + start.sin()
            optimizer.step()
        return p

    inputs = (torch.tensor([0.3, -0.2]), torch.tensor([0.5, 1.5]), torch.tensor(0.1))
    assert torch.autograd.gradcheck(two_steps, [x.double().requires_grad_() for x in inputs])


@pytest.mark.parametrize("how", ["of its group", "of an optimizer that goes on with an ordinary run"])
def test_a_step_is_differentiated_where_its_group_is(how: str) -> None:
    """The rate gets its derivative, −g/d. The group decides, not the state dict that was loaded."""
    p, lr = torch.ones(2, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    other = torch.ones(2, dtype=torch.float64, requires_grad=True)
    if how == "of its group":
        groups: list[dict[str, Any]] = [{"params": [p], "differentiable": True}, {"params": [other]}]
        optimizer = RMSprop(groups, bias_correction=True)
    else:
        optimizer = RMSprop([p], bias_correction=True, differentiable=True)
        optimizer.load_state_dict(RMSprop([p.clone()], bias_correction=True).state_dict())
    optimizer.param_groups[0]["lr"] = lr
    p.grad = torch.tensor([2.0, -3.0], dtype=torch.float64)
    other.grad = p.grad.clone()
    optimizer.step()
    (derivative,) = torch.autograd.grad((p * torch.tensor([1.0, 10.0])).sum(), lr)
    assert derivative.item() == pytest.approx(9.0, abs=1e-6)
    assert other.is_leaf


def test_effective_lr_is_what_the_step_used() -> None:
    for name in ("plain", "eps inside", "centered", "bias correction, v0"):
        p = torch.zeros(60, dtype=torch.float64)
        optimizer = RMSprop.from_rule([p], cases.RULES[name])
        for gradient in cases.problem(np.float64)[1]:
            before = p.clone()
            step(optimizer, [p], [torch.from_numpy(gradient)])
            assert p.grad is not None
            torch.testing.assert_close(optimizer.effective_lr(p) * p.grad, before - p, rtol=1e-9, atol=1e-12)
    for rule in cases.RULES.values():  # of every variant: η/d of the definition
        p = torch.zeros(60, dtype=torch.float64)
        optimizer = RMSprop.from_rule([p], rule)
        for gradient in cases.problem(np.float64)[1][:3]:
            step(optimizer, [p], [torch.from_numpy(gradient)])
        averages = {name: x.numpy() for name, x in optimizer.state[p].items() if name in AVERAGES}
        d = denominator(rule, State(3, **averages))
        with np.errstate(divide="ignore"):
            expected = np.where(d == 0, 0.0, rule.lr / d)
        np.testing.assert_allclose(optimizer.effective_lr(p).numpy(), expected, rtol=1e-9)
    dead = torch.zeros(2)
    optimizer = RMSprop([dead], eps=0.0)
    step(optimizer, [dead], [torch.tensor([0.0, 1.0])])
    assert optimizer.effective_lr(dead).tolist() == [0.0, pytest.approx(0.1)]
    with pytest.raises(InputError, match=r"param must be a parameter that this optimizer has stepped"):
        optimizer.effective_lr(torch.zeros(2))


# -- errors -----------------------------------------------------------------------------------------------------------

ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"lr": -1.0}, "lr must be a finite number >= 0, got -1.0; 1e-4 to 1e-2 is usual"),
    ({"lr": torch.tensor(-1.0)}, "lr must be a finite number >= 0, got -1.0; 1e-4 to 1e-2 is usual"),
    ({"lr": torch.ones(2)}, r"lr must be a number or a one-element Tensor, got shape \(2,\); give each rate"),
    ({"alpha": 1.0}, r"alpha must be a number in \[0, 1\), got 1.0; 0.9 averages"),
    ({"eps": float("nan")}, "eps must be a finite number >= 0, got nan"),
    ({"momentum": 1.5}, r"momentum must be a number in \[0, 1\), got 1.5"),
    ({"momentum": [0.9]}, r"momentum must be a number in \[0, 1\), got \[0.9\]"),
    ({"weight_decay": -1}, "weight_decay must be a finite number >= 0, got -1"),
    ({"centered": "yes"}, "centered must be True or False, got 'yes'"),
    ({"capturable": 2}, "capturable must be True or False, got 2"),
    ({"foreach": "auto"}, "foreach must be True or False, got 'auto'; pass True, False or None"),
    ({"differentiable": None}, "differentiable must be True or False, got None"),
    ({"foreach": True, "differentiable": True}, "foreach must be None or False with differentiable=True, got True"),
    ({"nesterov": True}, "momentum must be > 0 with nesterov=True, got 0"),
    ({"initial_square_avg": -1}, "initial_square_avg must be a finite number >= 0, got -1"),
    ({"lr_in_momentum": None}, "lr_in_momentum must be True or False, got None"),
    ({"fused": 2}, "fused must be True or False, got 2; pass True, False or None"),
    ({"state_dtype": "int4"}, "state_dtype must be None, 'bfloat16' or 'uint8', got 'int4'"),
    ({"stochastic_rounding": -1}, "stochastic_rounding must be False, True or a seed from 1 to 2³¹ − 1, got -1"),
    ({"sparse": "dense"}, "sparse must be 'exact' or 'lazy', got 'dense'"),
    ({"nonfinite": "raise"}, "nonfinite must be 'propagate', 'skip' or 'zero', got 'raise'"),
]


def test_from_rule_takes_a_rule_and_nothing_beside_it_that_is_in_it() -> None:
    with pytest.raises(InputError, match=r"^rule must be a rmsprop.Rule, got 'tf1'; pass Rule"):
        RMSprop.from_rule([torch.ones(1)], "tf1")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^lr must be omitted with a rule, got 0.1; change the rule by dataclasses"):
        RMSprop.from_rule([torch.ones(1)], Rule(), lr=0.1)


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_a_bad_argument_is_named_with_range_value_and_remedy(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        RMSprop([torch.zeros(1)], **arguments)
    if not arguments.keys() & {"fused", "state_dtype", "stochastic_rounding", "sparse", "nonfinite"}:
        optimizer = RMSprop([torch.zeros(1)])
        with pytest.raises(InputError, match=f"^{message}"):
            optimizer.add_param_group({"params": [torch.zeros(1)], **arguments})
        assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", ["decay", "rho", "beta2", "learning_rate", "epsilon", "eps_in_sqrt"])
def test_another_librarys_name_in_a_group_is_warned_of_once_and_is_no_argument(name: str) -> None:
    groups: list[dict[str, Any]] = [{"params": [torch.zeros(1)], name: 0.5} for _ in range(2)]
    text = (
        f"{name} in a parameter group is kept for wrappers .*; if meant for this optimizer, pass .* instead of .{name}."
    )
    with pytest.warns(UserWarning, match=text) as caught:
        optimizer = RMSprop(groups)
    assert len(caught) == 1
    assert [group[name] for group in optimizer.param_groups] == [0.5, 0.5]
    with pytest.raises(TypeError, match=f"^{name} must be omitted, got .*; its name here"):
        RMSprop([torch.zeros(1)], **{name: 0.5})  # type: ignore[arg-type]


def test_a_bad_value_set_during_a_run_is_caught_at_the_next_step() -> None:
    p = torch.ones(1)
    optimizer = RMSprop([p])
    p.grad = torch.ones(1)
    for name, value in (("lr", -1.0), ("alpha", 1.0), ("momentum", float("nan")), ("nesterov", True)):
        kept = optimizer.param_groups[0][name]
        optimizer.param_groups[0][name] = value
        with pytest.raises(InputError):
            optimizer.step()
        optimizer.param_groups[0][name] = kept
    assert torch.equal(p, torch.ones(1))
