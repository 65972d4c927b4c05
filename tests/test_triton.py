"""The Triton kernel on CPU tensors, by Triton's interpreter: the bits of `rmsprop.rule`, and what others step."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import torch
from torch import Tensor

from rmsprop import InputError, Rule
from rmsprop.hyperparameters import averages
from rmsprop.rule import AVERAGES, State, init, update
from rmsprop.torch import RMSprop, private
from rmsprop.torch.distributed import local_shard
from rmsprop.torch.engines import engine, triton_compiler, triton_kernel, triton_tables
from rmsprop.torch.engines.engine import Remaining
from rmsprop.torch.engines.tensor_ops import TensorOps
from rmsprop.torch.engines.triton_kernel import TritonKernel
from rmsprop.torch.engines.triton_tables import TensorRow, overlapping
from rmsprop.torch.engines.triton_taken import REASONS
from rmsprop.torch.low_precision import pack, packed_size, unpack

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

ROOT = Path(__file__).resolve().parent.parent
BLOCK = 32
STEPS = 2


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> Iterator[None]:
    """Interpret Triton's functions: the variable is read when they are defined."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TRITON_INTERPRET", "1")
        with np.errstate(all="ignore"):
            assert triton_compiler.loading_error() is None
            import triton.language as tl
            from triton.runtime.interpreter import InterpretedFunction

            if not isinstance(tl.max, InterpretedFunction):  # Triton was imported before, by torch's compiler
                patched.setattr(tl, "max", InterpretedFunction(tl.max.fn))
            call = InterpretedFunction.__call__

            def call_ours(self: Any, *args: Any, **named: Any) -> Any:
                """Call a function without replacing the language: its launch has, and it takes half of the time."""
                if self.fn.__module__.startswith("triton."):
                    return call(self, *args, **named)
                return self.rewrite()(*args, **named)

            patched.setattr(InterpretedFunction, "__call__", call_ours)
            yield


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Triton kernel step CPU tensors, in small blocks, and the native kernel none."""
    monkeypatch.setattr("rmsprop.torch.step.ENGINES", (TritonKernel, TensorOps))
    monkeypatch.setattr(triton_kernel, "DEVICES", ("cpu",))
    monkeypatch.setattr(triton_kernel, "BY_DEFAULT", True)
    monkeypatch.setattr(TritonKernel, "unavailable", lambda: None)
    monkeypatch.setattr(triton_tables, "BLOCK", BLOCK)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def parameters(dtype: torch.dtype) -> list[Tensor]:
    """Return a parameter of a whole block, one of two blocks of which the last is partial, and one not aligned."""
    start = torch.from_numpy(cases.problem(np.float64, 76)[0]).to(dtype)
    unaligned = torch.empty(5, dtype=dtype)[1:].copy_(start[72:])
    return [start[:32].clone(), start[32:72].reshape(8, 5).clone(), unaligned]


def gradients(step: int) -> list[Tensor]:
    g = torch.from_numpy(cases.problem(np.float64, 76)[1][step])
    return [g[:32], g[32:72].reshape(8, 5), g[72:]]


def train(optimizer: RMSprop, params: list[Tensor], steps: int = STEPS) -> None:
    for t in range(steps):
        for p, g in zip(params, gradients(t), strict=True):
            p.grad = g.to(p.dtype).clone()
        optimizer.param_groups[0]["lr"] = lr_at(t)
        optimizer.step()


def lr_at(step: int) -> float:
    return 0.03 if step < 1 else 0.004


def agree(optimizer: RMSprop, params: list[Tensor], rule: Rule, starts: list[Tensor]) -> None:
    """Compare parameters and state with `rmsprop.rule`, bit for bit."""
    for k, (p, start) in enumerate(zip(params, starts, strict=True)):
        x, state = start.numpy(), init(rule, start.numpy())
        for t in range(STEPS):
            g = gradients(t)[k].to(p.dtype).numpy()
            x, state = update(dataclasses.replace(rule, lr=lr_at(t)), x, g, state)
        assert np.array_equal(p.numpy(), x)
        for name in AVERAGES:
            if (expected := getattr(state, name)) is not None:
                assert np.array_equal(optimizer.state[p][name].numpy(), expected), name
        assert float(optimizer.state[p]["step"]) == STEPS


# -- the bits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", cases.RULES)
def test_every_variant_has_the_bits_of_the_rule(name: str, dtype: torch.dtype) -> None:
    rule, params = cases.RULES[name], parameters(dtype)
    starts = [p.clone() for p in params]
    optimizer = RMSprop.from_rule(params, rule)
    assert optimizer.implementation == "Triton kernel"
    train(optimizer, params)
    assert optimizer.implementation == "Triton kernel"
    agree(optimizer, params, rule, starts)


@pytest.mark.parametrize("name", ["plain", "all of it", "all of it, the other way", "Adam", "NAdam, schedule"])
def test_a_learning_rate_and_counters_on_the_device_give_the_same_bits(name: str) -> None:
    rule, params = cases.RULES[name], parameters(torch.float32)
    starts, lr = [p.clone() for p in params], torch.tensor(0.0, dtype=torch.float64)
    optimizer = RMSprop.from_rule(params, rule, capturable=True)
    optimizer.param_groups[0]["lr"] = lr
    for t in range(STEPS):
        lr.fill_(lr_at(t))
        for p, g in zip(params, gradients(t), strict=True):
            p.grad = g.to(p.dtype)
        optimizer.step()
    assert optimizer.implementation == "Triton kernel"
    agree(optimizer, params, rule, starts)


def test_parameters_with_other_step_counts_have_other_bias_corrections() -> None:
    rule = cases.RULES["bias correction, v0"]
    params, others = parameters(torch.float64), parameters(torch.float64)
    optimizer, other = RMSprop.from_rule(params, rule), RMSprop.from_rule(others, rule, foreach=False)
    for each, tensors in ((optimizer, params), (other, others)):
        for t in range(3):
            for k, (p, g) in enumerate(zip(tensors, gradients(t), strict=True)):
                p.grad = g.clone() if t >= k else None
            each.step()
    assert [float(optimizer.state[p]["step"]) for p in params] == [3, 2, 1]
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-14)


def test_groups_have_their_own_numbers() -> None:
    rules = [dataclasses.replace(cases.PLAIN, eps=eps) for eps in (0.02, 0.5)]
    starts = [randn(5), randn(5, seed=1)]
    params, g = [x.clone() for x in starts], randn(5, seed=2)
    optimizer = RMSprop([{"params": [p], "eps": rule.eps} for p, rule in zip(params, rules, strict=True)], 0.03, 0.8)
    for p in params:
        p.grad = g.clone()
    optimizer.step()
    for p, start, rule in zip(params, starts, rules, strict=True):
        assert np.array_equal(p.numpy(), update(rule, start.numpy(), g.numpy(), init(rule, start.numpy()))[0])


def test_complex_parameters_are_two_reals() -> None:
    rule = cases.RULES["all of it, the other way"]
    p = torch.view_as_complex(randn(7, 2, dtype=torch.float64))
    q = torch.view_as_real(p).clone()
    optimizer, other = RMSprop.from_rule([p], rule), RMSprop.from_rule([q], rule)
    for t in range(STEPS):
        p.grad = torch.view_as_complex(randn(7, 2, seed=t, dtype=torch.float64))
        q.grad = torch.view_as_real(p.grad).clone()
        optimizer.step()
        other.step()
    assert optimizer.implementation == other.implementation == "Triton kernel"
    assert torch.equal(torch.view_as_real(p), q)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["plain", "all of it", "all of it, the other way", "everything of Adam"])
def test_half_precision_is_computed_in_float32_and_rounded_to_nearest(name: str, dtype: torch.dtype) -> None:
    rule, params = cases.RULES[name], parameters(dtype)
    starts = [p.clone() for p in params]
    optimizer = RMSprop.from_rule(params, rule)
    train(optimizer, params, 2)
    assert optimizer.implementation == "Triton kernel"
    for k, (p, start) in enumerate(zip(params, starts, strict=True)):
        state = init(rule, start.float().numpy())
        for t in range(2):
            g = gradients(t)[k].to(dtype).float().numpy()
            x, state = update(dataclasses.replace(rule, lr=lr_at(t)), start.float().numpy(), g, state)
            start = torch.from_numpy(x).to(dtype)
        assert torch.equal(p, start)
        for name in averages(rule):
            assert np.array_equal(optimizer.state[p][name].numpy(), getattr(state, name)), name


def test_every_bfloat16_and_float16_is_read_and_every_tie_and_the_ends_are_rounded_as_by_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton_tables, "BLOCK", 1 << 16)
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.bfloat16, torch.float16):
        p = bits.view(dtype).clone()
        optimizer = RMSprop([p], lr=1.0, alpha=0.0, eps=1.0)
        p.grad = torch.zeros_like(p)
        optimizer.step()
        finite = bits.view(dtype).isfinite()
        assert torch.equal(p[finite], bits.view(dtype)[finite])
        assert torch.equal(p[~finite].isnan(), bits.view(dtype)[~finite].isnan())
        half = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11  # half of the distance of 1 to the next number
        for step in (half, 3 * half, half * (1 + 2.0**-12), 2.0**130):
            p, q = torch.tensor([1.0, -1.0], dtype=dtype), torch.tensor([1.0, -1.0])
            for x in (p, q):
                x.grad = -x
                RMSprop([x], lr=2 * step, alpha=0.0, eps=1.0).step()
            assert torch.equal(p, q.to(dtype)), step


@pytest.mark.parametrize(("name", "options"), [
    ("plain", {"state_dtype": "bfloat16"}),
    ("plain", {"stochastic_rounding": 7, "capturable": True}),
    ("all of it, the other way", {"state_dtype": "bfloat16", "stochastic_rounding": True}),
    ("everything of Adam", {"state_dtype": "bfloat16", "capturable": True}),
    ("plain", {"state_dtype": "uint8", "stochastic_rounding": 3}),
    ("all of it, the other way", {"state_dtype": "uint8"}),
    ("everything of Adam", {"state_dtype": "uint8", "capturable": True}),
])  # fmt: skip
def test_stochastic_rounding_has_the_bits_of_tensor_operations(name: str, options: dict[str, Any]) -> None:
    dtype = torch.bfloat16 if "stochastic_rounding" in options else torch.float32
    params, others = parameters(dtype), parameters(dtype)
    optimizer = RMSprop.from_rule(params, cases.RULES[name], **options)
    other = RMSprop.from_rule(others, cases.RULES[name], foreach=False, **options)
    train(optimizer, params, 2)
    train(other, others, 2)
    assert optimizer.implementation == "Triton kernel"
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        for average in averages(cases.RULES[name]):
            assert optimizer.state[p][average].dtype == other.state[q][average].dtype
            assert torch.equal(optimizer.state[p][average], other.state[q][average]), average


@pytest.mark.parametrize("block", [32, 128])
def test_blocks_of_eight_bits_are_found_in_every_program(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 128 elements a program, the last one of 300 elements has two blocks, one of them not full."""
    monkeypatch.setattr(triton_tables, "BLOCK", block)
    p, q = randn(300), randn(300)
    for x, execution in ((p, {}), (q, {"foreach": False})):
        optimizer = RMSprop([x], momentum=0.9, state_dtype="uint8", **execution)  # type: ignore[arg-type]
        for t in range(2):
            x.grad = randn(300, seed=t + 1) * torch.arange(300)
            optimizer.step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("signed", [False, True])
