"""Averages in bfloat16 and eight bits, and stochastic rounding: by definition, same bits on each path, right means."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import cases
import numpy as np
import pytest
import rounding
import torch
from cases import STATE
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rmsprop import InputError, Rule, native
from rmsprop.rule import AVERAGES
from rmsprop.torch import RMSprop, low_precision
from rmsprop.torch.state import average

KERNEL = [False] if native.kernel is None else [False, True]
NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from(
    [0.0, -0.0, 1.875, 2.0, 1e-45, 3.4e38]
)


# -- the definition ---------------------------------------------------------------------------------------------------


@example([1.8 * 2.0**-127, 2.0**-128], True, 0)
@given(st.lists(NUMBERS, max_size=70), st.booleans(), st.integers(0, 2**32 - 1))
def test_eight_bits_are_those_of_the_definition(numbers: list[float], signed: bool, key: int) -> None:
    x = np.array(numbers, np.float32)
    x = x if signed else np.abs(x)
    with np.errstate(all="ignore"):
        expected = rounding.pack(x, signed, key)
        packed = low_precision.pack(torch.from_numpy(x), signed=signed, key=key)
        assert np.array_equal(packed.numpy(), expected)
        assert packed.numel() == low_precision.packed_size(x.size)
        numbers_again = low_precision.unpack(packed, torch.empty(x.size), signed=signed)
        assert np.array_equal(numbers_again.numpy(), rounding.unpack(expected, x.size, signed), equal_nan=True)


@given(st.lists(NUMBERS, max_size=40), st.integers(0, 2**32 - 1))
def test_bfloat16_is_rounded_by_the_definition(numbers: list[float], key: int) -> None:
    x = np.array(numbers, np.float32)
    got = low_precision.round_bfloat16(torch.from_numpy(x), key, torch.arange(x.size))
    assert np.array_equal(got.float().numpy(), rounding.bfloat16(x, key), equal_nan=True)


@given(st.integers(0, 2**31 - 1), st.integers(0, 10**6), st.integers(0, 2**31))
def test_keys_are_those_of_the_definition_for_numbers_and_for_tensors(seed: int, number: int, step: int) -> None:
    expected = [rounding.key(seed, number, step, which) for which in range(1 + len(AVERAGES))]
    assert low_precision.noise_keys(seed, number, step) == expected
    assert [int(k) for k in low_precision.noise_keys(seed, number, torch.tensor(step))] == expected


@pytest.mark.parametrize("signed", [False, True])
def test_every_code_stands_for_a_number_that_it_comes_back_from(signed: bool) -> None:
    """A number that can be stored exactly is stored exactly, whatever the noise."""
    for exponent in (0, 1, 90, 127, 253, 254):
        codes = torch.arange(256, dtype=torch.uint8)
        for block in codes.view(8, 32):
            block = block.clone()
            block[0] = 127 if signed else 255  # the largest code keeps the exponent
            packed = torch.cat([block, torch.tensor([exponent], dtype=torch.uint8)])
            numbers = low_precision.unpack(packed, torch.empty(32), signed=signed)
            if exponent > 40:  # at lower exponents, the smallest codes are subnormal in float32
                for key in (0, 12345, None):
                    assert torch.equal(low_precision.pack(numbers, signed=signed, key=key), packed)


@settings(max_examples=20)
@given(st.floats(1e-3, 1e3), st.booleans())
def test_the_mean_of_what_is_stored_is_what_was_computed(value: float, signed: bool) -> None:
    n = 32 * 4096
    x = torch.full((n,), value)
    x[::32] *= 300.0  # the other elements are then lower in their block
    both = (
        low_precision.unpack(low_precision.pack(x, signed=signed, key=1), x, signed=signed),
        low_precision.round_bfloat16(x, 1, torch.arange(n)),
    )
    for stored in both:
        others = stored.double().view(-1, 32)[:, 1:]
        values = torch.tensor(sorted(set(others.flatten().tolist())))
        assert values.numel() <= 2
        assert values.min() <= x[1] <= values.max()
        error = abs(float(others.mean()) - float(x[1]))
        assert error <= 5 * float(values.max() - values.min()) / n**0.5


# -- the same bits on every path --------------------------------------------------------------------------------------


def stepped(
    rule: Rule, start: list[Tensor], gradients: list[list[Tensor]], **options: Any
) -> tuple[list[Tensor], RMSprop]:
    params = [p.clone() for p in start]
    optimizer = RMSprop.from_rule(params, rule, **options)
    for t, now in enumerate(gradients, start=1):
        optimizer.param_groups[0]["lr"] = cases.lr_at(t)
        for p, g in zip(params, now, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return params, optimizer


def agree(a: tuple[list[Tensor], RMSprop], b: tuple[list[Tensor], RMSprop]) -> None:
    for p, q in zip(a[0], b[0], strict=True):
        assert torch.equal(p, q)
        ours, theirs = a[1].state[p], b[1].state[q]
        assert ours.keys() == theirs.keys()
        assert all(
            ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name])
            for name in STATE
            if name in ours
        )


def shapes(dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return parameters of various shapes, and their gradients of very different sizes."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> list[Tensor]:
        sizes: list[tuple[int, ...]] = [(), (1,), (31,), (5, 33), (64, 3), (700,), (0,)]
        return [
            (torch.randn(s, generator=generator) * 10 ** (6 * torch.rand(s, generator=generator) - 3)).to(dtype)
            for s in sizes
        ]

    return draw(), [draw() for _ in range(4)]


STORED = [
    (torch.float32, "bfloat16", False),
    (torch.float32, "uint8", False),
    (torch.float16, "uint8", False),
    (torch.bfloat16, "bfloat16", False),
    (torch.bfloat16, None, True),
    (torch.bfloat16, "bfloat16", 7),
    (torch.bfloat16, "uint8", 2**31 - 1),
]


def pairs(names: Iterable[str]) -> list[Any]:
    """Pair the rules that use every variant with all stored dtypes, and every other rule with two, in turns."""
    found = []
    for i, name in enumerate(names):
        whole = name.startswith(("all of it", "everything"))
        for stored in STORED if whole else (STORED[i % len(STORED)], STORED[(i + 3) % len(STORED)]):
            found.append(pytest.param(cases.ALL_RULES[name], *stored, id=f"{name}-{'-'.join(map(str, stored))}"))
    return found


@pytest.mark.parametrize(("rule", "dtype", "state", "seed"), pairs(cases.RULES))
def test_kernel_and_tensor_operations_give_the_same_bits(
    rule: Rule, dtype: torch.dtype, state: str | None, seed: int
) -> None:
    start, gradients = shapes(dtype)
    options: dict[str, Any] = {"state_dtype": state, "stochastic_rounding": seed}
    plain = stepped(rule, start, gradients, fused=False, **options)
    for execution in ({"fused": True},) * len(KERNEL[1:]) + (
        {"foreach": True},
        {"capturable": True},
        {"capturable": True, "foreach": True},
    ):
        other = stepped(rule, start, gradients, **execution, **options)
        if "capturable" in execution and rule.momentum_decay:  # torch's exp and expm1 round in their own way
            for p, q in zip(plain[0], other[0], strict=True):
                torch.testing.assert_close(p, q, rtol=4e-3 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
        else:
            agree(plain, other)


def nearest(value: float, state: str | None) -> np.float32:
    """Return the stored initial value of an average."""
    x = torch.full((1,), value)
    if state == "uint8":
        x = low_precision.unpack(low_precision.pack(x, signed=False, key=None), x, signed=False)
    return np.float32(x.to(torch.bfloat16 if state else torch.float32).item())  # eight bits fit bfloat16


ORDERS = (  # rules with every order of operations
    "plain", "centered", "nesterov with lr", "bias correction, v0", "all of it", "first moment", "Adam",
    "NAdam, schedule", "amsgrad", "amsgrad, v0, centered", "everything of Adam",
)  # fmt: skip


@pytest.mark.parametrize(("rule", "dtype", "state", "seed"), pairs(ORDERS))
def test_a_step_is_the_rule_on_the_numbers_that_are_stored(
    rule: Rule, dtype: torch.dtype, state: str | None, seed: int
) -> None:
    """Compare with NumPy: numbers are read, stepped in float32 in the rule's order, and rounded with the noise."""
    start, gradients = shapes(dtype)
    params, optimizer = stepped(rule, start, gradients, fused=False, state_dtype=state, stochastic_rounding=seed)
    noise = (int(seed) or 1,)
    for number, p in enumerate(start):
        x = p.reshape(-1).float().numpy()
        zero = np.zeros_like(x)
        averages = [zero + nearest(rule.initial_square_avg, state), zero, zero, zero]
        for t, now in enumerate(gradients, start=1):
            current = dataclasses.replace(rule, lr=cases.lr_at(t))
            g = now[number].reshape(-1).float().numpy()
            x, averages = rounding.step(current, t, x, g, averages, rounding.KAPPA[state])
            keep = (*noise, number, t)
            averages = [
                rounding.read(rounding.stored(y, i, state, *keep), i, state, x.size)
                for i, y in enumerate(averages, start=1)
            ]
            x = rounding.bfloat16(x, rounding.key(*keep, 0)) if seed else torch.from_numpy(x).to(dtype).float().numpy()
        assert np.array_equal(params[number].reshape(-1).float().numpy(), x, equal_nan=True)
        own = optimizer.state[params[number]]
        for i, field in enumerate(AVERAGES):
            if field in own:
                assert np.array_equal(
                    average(own, field, params[number]).reshape(-1).numpy(), averages[i], equal_nan=True
                )


@pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
@pytest.mark.parametrize(("dtype", "state", "seed"), STORED, ids=str)
def test_threads_change_no_bit(
    dtype: torch.dtype, state: str | None, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "GRAIN", 1)
    start, gradients = shapes(dtype)
    rule, before = cases.RULES["all of it"], torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(stepped(rule, start, gradients, fused=True, state_dtype=state, stochastic_rounding=seed))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        agree(results[0], other)


@pytest.mark.parametrize("kernel", KERNEL)
def test_the_seed_alone_decides_and_parameters_have_their_own_noise(kernel: bool) -> None:
    start = [torch.ones(500, dtype=torch.bfloat16), torch.ones(500, dtype=torch.bfloat16)]
    gradients = [[torch.ones_like(p) for p in start]] * 3

    def run(seed: int) -> list[Tensor]:
        torch.manual_seed(seed * 17)  # must have no effect
        return stepped(Rule(lr=1e-4), start, gradients, fused=kernel, stochastic_rounding=seed)[0]

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])
    assert torch.initial_seed() == 2 * 17
    assert torch.equal(torch.get_rng_state(), torch.manual_seed(2 * 17).get_state())  # no random number was drawn


@pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
@pytest.mark.parametrize("state", [None, "bfloat16", "uint8"])
def test_memory_in_another_order(state: str | None) -> None:
    """bfloat16 noise follows memory order. Eight-bit blocks follow rows; the kernel leaves them in any other order."""
    x = torch.randn(2, 40, 3, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    g = torch.randn(2, 40, 3, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    options: dict[str, Any] = {"state_dtype": state, "stochastic_rounding": True}
    a = stepped(cases.RULES["all of it"], [x], [[g]] * 3, **options)
    b = stepped(cases.RULES["all of it"], [x], [[g]] * 3, fused=False, **options)
    agree(a, b)
    assert ("row-major" in a[1].implementation) == (state == "uint8")


# -- purpose ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("state", ["bfloat16", "uint8"])
@pytest.mark.parametrize("decay", [0.99, 0.999])
def test_the_mean_of_v_is_right_where_rounding_to_nearest_stands_still(state: str, decay: float) -> None:
    """After ten time constants of unit gradients v is 1 within 1 %; rounded to nearest, about 2 at β = 0.999."""
    n, steps = 4096, round(10 / (1 - decay))
    p = torch.zeros(n)
    optimizer = RMSprop([p], lr=0.0, alpha=decay, state_dtype=state)
    generator = torch.Generator().manual_seed(0)
    nearest, mean = torch.zeros(n, dtype=torch.bfloat16), 0.0
    for t in range(steps):
        p.grad = torch.randn(n, generator=generator)
        nearest.mul_(decay).addcmul_(p.grad.bfloat16(), p.grad.bfloat16(), value=1 - decay)
        optimizer.step()
        if t >= steps - 100:
            mean += float(average(optimizer.state[p], "square_avg", p).mean()) / 100
    assert mean == pytest.approx(1.0, abs=0.01)
    if decay == 0.999:
        assert float(nearest.float().mean()) > 1.8


@pytest.mark.parametrize("state", [None, "bfloat16", "uint8"])
def test_small_steps_of_bfloat16_parameters_are_not_lost(state: str | None) -> None:
    """1000 steps of 1e-4 from 1: rounding to nearest never leaves 1, whose neighbours are at least 0.004 away."""
    start, gradients = [torch.ones(2000, dtype=torch.bfloat16)], [[torch.ones(2000, dtype=torch.bfloat16)]] * 1000
    rule = Rule(lr=1e-4, decay=0.5)

    def end(seed: bool | int) -> Tensor:
        p = start[0].clone()
        optimizer = RMSprop.from_rule([p], rule, stochastic_rounding=seed, state_dtype=state)
        for now in gradients:
            p.grad = now[0]
            optimizer.step()
        return p.float()

    assert torch.equal(end(False), torch.ones(2000))
    assert float(end(1).mean()) == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize("kernel", KERNEL)
@pytest.mark.parametrize("state", ["bfloat16", "uint8"])
@pytest.mark.parametrize("name", ["centered", "bias correction, centered", "all of it"])
def test_centered_division_is_bounded_by_the_noise_of_what_is_stored(kernel: bool, state: str, name: str) -> None:
    """Gradients are nearly constant: rounding of v and m hides the variance, which has a floor there."""
    rule = cases.RULES[name]
    rule = dataclasses.replace(rule, eps=0.0, momentum=0.0, nesterov=False, weight_decay=0.0, lr=1.0, maximize=False)
    p = torch.zeros(300)
    optimizer = RMSprop.from_rule([p], rule, state_dtype=state, fused=kernel)
    generator = torch.Generator().manual_seed(0)
    for t in range(300):
        before = p.clone()
        p.grad = 1 + 1e-4 * torch.randn(300, generator=generator)
        optimizer.step()
        # |g|/√v is about 1, at the start up to 1/√(1−β); the floor multiplies this by at most 1/√κ.
        bound = (1 - rule.decay) ** -0.5 if t < 50 else 1.6
        assert torch.isfinite(p).all()
        assert float((p - before).abs().max()) <= bound * low_precision.KAPPA[low_precision.DTYPES[state]] ** -0.5


def test_state_takes_the_bytes_it_should() -> None:
    def per_parameter(**options: Any) -> float:
        p = torch.ones(100, 333, dtype=options.pop("dtype", torch.float32))
        optimizer = RMSprop([p], **options)
        p.grad = torch.ones_like(p)
        optimizer.step()
        arrays: list[Tensor] = [value for name, value in optimizer.state[p].items() if name != "step"]
        return float(sum(x.numel() * x.element_size() for x in arrays) / p.numel() / len(arrays))

    assert per_parameter() == 4
    assert per_parameter(dtype=torch.bfloat16) == 4
    assert per_parameter(state_dtype="bfloat16", momentum=0.5) == 2
    assert per_parameter(state_dtype="uint8") <= 1.032
    assert per_parameter(state_dtype="uint8", momentum=0.5, centered=True) <= 1.032


# -- changes during a run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNEL)
def test_the_dtype_of_the_state_follows_the_group(kernel: bool) -> None:
    p = torch.randn(100)
    optimizer = RMSprop([p], momentum=0.5, centered=True, fused=kernel)
    for state, dtype in (
        (None, torch.float32),
        ("uint8", torch.uint8),
        ("bfloat16", torch.bfloat16),
        (None, torch.float32),
    ):
        optimizer.param_groups[0]["state_dtype"] = state
        before = {name: average(optimizer.state[p], name, p).clone() for name in STATE if optimizer.state[p]}
        optimizer.param_groups[0].update(lr=0.0, alpha=0.9999, momentum=0.9999)
        p.grad = torch.zeros_like(p)
        optimizer.step()
        for name in STATE:
            assert optimizer.state[p][name].dtype == dtype
            if before:
                spacing = before[name].abs() * 2**-2 + before[name].abs().max() * 2**-16
                assert torch.all((average(optimizer.state[p], name, p) - before[name]).abs() <= spacing)
        p.grad = torch.randn(100)
        optimizer.param_groups[0].update(lr=0.1, alpha=0.9, momentum=0.5)
        optimizer.step()


@pytest.mark.parametrize("state", ["bfloat16", "uint8"])
def test_a_copy_goes_on_as_the_original(state: str) -> None:
    start, gradients = shapes(torch.bfloat16)
    params, optimizer = stepped(cases.RULES["all of it"], start, gradients, state_dtype=state, stochastic_rounding=3)
    others, copied = copy.deepcopy((params, optimizer))
    for ps, o in ((params, optimizer), (others, copied)):
        for p, g in zip(ps, gradients[0], strict=True):
            p.grad = g.clone()
        o.step()
    agree((params, optimizer), (others, copied))


REFUSED: list[tuple[dict[str, Any], torch.dtype, str]] = [
    ({"state_dtype": "int8"}, torch.float32, "state_dtype must be None, 'bfloat16' or 'uint8', got 'int8'; "),
    (
        {"state_dtype": "uint8"},
        torch.float64,
        "state_dtype must be None for parameters that are not float32, bfloat16 or float16, "
        "got 'uint8' for one of float64",
    ),
    ({"state_dtype": "bfloat16"}, torch.complex64, "state_dtype must be None for parameters that are not float32"),
    (
        {"state_dtype": "uint8", "differentiable": True},
        torch.float32,
        "state_dtype must be None with differentiable=True, got 'uint8'",
    ),
    (
        {"stochastic_rounding": True, "differentiable": True},
        torch.bfloat16,
        "stochastic_rounding must be False with differentiable=True",
    ),
    ({"stochastic_rounding": True}, torch.float32, "stochastic_rounding must be False without bfloat16 parameters"),
    *(
        (
            {"stochastic_rounding": x},
            torch.bfloat16,
            f"stochastic_rounding must be False, True or a seed from 1 to 2³¹ − 1, got {x}",
        )
        for x in (0.5, 2**31, -1, 0)
    ),
]


@pytest.mark.parametrize(("options", "dtype", "text"), REFUSED)
def test_what_cannot_be_is_said_at_once(options: dict[str, Any], dtype: torch.dtype, text: str) -> None:
    with pytest.raises(InputError) as caught:
        RMSprop([torch.ones(3, dtype=dtype)], **options)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_a_group_that_cannot_be_is_not_added() -> None:
    optimizer = RMSprop([torch.ones(3)], state_dtype="uint8")
    with pytest.raises(InputError, match="got 'uint8' for one of float64"):
        optimizer.add_param_group({"params": [torch.ones(3, dtype=torch.float64)]})
    assert len(optimizer.param_groups) == 1

    class Own(nn.Parameter):
        pass

    with pytest.raises(InputError, match="'uint8' for a Own"):
        optimizer.add_param_group({"params": [Own(torch.ones(3))]})


def test_effective_lr_reads_what_is_stored() -> None:
    p = torch.ones(64)
    optimizer = RMSprop([p], lr=0.1, alpha=0.5, eps=0.0, state_dtype="uint8")
    p.grad = torch.full((64,), 2.0)  # v = 2 is a code
    optimizer.step()
    assert torch.allclose(optimizer.effective_lr(p), torch.full((64,), 0.1 / 2**0.5))


def test_stochastic_rounding_is_refused_for_a_group_that_has_nothing_to_round() -> None:
    text = "^stochastic_rounding must be False without bfloat16 parameters, got 3; omit it$"
    with pytest.raises(InputError, match=text):
        RMSprop([{"params": [torch.ones(3)], "stochastic_rounding": 3}])
    optimizer = RMSprop([torch.ones(3, dtype=torch.bfloat16)], stochastic_rounding=3)
    optimizer.add_param_group({"params": [torch.ones(3)]})  # norms may stand beside other layers
    with pytest.raises(InputError, match=text):
        optimizer.add_param_group({"params": [torch.ones(3)], "stochastic_rounding": 3})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize("kernel", KERNEL)
@pytest.mark.parametrize(("name", "value"), [
    ("state_dtype", "int8"), ("nonfinite", "ignore"), ("sparse", "x"), ("stochastic_rounding", -3),
    ("stochastic_rounding", 0.5), ("stochastic_rounding", 2**40), ("state_dtype", ["uint8"]),
])  # fmt: skip
def test_what_cannot_be_is_said_during_a_run(kernel: bool, name: str, value: Any) -> None:
    p = torch.ones(3, dtype=torch.bfloat16)
    optimizer = RMSprop([p], fused=None if kernel else False)
    p.grad = torch.ones_like(p)
    optimizer.param_groups[0][name] = value
    with pytest.raises(InputError, match=f"^{name} must be "):
        optimizer.step()
    assert torch.equal(p, torch.ones_like(p))


@pytest.mark.parametrize(("dtype", "state", "seed"), STORED, ids=str)
def test_pieces_change_no_bit(
    dtype: torch.dtype, state: str | None, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensor operations step long parameters in chunks, to bound their temporary memory."""
    start, gradients = shapes(dtype)
    options: dict[str, Any] = {"fused": False, "state_dtype": state, "stochastic_rounding": seed}
    whole = stepped(cases.RULES["all of it"], start, gradients, **options)
    monkeypatch.setattr("rmsprop.torch.engines.rounding._CHUNK", 64)
    agree(whole, stepped(cases.RULES["all of it"], start, gradients, **options))


@pytest.mark.parametrize("kernel", KERNEL)
def test_groups_do_not_share_their_noise(kernel: bool) -> None:
    """Otherwise rounding errors of layers in groups of their own would add up."""
    params = [torch.ones(500, dtype=torch.bfloat16) for _ in range(3)]
    optimizer = RMSprop([{"params": [p]} for p in params], lr=1e-3, stochastic_rounding=True, fused=kernel)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert len({tuple(p.tolist()) for p in params}) == 3
    together = [torch.ones(500, dtype=torch.bfloat16) for _ in range(3)]
    optimizer = RMSprop(together, lr=1e-3, stochastic_rounding=True, fused=kernel)
    for p in together:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, together, strict=True))


@pytest.mark.parametrize("kernel", KERNEL)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_elements_far_below_their_block_take_no_long_steps(kernel: bool, momentum: float) -> None:
    """If an average were stored as 0 without being 0, each step would be 1/√(1−β) long."""
    scale = torch.logspace(-9, 0, 32).repeat(64)
    p, q = torch.zeros(2048), torch.zeros(2048)
    generator = torch.Generator().manual_seed(0)
    moved = torch.zeros(2, 2048)
    small = RMSprop([p], lr=1.0, momentum=momentum, eps=1e-12, state_dtype="uint8", fused=kernel)
    exact = RMSprop([q], lr=1.0, momentum=momentum, eps=1e-12)
    for t in range(300):
        before = p.clone(), q.clone()
        p.grad = torch.randn(2048, generator=generator) * scale
        q.grad = p.grad.clone()
        small.step()
        exact.step()
        if t >= 100:
            moved += torch.stack([(p - before[0]).abs(), (q - before[1]).abs()])
    ratio = moved.view(2, 64, 32).sum(1)
    assert float((ratio[0] / ratio[1]).max()) < 1.25


def test_effective_lr_has_the_floor_of_what_is_stored() -> None:
    p = torch.ones(64)
    optimizer = RMSprop([p], lr=0.1, alpha=0.5, eps=0.0, state_dtype="bfloat16", centered=True)
    for _ in range(30):
        p.grad = torch.ones(64)
        optimizer.step()
    assert torch.allclose(optimizer.effective_lr(p), torch.full((64,), 0.1 * 2**2.5), rtol=0.02)


def test_a_group_may_mix_parameters_that_are_rounded_with_others() -> None:
    """One by one or in lists, in any order."""
    start = [torch.ones(40), torch.ones(40, dtype=torch.bfloat16), torch.ones(7)]
    gradients = [[torch.randn(p.shape, generator=torch.Generator().manual_seed(3)).to(p.dtype) for p in start]] * 3
    rule = cases.RULES["momentum"]
    expected = [
        stepped(rule, [torch.empty(0)] * i + [p], [[torch.empty(0)] * i + [now[i]] for now in gradients],
                fused=False, **({"stochastic_rounding": 2} if p.dtype == torch.bfloat16 else {}))[0][i]
        for i, p in enumerate(start)
    ]  # fmt: skip
    for execution in ({"foreach": False}, {"foreach": True}, {"fused": None}):
        found = stepped(rule, start, gradients, stochastic_rounding=2, **execution)[0]
        assert torch.equal(found[1], expected[1])
        for i in (0, 2):
            torch.testing.assert_close(found[i], expected[i], rtol=1e-6, atol=1e-7)
