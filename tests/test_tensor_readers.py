"""The kernel reads tensors through DLPack's exchange functions or by methods of Tensor, with the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases
import pytest
import torch
from torch import Tensor, nn

from rmsprop import Rule, native
from rmsprop.monitor import Monitor
from rmsprop.torch import RMSprop
from rmsprop.torch.engines.cpu_kernel import REASONS
from rmsprop.torch.private import KERNEL_DTYPES

pytestmark = pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
RULE = cases.RULES["all of it, the other way"]
SINGLE = (torch.float32, torch.bfloat16, torch.float16)
ALL = (*SINGLE, torch.float64, torch.complex64, torch.complex128)
OPTIONS: dict[str, tuple[dict[str, Any], tuple[torch.dtype, ...]]] = {
    "default": ({}, ALL),
    "uint8": ({"state_dtype": "uint8"}, SINGLE),
    "bfloat16": ({"state_dtype": "bfloat16"}, SINGLE),
    "rounded, uint8": ({"state_dtype": "uint8", "stochastic_rounding": 3}, (torch.bfloat16,)),
    "zero": ({"nonfinite": "zero"}, ALL),
    "skip": ({"nonfinite": "skip"}, ALL),
}
CASES = [(name, dtype) for name, (_, dtypes) in OPTIONS.items() for dtype in dtypes]
KERNEL = f"native kernel ({native.kernel.instruction_set()})" if native.kernel else ""


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def params_of(dtype: torch.dtype) -> list[Tensor]:
    """Return parameters of every layout that the kernel steps."""
    return [
        nn.Parameter(randn(3, 5, dtype=dtype)),
        randn(7, 40, dtype=dtype)[2:4],
        randn(dtype=dtype),
        randn(0, 2, dtype=dtype),
        randn(2, 3, 4, 5, dtype=dtype),
        randn(4, 3, 1, 1, dtype=dtype).to(memory_format=torch.channels_last),
        randn(*[1] * 30, 6, dtype=dtype),
    ]


def strided(dtype: torch.dtype) -> list[Tensor]:
    """Return parameters that are dense in another order than row-major."""
    return [randn(3, 4, dtype=dtype).t(), randn(2, 3, 4, 5, dtype=dtype).to(memory_format=torch.channels_last)]


def bits(x: Tensor) -> Tensor:
    x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.detach().clone().contiguous().view(whole)


@pytest.fixture
def both() -> Callable[[Callable[[], Any]], tuple[Any, Any]]:
    """Return a function that calls another one with each reader. Without exchange functions the test is skipped."""
    kernel: Any = native.kernel
    if kernel.uses_methods():
        pytest.skip("this torch has no DLPack exchange functions")

    def call(run: Callable[[], Any]) -> tuple[Any, Any]:
        exchanged = run()
        kernel.use_methods(KERNEL_DTYPES)
        assert kernel.uses_methods()
        try:
            return exchanged, run()
        finally:
            kernel.use_exchange()

    return call


def stepped(params: list[Tensor], **options: Any) -> tuple[str, list[Tensor]]:
    """Step parameters three times; return the implementation, and the bits of parameters and state."""
    optimizer = RMSprop.from_rule(params, RULE, **options)
    for t in range(3):
        for i, p in enumerate(params):
            p.grad = torch.empty_like(p).copy_(randn(*p.shape, seed=10 * t + i, dtype=p.dtype))
        if options.get("nonfinite") and t == 1:
            params[0].grad[0, 0] = torch.inf  # type: ignore[index]
        optimizer.step()
    state = [x for p in params for x in optimizer.state[p].values()]
    return optimizer.implementation, [bits(x) for x in (*params, *state)]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_both_ways_of_reading_tensors_give_the_same_bits(both: Any, name: str, dtype: torch.dtype) -> None:
    options = OPTIONS[name][0]

    def run() -> tuple[str, list[Tensor]]:
        params = params_of(dtype)
        if "state_dtype" not in options:
            params += strided(dtype)
        return stepped(params, **options)

    (path, exchanged), (other_path, by_methods) = both(run)
    assert path == other_path == KERNEL
    assert equal(exchanged, by_methods)


def test_both_count_and_measure_the_same(both: Any) -> None:
    def run() -> Any:
        params = params_of(torch.float32)
        optimizer = RMSprop.from_rule(params, RULE)
        monitor = Monitor(optimizer, every=1)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        (record,) = monitor.records
        monitor.close()
        return repr(record["tensors"])

    exchanged, by_methods = both(run)
    assert exchanged == by_methods


@pytest.mark.parametrize(("sparse", "rule"), [("exact", cases.PLAIN), ("lazy", cases.RULES["centered"])])
def test_both_step_the_rows_that_sparse_gradients_touch(both: Any, sparse: str, rule: Rule) -> None:
    def run() -> list[Tensor]:
        torch.manual_seed(0)
        table = nn.Embedding(20, 3, sparse=True)
        optimizer = RMSprop.from_rule(list(table.parameters()), rule, sparse=sparse)
        for t in range(3):
            optimizer.zero_grad()
            (table(torch.tensor([1, 3, 3, 2 * t])) ** 2).sum().backward()
            optimizer.step()
        assert optimizer.implementation == KERNEL
        return [bits(x) for x in (table.weight, *optimizer.state[table.weight].values())]

    assert equal(*both(run))


def freed(p: Tensor) -> Tensor:
    gradient = torch.ones_like(p)
    gradient.untyped_storage().resize_(0)
    return gradient


class Subclass(Tensor):
    pass


REFUSED: dict[str, tuple[Tensor, Callable[[Tensor], Tensor], str]] = {
    "meta": (torch.ones(3, device="meta"), torch.ones_like, "layout"),
    "subclass": (randn(3).as_subclass(Subclass), torch.ones_like, "class"),
    "gaps": (randn(4, 6)[:, ::2], torch.ones_like, "strides"),
    "more dimensions than the kernel has": (randn(*[1] * 64, 2), torch.ones_like, "strides"),
    "another dtype": (randn(3).to(torch.float8_e5m2), torch.ones_like, "dtype"),
    "conjugated": (randn(3, dtype=torch.complex64).conj(), torch.ones_like, "flag"),
    "a gradient of zeros without memory": (
        randn(3), lambda p: torch._efficientzerotensor(p.shape), "gradient layout"),
    "a gradient whose memory was freed": (randn(3), freed, "gradient layout"),
    "a gradient in another order": (randn(3, 4), lambda p: randn(4, 3).t(), "gradient strides"),
    "a sparse gradient": (randn(3), lambda p: torch.ones_like(p).to_sparse(), "gradient layout"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_tensors_are_refused_for_the_same_reason(reader: str, name: str) -> None:
    """A gradient without memory would be read at address 0."""
    p, gradient, reason = REFUSED[name]
    p.grad = gradient(p)
    x = torch.ones(3)
    state = {p: {"step": torch.tensor(0.0, dtype=torch.float64), "square_avg": x}}
    kernel: Any = native.kernel
    precision = kernel.Precision(state=0, stochastic=False, seed=1, nonfinite=kernel.Nonfinite.propagate)
    batch = kernel.Batch()
    assert batch.add(native.kernel_rule(cases.PLAIN), precision, 0.1, [p], state, 0) == [(0, reason)]
    assert reason in REASONS


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap, of torch's operations
def test_a_transform_of_torch_func_has_no_memory_to_step(reader: str) -> None:
    def step(p: Tensor) -> Tensor:
        optimizer = RMSprop([p])
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert optimizer.implementation == f"tensor operations ({REASONS['layout']})"
        return p

    torch.func.vmap(step)(torch.ones(2, 3))


def test_a_mode_of_torch_functions_sees_no_step_that_it_could_change(reader: str) -> None:
    with torch.device("cpu"):  # a TorchFunctionMode
        p, q = randn(5), randn(5)
        p.grad, q.grad = torch.ones(5), torch.ones(5)
        a, b = RMSprop([p]), RMSprop([q], fused=False)
        a.step()
        b.step()
    assert a.implementation == KERNEL
    torch.testing.assert_close(p, q)