def test_every_number_in_eight_bits_has_the_bits_of_tensor_operations(signed: bool) -> None:
    from triton_functions import pack_all

    generator = torch.Generator().manual_seed(0)
    ends = [0.0, 1e-45, 3e-39, 1.2e-38, 1.0, 1.8751, 2.0, 1.7014e38, 3.2e38, np.inf, np.nan]
    blocks = [
        torch.ldexp(torch.rand(32, generator=generator), torch.arange(-16, 16) + shift) for shift in (-120, 0, 90)
    ]
    blocks += [torch.full((32,), x) for x in ends]
    blocks += [torch.cat([torch.tensor([x]), torch.rand(31, generator=generator)]) for x in ends]
    blocks += [torch.ldexp(torch.rand(32, generator=generator), torch.arange(32) // -1)]  # codes that are subnormal
    x = torch.cat([*blocks, torch.rand(11, generator=generator)])
    if signed:
        x = torch.where(torch.rand(x.numel(), generator=generator) < 0.5, -x, x)
    packed, y = torch.zeros(packed_size(x.numel()), dtype=torch.uint8), torch.empty_like(x)
    key, rows = 12345, 1 << (len(blocks)).bit_length()
    table, keys = torch.tensor([packed.data_ptr()]), torch.tensor([0, key])
    pack_all[(1,)](x, table, keys, x.numel(), y, signed, rows)
    assert torch.equal(packed, pack(x, signed=signed, key=key))
    expected = unpack(packed, x, signed=signed)
    assert torch.equal(y.view(torch.int32)[~y.isnan()], expected.view(torch.int32)[~expected.isnan()])
    assert torch.equal(y.isnan(), expected.isnan())


def test_stochastic_rounding_keeps_what_is_not_finite_and_the_largest_numbers() -> None:
    # The square of 1.8439e19 lies between the largest finite numbers of bfloat16 and float32.
    values = [0.0, -0.0, 1e-45, 1.8439e19, 3.3e38, -3.39e38, np.inf, -np.inf, np.nan]
    numbers = torch.tensor(values * 5, dtype=torch.float32)
    for dtype in (torch.bfloat16, torch.float32):
        results = []
        for execution in ({}, {"foreach": False}):
            p = numbers.to(dtype, copy=True)
            options: dict[str, Any] = {"stochastic_rounding": dtype == torch.bfloat16, **execution}
            optimizer = RMSprop([p], lr=3e36, alpha=0.0, momentum=0.5, state_dtype="bfloat16", **options)
            for _ in range(3):
                p.grad = -numbers.to(dtype).nan_to_num(1.0, 1.0, -1.0)
                optimizer.step()
            results.append([p, *(optimizer.state[p][name] for name in ("square_avg", "momentum_buffer"))])
        assert all(torch.equal(x.nan_to_num(7), y.nan_to_num(7)) for x, y in zip(*results, strict=True))
        assert all(torch.equal(x.isinf(), y.isinf()) for x, y in zip(*results, strict=True))


def test_every_nan_stays_nan_in_bfloat16() -> None:
    from triton_functions import store_all

    bits = torch.tensor([0x7FFFFFFF, -1, 0x7F800001, 0x7FC00000], dtype=torch.int32)  # the first is that of GPUs
    target = torch.zeros(4, dtype=torch.int16)
    store_all[(1,)](bits.view(torch.float32), target, 4)
    assert target.view(torch.bfloat16).isnan().all()


def test_numbers_at_the_ends_of_float32_have_the_bits_of_the_rule() -> None:
    numbers = [0.0, -0.0, 1e-45, -1e-40, 1e-38, 1e-20, 1e18, -1.8e19, 3e38, np.inf, -np.inf, np.nan]
    for name in ("no eps", "all of it", "amsgrad", "NAdam, schedule"):
        rule = cases.RULES[name]
        start, g = np.linspace(-1, 1, len(numbers), dtype=np.float32), np.array(numbers, np.float32)
        x, state, p = start, init(rule, start), torch.from_numpy(start.copy())
        optimizer = RMSprop.from_rule([p], rule)
        for _ in range(2):
            x, state = update(rule, x, g, state)
            p.grad = torch.from_numpy(g)
            optimizer.step()
        assert np.array_equal(p.numpy(), x, equal_nan=True), name
        for average in averages(rule):
            assert np.array_equal(optimizer.state[p][average].numpy(), getattr(state, average), equal_nan=True), name


def test_statistics_of_a_step_are_those_of_tensor_operations() -> None:
    class Log:
        def __init__(self) -> None:
            self.sums: list[Any] = []

        def wanted(self) -> tuple[int, int]:
            return 2, 2

        def measured(self, keys: Any, sums: Any, histograms: Any) -> None:
            self.sums.append((sums.copy(), histograms.copy()))

        def skipped(self, keys: Any, counts: Any) -> None:
            raise AssertionError

        def sync(self) -> None: ...

    logs = []
    for foreach in (None, False):
        params = parameters(torch.float64)
        optimizer = RMSprop.from_rule(params, cases.RULES["all of it, the other way"], foreach=foreach)
        logs.append(Log())
        optimizer.watch(logs[-1])
        train(optimizer, params)
    for (sums, bins), (other_sums, other_bins) in zip(logs[0].sums, logs[1].sums, strict=True):
        np.testing.assert_allclose(sums, other_sums, rtol=1e-12)
        assert np.array_equal(bins, other_bins)


# -- gradients that are not finite -------------------------------------------------------------------------------------


BAD = [np.nan, np.inf, -np.inf, 1e30]  # the square of the last one is infinite in float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_elements_that_are_not_finite_count_as_zero(dtype: torch.dtype) -> None:
    rule, params = cases.RULES["all of it"], parameters(dtype)
    optimizer = RMSprop.from_rule(params, rule, nonfinite="zero")
    expected = [(p.numpy().copy(), init(rule, p.numpy())) for p in params]
    bad = BAD if dtype == torch.float32 else [*BAD[:3], 1e160]
    for t in range(STEPS):
        for k, (p, g) in enumerate(zip(params, gradients(t), strict=True)):
            p.grad, cleaned = g.to(dtype).clone(), g.to(dtype).clone()
            if t:  # none in the first step
                p.grad.view(-1)[:4], cleaned.view(-1)[:4] = torch.tensor(bad, dtype=dtype), 0
            p.grad.view(-1)[-1] = cleaned.view(-1)[-1] = 1e9 if dtype == torch.float32 else 1e30  # its square is finite
            expected[k] = update(rule, expected[k][0], cleaned.numpy(), expected[k][1])
        optimizer.step()
        assert optimizer.nonfinite_steps == t
    for p, (x, state) in zip(params, expected, strict=True):
        assert np.array_equal(p.numpy(), x)
        assert np.array_equal(optimizer.state[p]["square_avg"].numpy(), state.square_avg)
    assert optimizer.implementation == "Triton kernel"


@pytest.mark.parametrize(("bad", "capturable"), [
    (np.nan, False), (1e30, True), (None, False), (None, True)  # capturable: a flag on the device decides
])  # fmt: skip
def test_a_step_with_an_element_that_is_not_finite_is_skipped(bad: float | None, capturable: bool) -> None:
    params = [*parameters(torch.float32), randn(5, seed=3)]
    optimizer = RMSprop.from_rule(params[:3], cases.RULES["all of it"], nonfinite="skip", capturable=capturable)
    optimizer.add_param_group({"params": params[3:], "nonfinite": "propagate"})

    def everything() -> list[Tensor]:
        return [x for p in params for x in (p, *optimizer.state[p].values())]

    params[3].grad = torch.ones(5)
    train(optimizer, params[:3], 1)
    kept = [x.clone() for x in everything()]
    for p, g in zip(params, gradients(1), strict=False):
        p.grad = g.float().clone()
    if bad is not None:
        params[1].grad[7, 4] = bad  # type: ignore[index]
    optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip(kept, everything(), strict=True)) == (bad is not None)
    assert optimizer.nonfinite_steps == (bad is not None)
    assert [float(optimizer.state[p]["step"]) for p in params] == [1 + (bad is None)] * 4
    assert optimizer.implementation == "Triton kernel"


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_a_grad_scaler_divides_and_skips_without_a_wait(nonfinite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale and the flag lie on the device, and so do the counters from the first such step on."""
    rule = dataclasses.replace(cases.RULES["bias correction, v0"], maximize=True)
    params, plain = parameters(torch.float32), parameters(torch.float32)
    optimizer = RMSprop.from_rule(params, rule, fused=True, nonfinite=nonfinite)
    other = RMSprop.from_rule(plain, rule)
    monkeypatch.setattr(engine, "HOST", "none")
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(0.0)  # type: ignore[attr-defined]
    reads: list[Tensor] = []
    for t, bad in enumerate((None, np.inf, None, 1e30)):
        for p, q, g in zip(params, plain, gradients(t), strict=True):
            p.grad, q.grad = 8192 * g.float(), g.float()
        if bad is not None:
            params[1].grad[7, 4] = bad * 8192  # type: ignore[index]
        optimizer.grad_scale = torch.tensor(8192.0)  # type: ignore[attr-defined]
        optimizer.found_inf = torch.tensor(float(bad == np.inf))  # type: ignore[attr-defined]
        kept = [p.grad.clone() for p in params]  # type: ignore[union-attr]
        with monkeypatch.context() as patched:
            for name in ("item", "__bool__", "__float__") if t else ():
                patched.setattr(Tensor, name, lambda x, *_: reads.append(x))
            optimizer.step()
        if bad is None:
            other.step()
        elif bad == 1e30 and nonfinite == "propagate":
            break
        for p, q, g in zip(params, plain, kept, strict=True):
            assert torch.equal(p, q)
            assert torch.equal(p.grad, g / (1 if bad == np.inf else 8192))  # type: ignore[arg-type]
            assert float(optimizer.state[p]["step"]) == float(other.state[q]["step"])
    assert reads == []
    assert optimizer.implementation == "Triton kernel"
    assert optimizer.nonfinite_steps == (nonfinite == "skip")  # not the step that the scaler skipped


# -- code for GPUs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_interpreter() -> list[str]:
    """Return what a process prints that steps on the CPU, then runs scripts/check-triton twice.

    One process for three tests: importing torch and Triton takes seconds.
    """
    code = (
        "import runpy, sys, torch; from rmsprop.torch import RMSprop\n"
        "from rmsprop.torch.engines import triton_compiler\n"
        "p = torch.ones(3); o = RMSprop([p], foreach=True); p.grad = torch.ones(3); o.step()\n"
        "print('triton' in sys.modules, o.implementation)\n"
        f"main = runpy.run_path({str(ROOT / 'scripts' / 'check-triton')!r})['main']\n"
        "sys.argv = ['check-triton', '--short', '--arch', '90']; print(main())\n"
        "triton_compiler.OPTIONS['enable_fp_fusion'] = True\n"
        "sys.argv = ['check-triton', '--one', '--arch', '90']; print(main())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_code_for_the_cpu_does_not_import_triton(without_interpreter: list[str]) -> None:
    assert without_interpreter[0] == "False tensor operations (foreach=True)"


def test_code_for_gpus_is_exact_and_wide_and_spills_no_register(without_interpreter: list[str]) -> None:
    *lines, status = without_interpreter[1:-2]
    assert status == "0", lines
    assert len(lines) == 7
    for line in lines:
        assert " 0 bytes spilled" in line
        bits = 32 if "not aligned" in line else 64 if "bfloat16 with" in line else 128
        assert line.endswith(f"of {bits} bits")


def test_code_with_fused_multiply_adds_is_refused(without_interpreter: list[str]) -> None:
    line, status = without_interpreter[-2:]
    assert status == "1"
    assert "not exact: fma.rn.f32" in line


def test_code_that_checks_a_gpu_passes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """scripts/check-gpu, with the interpreter in place of a GPU: what needs no CUDA."""
    loader = SourceFileLoader("check_gpu", str(ROOT / "scripts" / "check-gpu"))
    script: Any = module_from_spec(spec_from_loader("check_gpu", loader))  # type: ignore[arg-type]
    loader.exec_module(script)
    monkeypatch.setattr(triton_tables, "BLOCK", 4096)
    monkeypatch.setattr(script, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(cases, "RULES", {name: cases.RULES[name] for name in ("no eps", "amsgrad")})
    assert script.bits_are_those_of_the_rule() == "100000 numbers of 2 variants"
    assert script.half_precision_is_rounded_as_by_torch() == "bfloat16 and float16"


# -- one launch for all tensors, and tables that are copied only when an address has changed ---------------------------


class Launches:
    """Stands in for a function of Triton: counts its launches, and launches it."""

    def __init__(self, function: Any) -> None:
        self.function, self.grids = function, list[tuple[int, ...]]()

    def run(self, *arguments: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        assert warmup

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grids.append(grid)
        return self.function[grid]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    from rmsprop.torch.engines import triton_step

    result = Launches(triton_step.step_tensors)
    monkeypatch.setattr(triton_step, "step_tensors", result)
    return result


def tables(optimizer: RMSprop) -> dict[Any, Any]:
    engine: Any = optimizer.step_state.spare_engines[0][0]
    return dict(engine._tensor_tables)


def test_tensors_of_one_form_and_dtype_take_one_launch_whatever_their_group(launches: Launches) -> None:
    params = [randn(40, seed=k) for k in range(8)]
    groups = [{"params": params[:4], "lr": 0.1}, {"params": params[4:], "lr": 0.2, "eps": 0.0}]
    optimizer = RMSprop(groups)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert launches.grids == [(16,)]
    optimizer.param_groups[1]["weight_decay"] = 0.1  # another form
    optimizer.add_param_group({"params": [randn(3, dtype=torch.float64)]})
    optimizer.param_groups[2]["params"][0].grad = torch.ones(3, dtype=torch.float64)
    optimizer.step()
    assert sorted(launches.grids[1:]) == [(1,), (8,), (8,)]


def test_an_empty_parameter_is_counted_and_takes_no_launch(launches: Launches) -> None:
    p = torch.zeros(0, 3)
    optimizer = RMSprop([p])
    p.grad = torch.zeros(0, 3)
    optimizer.step()
    assert launches.grids == []
    assert float(optimizer.state[p]["step"]) == 1


def test_a_table_is_built_again_only_when_an_address_has_changed() -> None:
    p = randn(40)
    optimizer = RMSprop([p])
    p.grad = torch.ones_like(p)
    kept = [p, p.grad]  # no address is used again
    optimizer.step()
    (first,) = tables(optimizer).values()

    def is_new() -> bool:
        nonlocal first
        before, state = p.clone(), optimizer.state[p]["square_avg"].clone()
        optimizer.step()
        x, after = update(Rule(), before.numpy(), p.grad.numpy(), State(0, state.numpy()))  # type: ignore[union-attr]
        assert np.array_equal(p.numpy(), x)
        assert np.array_equal(optimizer.state[p]["square_avg"].numpy(), after.square_avg)
        old, (first,) = first, tables(optimizer).values()
        return old is not first

    assert not is_new()
    p.grad.fill_(2.0)
    optimizer.param_groups[0]["lr"] = 0.01
    assert not is_new()
    p.grad = torch.full_like(p, 3.0)
    kept.append(p.grad)
    assert is_new()
    p.data = p.data.clone()
    assert is_new()
    optimizer.state[p]["square_avg"] = optimizer.state[p]["square_avg"].clone()
    assert is_new()
    assert not is_new()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: {
        "step": torch.tensor(5.0), "square_avg": torch.full((40,), 0.5)}}})  # fmt: skip
    assert is_new()


def test_what_changes_beside_an_address_is_noticed_in_the_next_step() -> None:
    p, q = randn(3, 3), randn(3, 3)
    optimizer, plain = RMSprop([p]), RMSprop([q], foreach=False)

    def both(change: Any = None) -> str:
        for x, each in ((p, optimizer), (q, plain)):
            x.grad = randn(3, 3, seed=5) if x.grad is None else x.grad
            if change is not None:
                change(x, each)
            each.step()
        torch.testing.assert_close(p, q)
        assert optimizer.state[p].keys() == plain.state[q].keys()
        assert float(optimizer.state[p]["step"]) == float(plain.state[q]["step"])
        return optimizer.implementation.partition(" (")[0]

    assert both() == both() == "Triton kernel"
    assert both(lambda x, each: setattr(x, "data", x.data.t())) == "tensor operations"  # at the same address
    assert both(lambda x, each: setattr(x, "data", x.data.t())) == "Triton kernel"
    assert both(lambda x, each: setattr(x, "grad", x.grad.to_sparse())) == "tensor operations"
    assert both(lambda x, each: setattr(x, "grad", randn(3, 3))) == "Triton kernel"
    assert both(lambda x, each: each.param_groups[0].update(momentum=0.9, centered=True)) == "Triton kernel"
    assert both(lambda x, each: each.param_groups[0].update(momentum=0.0)) == "Triton kernel"
    assert both(lambda x, each: each.state[x].pop("square_avg")) == "Triton kernel"
    assert both(lambda x, each: each.state.pop(x)) == "Triton kernel"
    assert both(lambda x, each: each.state[x].update(square_avg=randn(3, 3).abs().t())) == "tensor operations"
    assert both(lambda x, each: each.state[x].update(square_avg=randn(3, 3).abs())) == "Triton kernel"
    assert both(lambda x, each: each.state[x].update(step=torch.tensor(7.0))) == "Triton kernel"
    assert both(lambda x, each: each.param_groups[0].update(state_dtype="uint8")) == "Triton kernel"
    assert both(lambda x, each: each.param_groups[0].update(state_dtype=None)) == "Triton kernel"
    assert both(lambda x, each: each.param_groups[0].update(nonfinite="skip")) == "Triton kernel"
    with pytest.raises(InputError, match="the gradient of parameter 0 must be of its shape"):
        both(lambda x, each: setattr(x, "data", x.data.reshape(9)))


def test_an_average_whose_data_are_replaced_is_noticed() -> None:
    p, g = randn(3, 3), randn(3, 3, seed=1)
    optimizer = RMSprop([p])
    p.grad = g
    optimizer.step()
    v = optimizer.state[p]["square_avg"]
    for dtype, words in ((torch.float64, "tensor operations"), (torch.float32, "Triton kernel")):
        before = p.clone()
        v.data = torch.full((3, 3), 0.5, dtype=dtype)
        optimizer.step()
        assert optimizer.implementation.partition(" (")[0] == words
        torch.testing.assert_close(v, (0.99 * 0.5 + 0.01 * g * g).to(dtype))
        torch.testing.assert_close(p, before - 0.01 * g / (v.sqrt().float() + 1e-8))
    v.data = torch.full((2, 3), 0.5)
    with pytest.raises(InputError, match="square_avg of parameter 0 must be of its shape"):
        optimizer.step()


def test_tables_hold_the_rows_and_the_blocks_of_every_tensor() -> None:
    rows, cpu = [TensorRow(16, 32, 48, 0, 0, 0, size) for size in (BLOCK + 1, 0, BLOCK, 1)], torch.device("cpu")
    table = triton_tables.tensor_table(None, rows, [2, 1, 0, 0], cpu)
    assert table.tensors[0].tolist() == [[*row, index] for row, index in zip(rows, [2, 1, 0, 0], strict=True)]
    assert table.tensors[1].tolist() == [[0, 0], [0, 1], [2, 0], [3, 0]]
    assert triton_tables.tensor_table(table, list(rows), [2, 1, 0, 0], cpu) is table
    assert triton_tables.tensor_table(table, rows, [2, 1, 0, 1], cpu) is not table
    assert triton_tables.tensor_table(table, rows[:3], [2, 1, 0], cpu) is not table


def test_scalars_are_copied_only_when_a_number_has_changed() -> None:
    params = parameters(torch.float32)
    optimizer = RMSprop(params, lr=0.03)

    def scalars() -> Any:
        engine: Any = optimizer.step_state.spare_engines[0][0]
        return [*engine._scalar_tables.values()]

    train(optimizer, params, 1)
    before = scalars()
    train(optimizer, params, 1)
    assert all(a is b for a, b in zip(before, scalars(), strict=True))
    train(optimizer, params, 2)
    assert not any(a is b for a, b in zip(before, scalars(), strict=True))


@pytest.mark.parametrize("field", range(6))
def test_tensors_whose_written_memory_overlaps_other_memory_are_found(field: int) -> None:
    rows = [TensorRow._make([*range(1000 * k, 1000 * k + 600, 100), 10]) for k in range(1, 4)]
    lengths = [(40, 40)] * 3
    assert overlapping(rows, lengths) == set()
    inside = {TensorRow._fields[field]: rows[2].square_avg + 36}
    changed = [rows[0]._replace(**inside), *rows[1:]]
    assert overlapping(changed, lengths) == {0, 2}
    assert overlapping(changed, [(0, 0)] * 3) == set()
    assert overlapping(changed, [(40, 11)] * 3) == set()
    shared = [row._replace(g=rows[0].g) for row in rows]  # a gradient is only read
    assert overlapping(shared, lengths) == set()
    assert overlapping([shared[0], shared[1]._replace(p=rows[0].g)], lengths[:2]) == {0, 1}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
@pytest.mark.filterwarnings("ignore:DTensor random operators:UserWarning")  # in torch 2.6, of every mesh of CPUs
@pytest.mark.parametrize("options", [{}, {"state_dtype": "bfloat16", "nonfinite": "zero"}])
def test_of_a_dtensor_this_rank_s_shard_is_stepped(options: dict[str, Any]) -> None:
    """Rank 1 of two: rows 3 to 4 of five, and no row of the second parameter."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    local: dict[str, Any] = {"src_data_rank": None} if torch.__version__ >= "2.7" else {}
    torch.distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (2,))

        def spread(x: Tensor, way: Any) -> Any:
            return distribute_tensor(x, mesh, [way], **local)

        start = randn(5, 20)
        p, q = torch.nn.Parameter(spread(start, Shard(0))), torch.nn.Parameter(spread(randn(1, 2), Shard(0)))
        r = start[3:].clone()
        optimizer = RMSprop([p, q], momentum=0.9, fused=True, **options)
        plain = RMSprop([r], momentum=0.9, fused=True, **options)
        for t in range(3):
            g = randn(5, 20, seed=t)
            p.grad, q.grad, r.grad = spread(g, Shard(0)), spread(randn(1, 2), Shard(0)), g[3:].clone()
            if t == 2:  # another tensor of the same DTensor
                p.data = spread(torch.cat([start[:3], r.clone()]), Shard(0))
            optimizer.step()
            plain.step()
            assert optimizer.implementation == "Triton kernel"
            assert torch.equal(local_shard(p), r)
            for name in ("square_avg", "momentum_buffer"):
                assert torch.equal(optimizer.state[p][name].to_local(), plain.state[r][name])
        assert [float(optimizer.state[x]["step"]) for x in (p, q)] == [3, 3]
        p.grad = spread(randn(5, 20), Replicate())
        with pytest.raises(InputError, match=REASONS["placements"]):
            optimizer.step()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not private.TRACES, reason="this torch executes compiled steps outside graphs")
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch warns while it compiles
def test_a_compiled_step_is_one_graph_that_calls_the_kernel(launches: Launches) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    params, others = parameters(torch.float32), parameters(torch.float32)
    optimizer, plain = RMSprop(params, momentum=0.9), RMSprop(others, momentum=0.9)
    compiled: Any = torch.compile(optimizer.step, backend=counter, fullgraph=True)
    for t in range(3):
        for p, q, g in zip(params, others, gradients(t), strict=True):
            p.grad, q.grad = g.float().clone(), g.float().clone()
        for each, step in ((optimizer, compiled), (plain, plain.step)):
            each.param_groups[0].update(lr=lr_at(t), weight_decay=0.1 * t)
            step()
    assert counter.frame_count == 1
    assert len(launches.grids) == 2 * 2 * 3
    assert optimizer.implementation == "Triton kernel"
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
    torch._dynamo.reset()


