"""The rule compared with sums in fifty digits, its identities, its properties, and its errors."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from typing import Any

import cases
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import rmsprop
from rmsprop import InputError, Rule, State, init, update
from rmsprop.errors import require
from rmsprop.explain import equations, numbers, worked_example
from rmsprop.rule import denominator


def follow(
    rule: Rule, start: NDArray[Any], gradients: list[NDArray[Any]], rates: Any = None
) -> list[tuple[NDArray[Any], State]]:
    """Return parameter and state after each step; `rates` maps a step to its rate."""
    param, state, path = start, init(rule, start), []
    for t, gradient in enumerate(gradients, start=1):
        now = rule if rates is None else dataclasses.replace(rule, lr=rates(t))
        param, state = update(now, param, gradient, state)
        path.append((param, state))
    return path


@pytest.mark.parametrize("rule", cases.ALL_RULES.values(), ids=cases.ALL_RULES)
def test_every_variant_equals_its_sums_in_fifty_digits(rule: Rule) -> None:
    start, gradients = cases.problem(np.float64)
    path = follow(rule, start, gradients, cases.lr_at)
    for i in range(len(start)):
        expected = cases.oracle(rule, start[i], [g[i] for g in gradients])
        for (param, state), (p, v, m, b, w) in zip(path, expected, strict=True):
            assert param[i] == pytest.approx(p, rel=1e-11, abs=1e-14)
            assert state.square_avg[i] == pytest.approx(v, rel=1e-11, abs=1e-14)
            if rule.centered:
                assert state.grad_avg is not None
                assert state.grad_avg[i] == pytest.approx(m, rel=1e-11, abs=1e-14)
            if rule.momentum:
                assert state.momentum_buffer is not None
                assert state.momentum_buffer[i] == pytest.approx(b, rel=1e-11, abs=1e-14)
            if rule.amsgrad:
                assert state.max_square_avg is not None
                assert state.max_square_avg[i] == pytest.approx(w, rel=1e-11, abs=1e-14)


def test_worked_example_by_hand() -> None:
    # η = 0.01, β = 0.9, ε = 1e-8. Step 1: v = 0.1·10² = 10 and 0.1·0.01² = 1e-5; step 2: 0.9·10 + 0.1·8² = 15.4
    # and 0.9e-5 + 0.1·0.02² = 4.9e-5. Rates 0.01/√v, changes −rate·g.
    steps = worked_example(Rule(lr=0.01, decay=0.9))
    assert [(s.step, s.parameter, s.gradient) for s in steps] == [
        (1, "x", 10.0), (1, "y", 0.01), (2, "x", 8.0), (2, "y", 0.02),
    ]  # fmt: skip
    assert [s.square_avg for s in steps] == pytest.approx([10, 1e-5, 15.4, 4.9e-5], rel=1e-12)
    hand = [0.01 / (math.sqrt(v) + 1e-8) for v in (10, 1e-5, 15.4, 4.9e-5)]
    assert [s.rate for s in steps] == pytest.approx(hand, rel=1e-12)
    assert hand == pytest.approx([0.0031623, 3.1622677, 0.0025482, 1.4285694], rel=1e-4)
    assert [s.change for s in steps] == pytest.approx([-0.0316228, -0.0316227, -0.0203859, -0.0285714], rel=1e-4)


def test_centered_by_hand() -> None:
    # β = 0.5, ε = 0, g = 4 then 2: v = 8, 6; m = 2, 2; s = 4, 2; u = 2, √2.
    rule = Rule(lr=1.0, decay=0.5, eps=0.0, centered=True)
    (p1, s1), (p2, s2) = follow(rule, np.array(0.0), [np.array(4.0), np.array(2.0)])
    assert [s1.square_avg, s1.grad_avg, p1, s2.square_avg, s2.grad_avg] == [8.0, 2.0, -2.0, 6.0, 2.0]
    assert p2 == pytest.approx(-2 - math.sqrt(2))


def test_momentum_by_hand() -> None:
    # β = 0, ε = 0, so u = sign g: with μ = 0.5 and η = 1, then 0.1, the buffers are 1, 1.5 and 1, 0.6.
    gradients = [np.array(3.0), np.array(3.0)]
    rule = Rule(lr=1.0, decay=0.0, eps=0.0, momentum=0.5)
    (_, _), (outside, s) = follow(rule, np.array(0.0), gradients, lambda t: 1.0 if t == 1 else 0.1)
    assert s.momentum_buffer == 1.5
    assert outside == pytest.approx(-1 - 0.15)
    inside_rule = dataclasses.replace(rule, lr_in_momentum=True)
    (_, _), (inside, s) = follow(inside_rule, np.array(0.0), gradients, lambda t: 1.0 if t == 1 else 0.1)
    assert s.momentum_buffer == pytest.approx(0.6)
    assert inside == pytest.approx(-1.6)


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
def test_bias_corrected_equals_adam_without_its_first_average(decay: float) -> None:
    start, gradients = cases.problem(np.float64)
    p = torch.from_numpy(start.copy())
    adam = torch.optim.Adam([p], lr=0.03, betas=(0.0, decay), eps=0.02)
    rule = Rule(lr=0.03, decay=decay, eps=0.02, bias_correction=True)
    for gradient, (param, _) in zip(gradients, follow(rule, start, gradients), strict=True):
        p.grad = torch.from_numpy(gradient)
        adam.step()
        np.testing.assert_allclose(param, p.numpy(), rtol=1e-12)


def test_decay_that_grows_with_time_gives_adagrad() -> None:
    # β = 1 − 1/t makes v the mean of all squares; η/√t turns the root of the mean into the root of the sum.
    start, gradients = cases.problem(np.float64)
    live = np.all(np.array(gradients) != 0, axis=0)  # torch's AdaGrad would divide 0 by 0
    start, gradients = start[live], [g[live] for g in gradients]
    p = torch.from_numpy(start.copy())
    adagrad = torch.optim.Adagrad([p], lr=0.03, eps=0.0)
    param, state = start, init(Rule(), start)
    for t, gradient in enumerate(gradients, start=1):
        rule = Rule(lr=0.03 / math.sqrt(t), decay=1 - 1 / t, eps=0.0)
        param, state = update(rule, param, gradient, state)
        p.grad = torch.from_numpy(gradient)
        adagrad.step()
        np.testing.assert_allclose(param, p.numpy(), rtol=1e-12)


def test_both_momentum_buffers_agree_while_the_rate_is_constant_and_only_then() -> None:
    start, gradients = cases.problem(np.float64)
    outside = Rule(lr=0.03, decay=0.8, eps=0.02, momentum=0.6)
    inside = dataclasses.replace(outside, lr_in_momentum=True)
    for (a, _), (b, _) in zip(follow(outside, start, gradients), follow(inside, start, gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    a = follow(outside, start, gradients, cases.lr_at)[-1][0]
    b = follow(inside, start, gradients, cases.lr_at)[-1][0]
    assert np.max(np.abs(a - b)) > 0.01


def test_after_a_cut_of_the_rate_the_buffer_with_lr_goes_on_at_the_old_one() -> None:
    # Constant gradient, μ = 0.9, η cut to a tenth: the steps differ by the factor 1 + 9·0.9^(j+1), 9.1 at first.
    gradients = [np.ones(1)] * 400
    ratios = {}
    for name, inside in (("outside", False), ("inside", True)):
        rule = Rule(lr=1.0, decay=0.9, eps=0.0, momentum=0.9, lr_in_momentum=inside)
        path = follow(rule, np.zeros(1), gradients, lambda t: 1.0 if t <= 380 else 0.1)
        ratios[name] = [path[380 + j][0][0] - path[379 + j][0][0] for j in (0, 5, 10)]
    ratio = np.array(ratios["inside"]) / ratios["outside"]
    np.testing.assert_allclose(ratio, [1 + 9 * 0.9 ** (j + 1) for j in (0, 5, 10)], rtol=1e-8)


def test_steps_from_zero_are_too_long_by_the_missing_weight() -> None:
    # With a constant gradient, step k is η/√(1−βᵏ), whatever its size.
    path = follow(Rule(lr=1.0, decay=0.99, eps=0.0), np.zeros(2), [np.array([1e-3, 1e3])] * 50)
    before = np.zeros(2)
    for k, (param, _) in enumerate(path, start=1):
        np.testing.assert_allclose(before - param, 1 / math.sqrt(1 - 0.99**k), rtol=1e-9)
        before = param


@pytest.mark.parametrize("centered", [False, True])
def test_the_scale_of_the_gradients_does_not_matter_from_zero_and_does_from_one(centered: bool) -> None:
    start, gradients = cases.problem(np.float64)
    rule = Rule(lr=0.03, decay=0.8, eps=0.0, centered=centered)
    scaled = [1024 * g for g in gradients]
    for (a, _), (b, _) in zip(follow(rule, start, gradients), follow(rule, start, scaled), strict=True):
        np.testing.assert_array_equal(a, b)
    from_one = dataclasses.replace(rule, initial_square_avg=1.0)
    assert np.any(follow(from_one, start, gradients)[-1][0] != follow(from_one, start, scaled)[-1][0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decay", [0.9, 0.99])
def test_centered_stays_finite_on_constant_gradients(dtype: type[np.floating], decay: float) -> None:
    """There v − m² cancels to rounding noise below zero, whose root is NaN in torch."""
    gradient = np.logspace(-3, 3, 64).astype(dtype)
    rule = Rule(lr=1e-3, decay=decay, eps=0.0, centered=True)
    param, state = np.zeros(64, dtype), init(rule, np.zeros(64, dtype))
    roundoff = np.finfo(dtype).eps / 2
    for _ in range(2000):
        before = param
        param, state = update(rule, param, gradient, state)
        # E5's floor bounds the step by η·|g|/√(κ·v), and v is at least (1−β)·g².
        bound = 1e-3 / math.sqrt(8 * roundoff * (1 - decay))
        assert np.all(np.abs(param - before) <= 1.01 * bound)
    assert np.all(np.isfinite(param))


def test_centered_in_torch_is_not_finite_there() -> None:
    """torch's own class fails where E5's floor acts."""
    p = torch.zeros(64)
    optimizer = torch.optim.RMSprop([p], lr=1e-3, alpha=0.9, centered=True)
    p.grad = torch.logspace(-3, 3, 64)
    for _ in range(2000):
        optimizer.step()
    assert not torch.isfinite(p).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
def test_bias_correction_of_a_start_above_zero_stays_finite(dtype: type[np.floating], decay: float) -> None:
    """v − βᵗ·v₀ is also a difference of rounded numbers: without a floor it falls below zero."""
    rule = Rule(lr=1e-3, decay=decay, eps=0.0, bias_correction=True, initial_square_avg=1.0)
    param, state = np.zeros(3, dtype), init(rule, np.zeros(3, dtype))
    for t in range(3000):
        param, state = update(rule, param, np.array([0, 1e-6, 1e-3 * (t % 3 - 1)], dtype), state)
    assert np.all(np.isfinite(param))
    assert param[0] == 0


@pytest.mark.parametrize("rule", cases.ALL_RULES.values(), ids=cases.ALL_RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_gradients_without_eps_change_nothing(rule: Rule, dtype: type[np.floating]) -> None:
    rule = dataclasses.replace(rule, eps=0.0, weight_decay=0.0, initial_square_avg=0.0)
    start = np.array([1.0, -2.0], dtype)
    for param, _ in follow(rule, start, [np.zeros(2, dtype)] * 3):
        np.testing.assert_array_equal(param, start)


@given(st.data())
def test_finite_gradients_give_finite_parameters_for_every_variant(data: st.DataObject) -> None:
    rule, gradients = data.draw(cases.rules()), data.draw(cases.gradients())
    for dtype in (np.float32, np.float64):
        path = follow(rule, np.ones(1, dtype), [np.array([g], dtype) for g in gradients])
        assert all(np.isfinite(param).all() for param, _ in path)


@given(
    st.lists(
        st.floats(2.0**-50, 2.0**50, width=32) | st.floats(-(2.0**50), -(2.0**-50), width=32), min_size=1, max_size=20
    ),
    st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999]),
    st.sampled_from([0.0, 1e-8, 1.0]),
    st.booleans(),
)
def test_no_step_is_longer_than_the_first(gradients: list[float], decay: float, eps: float, inside: bool) -> None:
    """|u| ≤ 1/√(1−β) for any gradients, because v ≥ (1−β)·g²."""
    rule = Rule(lr=1.0, decay=decay, eps=eps, eps_inside_sqrt=inside)
    for dtype in (np.float32, np.float64):
        param, state = np.zeros(1, dtype), init(rule, np.zeros(1, dtype))
        for gradient in gradients:
            param, state = update(rule, np.zeros(1, dtype), np.array([gradient], dtype), state)
            assert abs(param[0]) <= (1 + 1e-5) / math.sqrt(1 - decay)


def test_an_infinite_gradient_stays_in_the_average() -> None:
    rule = Rule(momentum=0.5)
    (p, s), *_ = follow(rule, np.ones(1), [np.array([np.inf])])
    assert np.isnan(p[0])
    assert np.isinf(s.square_avg[0])


def test_the_inputs_are_left_as_they_were() -> None:
    rule = cases.ALL_RULES["all of it"]
    start, gradients = cases.problem(np.float32)
    kept, gradient = start.copy(), gradients[0].copy()
    state = init(rule, start)
    update(rule, start, gradients[0], state)
    np.testing.assert_array_equal(start, kept)
    np.testing.assert_array_equal(gradients[0], gradient)
    assert state.step == 0
    assert np.all(state.square_avg == np.float32(0.7))


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_shape_and_both_dtypes_are_kept(shape: tuple[int, ...], dtype: type[np.floating]) -> None:
    for rule in cases.ALL_RULES.values():
        param, state = update(rule, np.ones(shape, dtype), np.ones(shape, dtype), init(rule, np.ones(shape, dtype)))
        arrays = [param, state.square_avg, state.grad_avg, state.momentum_buffer]
        assert all(a is None or (a.shape == shape and a.dtype == dtype) for a in arrays)
        assert (state.grad_avg is not None, state.momentum_buffer is not None) == (rule.centered, rule.momentum > 0)


def test_a_rule_may_change_during_a_run() -> None:
    param, state = np.ones(2), init(Rule(), np.ones(2))
    param, state = update(Rule(), param, np.ones(2), state)
    param, state = update(Rule(centered=True, momentum=0.5), param, np.ones(2), state)
    assert state.grad_avg is not None
    assert state.momentum_buffer is not None
    assert state.step == 2


def test_denominator_gives_the_effective_learning_rate() -> None:
    rule = Rule(lr=0.5, decay=0.9, eps=0.01)
    param, state = update(rule, np.zeros(3), np.array([1.0, 10.0, 0.0]), init(rule, np.zeros(3)))
    rate = rule.lr / denominator(rule, state)
    np.testing.assert_allclose(-param, rate * [1.0, 10.0, 0.0], rtol=1e-15)


WINDOWS = "0.9 averages over about 10 steps, 0.99 over about 100"
ERRORS = [
    ({"lr": -1}, "lr must be a finite number >= 0, got -1; 1e-4 to 1e-2 is usual"),
    ({"lr": math.inf}, "lr must be a finite number >= 0, got inf; 1e-4 to 1e-2 is usual"),
    ({"lr": math.nan}, "lr must be a finite number >= 0, got nan; 1e-4 to 1e-2 is usual"),
    ({"lr": "0.1"}, "lr must be a finite number >= 0, got '0.1'; it is text: write 0.1, or convert it with float()"),
    ({"lr": True}, "lr must be a finite number >= 0, got True; 1e-4 to 1e-2 is usual"),
    ({"lr": None}, "lr must be a finite number >= 0, got None; 1e-4 to 1e-2 is usual"),
    ({"lr": 1j}, "lr must be a finite number >= 0, got 1j; 1e-4 to 1e-2 is usual"),
    ({"decay": 1.0}, f"decay must be a number in [0, 1), got 1.0; {WINDOWS}"),
    ({"decay": -0.1}, f"decay must be a number in [0, 1), got -0.1; {WINDOWS}"),
    ({"eps": -1e-8}, "eps must be a finite number >= 0, got -1e-08; 1e-8 is usual"),
    ({"momentum": 1}, "momentum must be a number in [0, 1), got 1; 0 switches momentum off, 0.9 is usual"),
    ({"weight_decay": math.nan}, "weight_decay must be a finite number >= 0, got nan; 1e-5 to 1e-2 is usual"),
    ({"initial_square_avg": -1},
     "initial_square_avg must be a finite number >= 0, got -1; 0 (PyTorch) or 1 (TensorFlow 1) is usual"),
    ({"centered": 2}, "centered must be True or False, got 2; pass True or False"),
    ({"nesterov": "no", "momentum": 0.9}, "nesterov must be True or False, got 'no'; pass True or False"),
    ({"lr_in_momentum": True, "first_moment": True},
     "lr_in_momentum must be False with first_moment=True, got True; "
     "omit it: the average of gradients holds no learning rate"),
    ({"momentum_decay": 0.004, "first_moment": True, "bias_correction": True},
     "momentum_decay must be 0 unless first_moment, nesterov and bias_correction are True, got 0.004; "
     "omit it: only NAdam has this schedule"),
    ({"momentum_decay": 1e-320, "first_moment": True, "bias_correction": True, "momentum": 0.9, "nesterov": True},
     "momentum_decay must be 0, or 1e-300 or more, got 1e-320; 0 keeps momentum constant"),
    ({"momentum_decay": -1}, "momentum_decay must be a finite number >= 0, got -1; "
     "0 keeps momentum constant; NAdam: 4e-3 (PyTorch) or 1 (Keras)"),
    ({"amsgrad": True, "bias_correction": True, "initial_square_avg": 1},
     "initial_square_avg must be 0 with amsgrad=True and bias_correction=True, got 1.0; "
     "start at 0: the maximum may hold v₀ of an earlier step"),
    ({"amsgrad": "yes"}, "amsgrad must be True or False, got 'yes'; pass True or False"),
    ({"nesterov": True}, "momentum must be > 0 with nesterov=True, got 0.0; set momentum, for example 0.9"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_a_bad_value_is_named_with_range_value_and_remedy(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Rule(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Rule)])
def test_every_field_is_checked(field: str) -> None:
    with pytest.raises(InputError, match=field):
        Rule(**{field: "x"})  # type: ignore[arg-type]


def test_require_raises_an_input_error_unless_the_value_is_allowed() -> None:
    require(True, "steps", "at least 1", 1)
    with pytest.raises(InputError) as caught:
        require(False, "steps", "at least 1", 0, "leave it out")
    assert str(caught.value) == "steps must be at least 1, got 0; leave it out"
    with pytest.raises(InputError, match=r"^steps must be at least 1, got 0$"):
        require(False, "steps", "at least 1", 0)


def test_numbers_of_numpy_are_accepted() -> None:
    assert Rule(lr=np.float32(0.5), momentum=np.int64(0)) == Rule(lr=0.5)  # type: ignore[arg-type]


def test_arrays_that_do_not_fit_are_refused() -> None:
    native = "^param.dtype must be float32 or float64, in native byte order"
    with pytest.raises(InputError, match=f"{native}, got 'float16'; use param.astype"):
        init(Rule(), np.ones(2, np.float16))
    with pytest.raises(InputError, match=f"{native}, got '>f4'; use param.astype"):
        init(Rule(), np.ones(2, ">f4"))
    state = init(Rule(), np.ones(2))
    with pytest.raises(InputError, match=r"^grad must be of param's \(2,\) float64, got \(2,\) float32; convert it"):
        update(Rule(), np.ones(2), np.ones(2, np.float32), state)
    with pytest.raises(InputError, match=r"^state.square_avg must be of param's \(3,\) float64, got \(2,\) float64"):
        update(Rule(), np.ones(3), np.ones(3), state)


def test_numbers_say_what_the_steps_do() -> None:
    """The figures that explain prints agree with steps of the rule."""
    for rule in (Rule(), Rule(decay=0.9, bias_correction=True), Rule(decay=0.9, centered=True),
                 Rule(momentum=0.5, nesterov=True), Rule(momentum=0.5)):  # fmt: skip
        param, _ = update(rule, np.zeros(1), np.full(1, 7.0), init(rule, np.zeros(1)))
        if not rule.centered or not rule.bias_correction:
            assert numbers(rule).first_step == pytest.approx(-param[0], rel=1e-6)
    assert numbers(Rule(initial_square_avg=1)).first_step is None
    assert numbers(Rule(centered=True, bias_correction=True)).first_step is None
    assert numbers(Rule(eps=1e-4, eps_inside_sqrt=True)).floor == 1e-2
    n = numbers(Rule(decay=0.99))
    assert n.window == pytest.approx(100)
    assert n.half_life == pytest.approx(68.9676, rel=1e-5)
    assert n.window_weight == pytest.approx(0.634, abs=1e-3)
    assert n.largest_step == pytest.approx(0.1)
    assert numbers(Rule(decay=0.0)).half_life == 0


@pytest.mark.parametrize("rule", cases.ALL_RULES.values(), ids=cases.ALL_RULES)
def test_explained_equations_compute_the_step(rule: Rule) -> None:
    """Run the printed lines as code: they must give the steps of the rule."""
    start, gradients = cases.problem(np.float64)
    names: dict[str, Any] = {"p": start, "v": np.full(60, rule.initial_square_avg), "m": 0.0, "b": 0.0, "w": 0.0}
    (param, _), (param2, _) = follow(rule, start, gradients[:2])
    names["κ"] = 2.0**-50
    functions = {"sqrt": np.sqrt, "max": np.maximum}
    for t, expected in ((1, param), (2, param2)):
        names["g"] = gradients[t - 1]
        mus = [rule.momentum * (1 - 0.5 * 0.96 ** (rule.momentum_decay * i)) for i in range(1, t + 2)]
        names |= {"mu": mus[t - 1], "mu_next": mus[t], "product": math.prod(mus[:t]), "product_next": math.prod(mus)}
        for line in equations(rule):
            target, _, value = line.partition(" ← ")
            with np.errstate(invalid="ignore"):  # 0/0
                names[_code(target)] = eval(_code(value, t), functions, names)
        names["p"] = np.where(names["d"] == 0, expected, names["p"])
        np.testing.assert_allclose(names["p"], expected, rtol=1e-6)


def _code(text: str, t: int = 0) -> str:
    text = re.sub(r"√(v̂|ŵ|v|w|s)", r"sqrt(\1)", text).replace("√(", "sqrt(")
    for old, new in (
        ("μ₁⋯μₜ₊₁", "product_next"), ("μ₁⋯μₜ", "product"), ("μₜ₊₁", "mu_next"), ("μₜ", "mu"), ("ᵗ⁺¹", f"**{t + 1}"),
        ("−", "-"), ("·", "*"), ("²", "**2"), ("ᵗ", f"**{t}"), ("v̂", "vhat"), ("ŵ", "what"), ("m̂", "mhat"),
    ):  # fmt: skip
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("rule", [Rule(0.1, 0.9), Rule(0.1, 0.9, bias_correction=True), Rule(0.1, 0.9, centered=True)])
def test_explain_names_the_gradient_that_eps_shortens(rule: Rule, inside: bool) -> None:
    """At that gradient √v equals ε, or v equals ε inside the root. Far above it, the first step has its full length."""
    rule = dataclasses.replace(rule, eps=1e-6, eps_inside_sqrt=inside)
    small, first = numbers(rule).small_gradient, numbers(rule).first_step
    assert small is not None
    assert first is not None
    param = np.zeros(2)
    change = -update(rule, param, np.array([small, 1000 * small]), init(rule, param))[0]
    assert change[0] == pytest.approx(first / (math.sqrt(2) if inside else 2), rel=1e-6)
    assert change[1] == pytest.approx(first, rel=2e-3)
    assert f"for every element with a gradient far above {small:.2g} (ε shortens it below)" in rule.explain()


def test_explain_speaks_of_one_step_and_of_no_bound() -> None:
    text = Rule(decay=0.0, eps=0.0, weight_decay=0.1, decoupled_weight_decay=True).explain()
    assert "1 step (1/(1−β)) holds 100% of the weight" in text
    assert "for every element with a gradient, besides the decay of η·λ·p\n" in text
    assert "per element, whatever the gradients, besides the decay of η·λ·p\n" in text
    assert text.endswith("so the effective rate η/d is unbounded")


def test_a_rule_explains_itself_wherever_it_was_imported_from() -> None:
    code = "from rmsprop.rule import Rule; print(Rule(lr=0.5).explain().splitlines()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "RMSprop with lr=0.5\n"


def test_explain_says_what_differs_from_the_defaults() -> None:
    assert Rule().explain().startswith("RMSprop with every default\n")
    text = Rule(lr=0.1, centered=True).explain()
    assert text.startswith("RMSprop with lr=0.1, centered=True\n")
    assert "rounding noise" in text


def test_worked_example_refuses_what_it_cannot_show() -> None:
    with pytest.raises(InputError, match=r"^momentum must be 0 in the worked example, got 0.9; omit it"):
        worked_example(Rule(momentum=0.9))


def test_public_names_are_what_is_declared() -> None:
    assert set(rmsprop.__all__) == {
        "InputError", "Rule", "State", "get_num_threads", "init", "profile", "recipe", "scale_batch_size",
        "set_num_threads", "update",
    }  # fmt: skip
    assert all(hasattr(rmsprop, name) for name in rmsprop.__all__)


def test_a_centered_denominator_needs_the_gradient_average() -> None:
    with pytest.raises(InputError, match=r"^grad_avg must be an array, which this rule needs, got None; pass"):
        denominator(Rule(centered=True), State(1, np.ones(2)))
