"""`rmsprop bench --device cuda`: the cases on a GPU.

A time is that of a call by the clock on the wall, with the device's work. The contender "device copy" reads and writes
as many bytes on the device as a plain step must: 20 for each element. It is the memory limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from rmsprop.lab.timing import OURS, POLICY, Case, Step, compiled
from rmsprop.torch import RMSprop

SMALL = {"momentum": 0.9, "state_dtype": "uint8", "stochastic_rounding": True}
ALL = ("torch, foreach", "torch, fused Adam", "torch, compiled", "device copy")
Shapes = Sequence[tuple[int, ...]]


def _copy(params: list[Tensor]) -> Step:
    """Return a copy on the device that moves 20 bytes for each element: it reads 10 and writes 10."""
    source = torch.zeros(10 * sum(p.numel() for p in params), dtype=torch.uint8, device=params[0].device)
    return partial(torch.empty_like(source).copy_, source)


THEIRS: dict[str, Callable[[list[Tensor]], Step]] = {
    "torch, foreach": lambda params: torch.optim.RMSprop(params, foreach=True).step,
    "torch, fused Adam": lambda params: torch.optim.Adam(params, fused=True).step,
    "torch, compiled": lambda params: compiled(torch.optim.RMSprop(params, foreach=True)),
    "device copy": _copy,
}


def _params(shapes: Shapes, device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return parameters with gradients, the same ones for the same shapes."""
    generator = torch.Generator(device).manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator, device=device).to(dtype)) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, device=device).to(dtype)
    return list(params)


def _plain(shapes: Callable[[float], Shapes], theirs: Iterable[str], device: torch.device, scale: float) -> Any:
    """Return our step and the steps of `theirs`, each with its own parameters and gradients."""
    ours = RMSprop(_params(shapes(scale), device), fused=True).step
    return {OURS: ours, **{name: THEIRS[name](_params(shapes(scale), device)) for name in theirs}}


def _small(device: torch.device, scale: float) -> dict[str, Step]:
    """Return our step with parameters in bfloat16 and averages in 8 bits, and torch's in float32, with momentum."""
    shapes = [(int(1e8 * scale),)]
    theirs: Any = torch.optim.RMSprop(_params(shapes, device), momentum=0.9, foreach=True)
    ours: Any = RMSprop(_params(shapes, device, torch.bfloat16), fused=True, **SMALL)  # type: ignore[arg-type]
    return {OURS: ours.step, "torch, foreach, float32": theirs.step}


def facts(device: torch.device) -> dict[str, str]:
    """Return the name of a GPU, and the version of Triton."""
    return {"device": torch.cuda.get_device_name(device), "triton": version("triton")}


def cases(device: torch.device) -> dict[str, Case]:
    """Return the cases on a device."""

    def plain(shapes: Callable[[float], Shapes], theirs: Iterable[str] = ALL) -> Any:
        return partial(_plain, shapes, theirs, device)

    def large(scale: float) -> Shapes:
        return [(int(1e8 * scale),)]

    def medium(scale: float) -> Shapes:
        return [(max(1, int(163_840 * scale)),)] * 160

    def many(scale: float) -> Shapes:
        return [(32, 32)] * max(1, int(1000 * scale))

    eager = ("torch, foreach", "torch, fused Adam", "device copy")  # compiling 1000 tensors takes minutes
    return {
        "large": Case("one tensor, 100 M elements", plain(large), 10, 21),
        "medium": Case("160 tensors, 26 M elements", plain(medium), 20, 21),
        "many": Case("1000 tensors of 32 × 32", plain(many, eager), 20, 21),
        "policy": Case("policy network: 6 tensors, 4.6 k", plain(lambda _: POLICY), 50, 31),
        "small": Case("100 M in bfloat16, 8-bit state, momentum", partial(_small, device), 10, 21),
    }