# -- what it leaves to tensor operations -------------------------------------------------------------------------------


class Subclass(torch.Tensor):
    pass


def left() -> dict[str, tuple[Tensor, Tensor]]:
    """Return a parameter and a gradient for each reason to leave them to tensor operations."""
    base = randn(4, 6)
    return {
        "class": (randn(3).as_subclass(Subclass), randn(3)),
        "strides": (base[:, ::2], randn(4, 3)),
        "gradient class": (randn(3), randn(3).as_subclass(Subclass)),
        "gradient layout": (
            randn(3),
            torch.sparse_coo_tensor(torch.tensor([[0, 2]]), randn(2), (3,), check_invariants=False),
        ),
        "gradient strides": (randn(3, 4), randn(4, 3).t()),
        "gradient flag": (torch.view_as_complex(randn(3, 2)), torch.view_as_complex(randn(3, 2)).conj()),
        "flag": (torch.view_as_complex(randn(3, 2)).conj().imag, randn(3)),
    }


@pytest.mark.parametrize("name", [name for name in REASONS if name in left()])
def test_tensors_that_the_kernel_cannot_step_are_left_with_the_reason(name: str) -> None:
    p, g = left()[name]
    other, q = randn(5), p.detach().clone()
    optimizer, plain = RMSprop([other, p]), RMSprop([q], foreach=False)
    other.grad, p.grad, q.grad = torch.ones(5), g, g.clone()
    optimizer.step()
    plain.step()
    reason = REASONS[name]
    assert (
        optimizer.implementation == f"Triton kernel, but tensor operations for some (parameter 1 of group 0: {reason})"
    )
    torch.testing.assert_close(torch.Tensor(p) if name == "class" else p, torch.Tensor(q) if name == "class" else q)
    with pytest.raises(
        InputError, match=f"^fused must be None or False for parameter 0 of group 0, got True; {reason}"
    ):
        RMSprop([p], fused=True).step()


