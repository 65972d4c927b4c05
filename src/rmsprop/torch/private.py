"""Private names of torch that this package uses, with a replacement where a release of torch lacks one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    _default_to_fused_or_foreach,
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

from rmsprop import native

__all__ = [
    "TRACES",
    "check_graph_capture",
    "connect_kernel",
    "dispatch_modes",
    "foreach_is_default",
    "global_post_hooks",
    "global_pre_hooks",
    "outside_graphs",
    "profiler_enabled",
    "set_grad_enabled",
    "untraced",
]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

global_pre_hooks, global_post_hooks = _global_optimizer_pre_hooks, _global_optimizer_post_hooks
dispatch_modes = torch._C._len_torch_dispatch_stack
profiler_enabled = torch._C._autograd._profiler_enabled
set_grad_enabled = torch._C._set_grad_enabled
outside_graphs = torch._compile._disable_dynamo  # torch.compiler.disable imports the compiler
TRACES = torch.__version__ >= "2.13"  # older compilers trace optimizers in their own way


def connect_kernel() -> str | None:
    """Connect the native kernel with torch. Return None, or one line that says why the kernel cannot step tensors."""
    if native.kernel is None:
        return native.missing()
    try:
        native.kernel.use_torch(Tensor, torch.nn.Parameter, torch._C._increment_version)
    except (AttributeError, ValueError):
        return (
            f"torch {torch.__version__} lacks DLPack's exchange functions, through which the native kernel reads "
            "tensors: steps on the CPU take several times longer; torch 2.13 has them"
        )
    return None


def check_graph_capture(optimizer: Optimizer) -> None:
    """Raise if a graph is captured without `capturable`. Warn once of `capturable` without a capture."""
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):  # until torch 2.9
        if (check := getattr(optimizer, name, None)) is not None:
            check()
            return


def foreach_is_default(params: list[Tensor], differentiable: bool) -> bool:
    """Return whether torch's optimizers use foreach operations for these parameters by default."""
    return bool(_default_to_fused_or_foreach(params, differentiable, use_fused=False)[1])


def untraced(optimizer: Optimizer, method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return a method of torch's `Optimizer`, bound to `optimizer`, that does not import torch's compiler.

    torch wraps these methods so that its compiler does not trace them. The wrapper imports the compiler, which takes 2
    seconds when the first optimizer is built. Before the compiler is imported, nothing is traced and the wrapper is not
    needed. A method that replaces torch's own is returned unchanged.
    """
    function = getattr(method, "__func__", None)
    code = getattr(function, "__code__", None)
    if "torch._dynamo" in sys.modules or code is None or code.co_filename != torch._compile.__file__:
        return method
    bound: Callable[Arguments, Result] = function.__wrapped__.__get__(optimizer)  # type: ignore[union-attr]
    return bound
