"""Methods of `torch.optim.Optimizer` without the import of torch's compiler, which takes as long as that of torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch.optim.optimizer import Optimizer

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


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