@pytest.mark.parametrize("options", [
    {"fused": False}, {"foreach": True}, {"foreach": False}, {"differentiable": True}
])  # fmt: skip
def test_groups_that_the_kernel_cannot_step_are_left_with_the_reason(options: dict[str, Any]) -> None:
    (name, value), p = next(iter(options.items())), randn(3)
    optimizer = RMSprop([p.clone() if name == "differentiable" else p], **options)
    assert optimizer.implementation == f"tensor operations ({name}={value!r})"
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()
    assert optimizer.implementation == f"tensor operations ({name}={value!r})"


def test_parameters_that_share_memory_are_left_to_tensor_operations() -> None:
    memory, p = randn(12), randn(3)
    a, b = memory[:8], memory[4:]
    optimizer = RMSprop([p, a, b])
    p.grad, a.grad, b.grad = torch.ones(3), torch.ones(8), torch.ones(8)
    for _ in range(2):
        optimizer.step()
        assert optimizer.implementation == (
            "Triton kernel, but tensor operations for some (parameter 1 of group 0 and 1 more: its memory overlaps "
            "that of another tensor)"
        )
    assert [float(optimizer.state[x]["step"]) for x in (p, a, b)] == [2, 2, 2]


def test_layouts_without_gaps_are_stepped_in_the_order_of_memory() -> None:
    p = randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    q = p.contiguous().clone()
    optimizer, other = RMSprop([p], momentum=0.9), RMSprop([q], momentum=0.9)
    for t in range(2):
        g = randn(2, 3, 4, 5, seed=t)
        p.grad, q.grad = g.to(memory_format=torch.channels_last), g
        optimizer.step()
        other.step()
    assert optimizer.implementation == "Triton kernel"
    assert torch.equal(p, q)
    rounded = RMSprop([p], state_dtype="uint8")
    rounded.step()
    assert rounded.implementation == f"tensor operations ({REASONS['row-major']})"


