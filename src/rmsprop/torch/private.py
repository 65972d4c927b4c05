"""All that this package uses of torch under private names, and what stands in where a release of torch lacks one."""

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
outside_graphs = torch._compile._disable_dynamo  # as torch.compiler.disable, but without the import of the compiler
TRACES = torch.__version__ >= "2.13"  # before, the compiler took optimizers apart in ways of its own


def connect_kernel() -> str | None:
    """Return None if torch tensors can be stepped by the native kernel, else why not, in one line."""
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
    """Raise if a graph is being captured that `optimizer` is not made for, and warn once of the opposite."""
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):  # until torch 2.9
        if (check := getattr(optimizer, name, None)) is not None:
            check()
            return


def foreach_is_default(params: list[Tensor], differentiable: bool) -> bool:
    """Return whether torch's optimizers step these parameters many at a time where `foreach` is None."""
    return bool(_default_to_fused_or_foreach(params, differentiable, use_fused=False)[1])


def untraced(optimizer: Optimizer, method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return what `method`, one of torch's of `optimizer`, does where nothing is compiled.

    torch keeps its compiler from tracing these methods by importing it at their first call (2 seconds, when the first
    optimizer is made). Before somebody has imported it, nothing can be traced, and that is not needed. A method that
    somebody else has put in the place of torch's is left as it is.
    """
    function = getattr(method, "__func__", None)
    code = getattr(function, "__code__", None)
    if "torch._dynamo" in sys.modules or code is None or code.co_filename != torch._compile.__file__:
        return method
    bound: Callable[Arguments, Result] = function.__wrapped__.__get__(optimizer)  # type: ignore[union-attr]
    return bound
