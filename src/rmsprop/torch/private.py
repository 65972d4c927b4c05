"""Private names of torch that this package uses, with a replacement where a release of torch lacks one.

Names without a replacement are in every torch from 2.6 on. The import fails if a later release lacks one: a step that
ignored a hook or a mode would be wrong. Attributes that torch reads from optimizers are in `optimizer.py`.
"""

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
from torch.utils.data.dataloader import _BaseDataLoaderIter

from rmsprop import native

__all__ = [
    "KERNEL_DTYPES",
    "TRACES",
    "DataLoaderIterator",
    "check_graph_capture",
    "connect_kernel",
    "dispatch_modes",
    "entries",
    "foreach_is_default",
    "global_post_hooks",
    "global_pre_hooks",
    "mark_static",
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
DataLoaderIterator = _BaseDataLoaderIter
outside_graphs = torch._compile._disable_dynamo  # torch.compiler.disable imports the compiler
KERNEL_DTYPES = (  # in the order of kDtypes in kernel/tensors.cpp
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
    torch.complex128,
    torch.uint8,
    torch.int64,
)
TRACES = torch.__version__ >= "2.13"  # older compilers trace optimizers in their own way


def connect_kernel() -> str | None:
    """Connect the native kernel with torch. Return None, or one line that says why the kernel cannot step tensors.

    The kernel reads tensors through DLPack's exchange functions, or by methods of Tensor where torch has none (before
    2.11).
    """
    if native.kernel is None:
        return native.missing()
    try:
        native.kernel.use_torch(Tensor, torch.nn.Parameter, torch._C._increment_version)
    except (AttributeError, ValueError):
        native.kernel.use_methods(KERNEL_DTYPES)
    return None


def check_graph_capture(optimizer: Optimizer) -> None:
    """Raise if a graph is captured without `capturable`. Warn once of `capturable` without a capture."""
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):  # until torch 2.9
        if (check := getattr(optimizer, name, None)) is not None:
            check()
            return


def entries(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return indices and values of a sparse gradient as stored, where a row may have more than one entry."""
    return grad._indices(), grad._values()


def mark_static(x: Tensor) -> None:
    """Tell the compiler that `x` keeps its address: CUDA graphs then copy nothing."""
    torch._dynamo.mark_static_address(x, guard=False)


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