def test_state_that_is_incomplete_or_loaded_is_completed() -> None:
    p, q = randn(6), randn(6)
    optimizer, plain = RMSprop([p]), RMSprop([q], foreach=False)
    for each in (optimizer, plain):
        each.load_state_dict({**each.state_dict(), "state": {0: {
            "step": torch.tensor(5.0), "square_avg": torch.full((6,), 0.5)}}})  # fmt: skip
        each.param_groups[0]["params"][0].grad = torch.ones(6)
        each.param_groups[0]["momentum"] = 0.9
    optimizer.step()
    plain.step()
    torch.testing.assert_close(p, q)
    assert optimizer.state[p].keys() == plain.state[q].keys()


def test_autograd_notices_the_change() -> None:
    p = torch.nn.Parameter(randn(3))
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    RMSprop([p]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


def test_a_gradient_of_another_shape_raises_before_anything_changes() -> None:
    p, q = randn(3), randn(4)
    before = p.clone()
    optimizer = RMSprop([p, q])
    p.grad, q.grad = torch.ones(3), torch.ones(4)
    q.data = randn(5)
    with pytest.raises(InputError, match="the gradient of parameter 1 must be of its shape"):
        optimizer.step()
    assert torch.equal(p, before)


def test_tensors_on_other_devices_keep_the_reason_of_the_engine_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernel, "DEVICES", ("cuda",))
    p = randn(3)
    p.grad = torch.ones(3)
    optimizer = RMSprop([p])
    inputs: Any = type("Inputs", (), {"groups": optimizer.param_groups, "offsets": [0]})
    parts = [Remaining(0, None, "a reason")]
    assert TritonKernel().gather(inputs, parts) == parts
    assert TritonKernel.param_refusal(p) == "it is not on a GPU of CUDA or ROCm"


