"""Whether Triton can step here, and compiling its functions before the first change of a step."""

from __future__ import annotations

import importlib.util
import sys
import time
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch

from rmsprop.torch import low_precision

# Of every launch. A fused multiply-add rounds once, the rule twice.
OPTIONS = {"enable_fp_fusion": False, "num_warps": 4}
ROUNDED = {**OPTIONS, "num_warps": 8}  # where averages are rounded: four warps would have too few registers
OLDEST = (3, 2)  # Triton of torch 2.6
CAPABILITY = (7, 0)  # of NVIDIA's GPUs that Triton compiles for
UNAVAILABLE = None if importlib.util.find_spec("triton") else "Triton is not installed; pip install triton"

_compiled: set[tuple[Any, ...]] = set()
_told: list[str] = []  # that compiling took long: said once per process


def options_of(state: torch.dtype) -> dict[str, Any]:
    """Return the options of a launch that steps averages of dtype `state`."""
    return ROUNDED if state in low_precision.KAPPA else OPTIONS


@cache
def loading_error() -> str | None:
    """Return why the kernel cannot be loaded, else None."""
    try:
        import triton

        if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            return f"Triton {triton.__version__} is too old: steps take several times longer; install {oldest} or newer"
        from rmsprop.torch.engines import triton_step  # noqa: F401
    except Exception as error:
        return f"Triton cannot be loaded ({error}): steps take several times longer"
    return None


@cache
def device_refusal(device: torch.device) -> str | None:
    """Return why Triton cannot compile for a GPU, else None."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= CAPABILITY:
        return None
    own, least = (".".join(map(str, pair)) for pair in (capability, CAPABILITY))
    return f"its GPU has compute capability {own}, and Triton needs {least}"


def prepare(function: Any, device: torch.device, grid: tuple[int], arguments: tuple[Any, ...], **options: Any) -> None:
    """Compile a function for `arguments` if a launch would. Nothing is launched.

    Raises
    ------
    RuntimeError
        If Triton cannot compile it.
    """
    # Tensors as Triton distinguishes them; the tables' addresses are aligned.
    key = (function, device, *[x.dtype if isinstance(x, torch.Tensor) else x for x in arguments])
    if key in _compiled:
        return
    began = time.perf_counter()
    try:
        function.run(*arguments, grid=grid, warmup=True, **options)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RuntimeError(f"rmsprop: Triton cannot compile for {device} ({reason}); pass fused=False") from error
    _compiled.add(key)
    seconds = time.perf_counter() - began
    if seconds > 1 and not _told:
        _told.append(f"rmsprop: Triton compiled a step in {seconds:.1f} s; it keeps the result for later runs")
        print(_told[0], file=sys.stderr)


def device_of(device: torch.device) -> Any:
    """Return a context in which `device` is the current one: Triton compiles and launches there."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)