# -- loading Triton ----------------------------------------------------------------------------------------------------


def test_a_triton_that_is_too_old_or_broken_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    uncached: Any = vars(triton_compiler.loading_error)["__wrapped__"]
    monkeypatch.setattr(triton_compiler, "loading_error", uncached)
    monkeypatch.setattr(triton, "__version__", "3.1.0")
    p = randn(3)
    optimizer = RMSprop([p])
    p.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.implementation == (
        "tensor operations (Triton 3.1.0 is too old: steps take several times longer; install 3.2 or newer)"
    )
    monkeypatch.setitem(sys.modules, "triton", None)
    assert str(uncached()).startswith("Triton cannot be loaded (")


def test_what_cannot_be_stepped_by_fused_true_raises_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    p = randn(3)
    p.grad = torch.ones(3)
    before = p.clone()
    optimizer = RMSprop([p], fused=True)

    def raised() -> str:
        with pytest.raises(InputError) as caught:
            optimizer.step()
        assert torch.equal(p, before)
        return str(caught.value).removeprefix("fused must be None or False for ").removesuffix("; omit fused")

    monkeypatch.setattr(triton_compiler, "device_refusal", lambda device: f"{device} is too old")
    assert raised() == "parameter 0 of group 0, got True; cpu is too old"
    monkeypatch.setattr(triton_compiler, "UNAVAILABLE", "Triton is not installed")
    assert raised() == "group 0, got True; Triton is not installed"
    monkeypatch.setattr(triton_kernel, "DEVICES", ("cuda",))
    q = torch.empty(3, device="meta")  # as on MPS
    RMSprop([q], fused=True).step()  # without a gradient
    q.grad = torch.empty_like(q)
    with pytest.raises(InputError, match="got True; it is on meta, where there is no kernel; omit fused"):
        RMSprop([q], fused=True).step()


def test_a_gpu_too_old_for_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    uncached: Any = vars(triton_compiler.device_refusal)["__wrapped__"]
    monkeypatch.setattr(torch.version, "hip", None)
    for capability, words in (((6, 1), "its GPU has compute capability 6.1, and Triton needs 7.0"), ((7, 0), None)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert uncached(torch.device("cuda", 0)) == words
    assert uncached(torch.device("cpu")) is None


def test_every_form_is_compiled_before_the_first_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], launches: Launches
) -> None:
    """The second of two forms does not compile: the first has not stepped. A long compilation is announced once."""
    p, q = randn(3), randn(3, dtype=torch.float64)
    before = p.clone(), q.clone()
    optimizer = RMSprop([p, q], momentum=0.5)
    p.grad, q.grad = torch.ones(3), torch.ones(3, dtype=torch.float64)
    compiled, clock = list[int](), iter(range(100))

    def compile_slowly(*_: Any, **__: Any) -> None:
        compiled.append(0)
        if len(compiled) == 2:
            raise RuntimeError("no ptxas\nsecond line")

    monkeypatch.setattr(time, "perf_counter", lambda: 1.5 * next(clock))
    monkeypatch.setattr(launches, "run", compile_slowly)
    with pytest.raises(RuntimeError, match=r"Triton cannot compile for cpu \(no ptxas\); pass fused=False$"):
        optimizer.step()
    assert launches.grids == []
    assert torch.equal(p, before[0])
    assert torch.equal(q, before[1])
    assert [float(optimizer.state[x]["step"]) for x in (p, q)] == [0, 0]
    announcement = "rmsprop: Triton compiled a step in 1.5 s; it keeps the result for later runs\n"
    assert capsys.readouterr().err == announcement
    for _ in range(2):
        optimizer.step()
    assert len(compiled) == 3  # the second form once more
    assert len(launches.grids) == 4
    assert capsys.readouterr().err == ""


def test_without_memory_nothing_has_changed(launches: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = randn(3), randn(3, dtype=torch.float64)
    optimizer = RMSprop([p, q], nonfinite="zero")
    before = p.clone(), q.clone()
    for name in ("_flag", "numbers_on_device"):
        p.grad, q.grad = torch.ones(3), torch.ones(3, dtype=torch.float64)
        own, calls = getattr(triton_kernel, name), iter([None])  # the second call finds no memory

        def allocate(*arguments: Any, own: Any = own, calls: Any = calls) -> Any:
            next(calls)
            return own(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(triton_kernel, name, allocate)
            with pytest.raises(StopIteration):
                optimizer.step()
        assert launches.grids == []
        assert torch.equal(p, before[0])
        assert torch.equal(q, before[1])
        assert [float(optimizer.state[x]["step"]) for x in (p, q)] == [0, 0]


def test_the_kernel_is_not_taken_by_default_before_it_has_run_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernel, "BY_DEFAULT", False)
    for fused, words in (
        (None, "tensor operations (the Triton kernel has not run on a GPU yet; fused=True takes it)"),
        (True, "Triton"),
    ):
        p = randn(5)
        optimizer = RMSprop([p], fused=fused)
        p.grad = torch.ones(5)
        optimizer.step()
        assert optimizer.implementation.startswith(words)
