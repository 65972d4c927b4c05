"""The native CPU kernel: the engine that steps dense tensors in memory, and the touched rows of sparse gradients.

In each step, the kernel reads the address, dtype and layout of every parameter, gradient and average anew. It calls
functions that torch publishes in C (about 0.1 µs each). Where torch has none, it calls methods of Tensor (0.5 µs). No
cache of tensors can go stale.

No earlier pass over all parameters completes their state: after the first step it would find nothing to do. The kernel
refuses parameters with incomplete state. Their state is completed, and they are added again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rmsprop import native
from rmsprop.rule import AVERAGES
from rmsprop.torch.engines import copied_statistics, sparse_rows
from rmsprop.torch.engines.copied_statistics import Before
from rmsprop.torch.engines.engine import NOT_ON_CPU, Measured, Remaining, StepInputs, check_fused, missing_field
from rmsprop.torch.engines.param_step import check_writable
from rmsprop.torch.engines.sparse_rows import Lag, RowCopies
from rmsprop.torch.groups import RULE_NAMES, STORAGE, check_lr, check_storage, from_group, lr_number, rule_from, rule_of
from rmsprop.torch.private import connect_kernel, dispatch_modes, entries
from rmsprop.torch.state import ParamGroup, check_gradient, complete_state

REASONS = {
    "class": "it is of a subclass of Tensor, which may compute in its own way",
    "layout": "it has no memory of its own",
    "device": NOT_ON_CPU,
    "dtype": "its dtype is not float32, float64, bfloat16, float16, complex64 or complex128",
    "flag": "it is a conjugated or negated view",
    "strides": "its memory has gaps or repeats",
    "overlap": "its memory overlaps that of its gradient or state",
    "gradient class": "its gradient is of a subclass of Tensor",
    "gradient layout": "its gradient is sparse or has no memory of its own",
    "gradient device": "its gradient is not on the CPU",
    "gradient dtype": "its gradient has another dtype",
    "gradient flag": "its gradient is a conjugated or negated view",
    "gradient strides": "its gradient has other strides",
    "state": "its state has another dtype or other strides than the kernel uses",
    "row-major": "its 8-bit state is in row-major order, which its memory is not",
    "step": "its step counter is not a CPU tensor of one float64 number",
}

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)
_INCOMPLETE = ("state", "step")  # completing the state may remove these reasons
_SPARSE = REASONS["gradient layout"]
UNAVAILABLE = connect_kernel()


class _KernelRule(NamedTuple):
    """The kernel's form of a rule, or the reason why the kernel cannot step the rule."""

    rule: Any
    refusal: str | None


class CpuKernel:
    """The engine that calls the native kernel (see `engine.Engine`). An object is not thread-safe."""

    fields = native.FIELDS
    skips_on_device = False

    def __init__(self) -> None:
        self._batch: Any = None if UNAVAILABLE is not None else native.kernel.Batch()  # type: ignore[union-attr]
        self._rows: list[tuple[ParamGroup, RowCopies]] = []  # copies of touched rows, stepped by the kernel
        self._before: list[Before] = []

    @property
    def name(self) -> str:
        """Return the engine's name, with the instruction set in use."""
        return f"native kernel ({native.kernel.instruction_set()})" if native.kernel else "native kernel"

    def __len__(self) -> int:
        return 0 if self._batch is None else len(self._batch)

    @classmethod
    def unavailable(cls) -> str | None:
        """Return why the kernel steps nothing in this process; else None."""
        return UNAVAILABLE

    @classmethod
    def group_refusal(cls, group: ParamGroup) -> str | None:
        """Return why the kernel steps no parameter of `group`: how it is executed or a field of its rule; else None."""
        modes = 0 if torch.compiler.is_compiling() else dispatch_modes()
        return execution_refusal(group, modes) or missing_field(group, cls.fields, "the native kernel")

    @classmethod
    def param_refusal(cls, p: Tensor) -> str | None:
        """Return why the class, device or dtype of `p` keeps the kernel from stepping `p`; else None."""
        if type(p) not in (Tensor, torch.nn.Parameter) and not torch.nn.parameter.is_lazy(p):
            return REASONS["class"]
        if p.device.type != "cpu":
            return REASONS["device"]
        return None if p.dtype in _DTYPES else REASONS["dtype"]

    def gather(self, inputs: StepInputs, remaining: Sequence[Remaining]) -> list[Remaining]:
        """Take the parameters with dense or sparse gradients that the kernel can step; return the others."""
        left: list[Remaining] = []
        sparse: list[tuple[int, int]] = []  # group, and index in the group
        for part in remaining:
            group = inputs.groups[part.group_index]
            if reason := execution_refusal(group, dispatch_modes()):
                if reason == UNAVAILABLE and any(p.device.type == "cpu" for p in group["params"]):
                    warn_once(reason)
                left.append(part._replace(reason=reason))
                continue
            lr = group["lr"]
            if type(lr) is not float or not 0 <= lr < math.inf:
                check_lr(group)
            rule, reason = kernel_rule_of(group)
            if reason:
                left.append(part._replace(reason=reason))
                continue
            for i, reason in self._gather_dense(inputs, group, rule, inputs.offsets[part.group_index], part.indices):
                if reason == "gradient layout":
                    sparse.append((part.group_index, i))
                else:
                    left.append(Remaining(part.group_index, [i], REASONS[reason]))
        if sparse:
            check_fused(inputs, [Remaining(group, [i], _SPARSE) for group, i in sparse])
            left += self._gather_sparse(inputs, sparse)
        return left

    def _gather_dense(
        self, inputs: StepInputs, group: ParamGroup, rule: Any, offset: int, indices: list[int] | None
    ) -> list[tuple[int, str]]:
        """Add a group's parameters with dense gradients to the batch; return index and reason of those not added."""
        add, precision, lr = self._batch.add, kernel_precision_of(group), group["lr"]
        lr = lr if type(lr) is float else lr_number(lr)
        params = group["params"] if isinstance(group["params"], list) else list(group["params"])
        if indices is None and not inputs.sparse:
            refused = add(rule, precision, lr, params, inputs.states, offset) or []
        else:
            # The kernel would refuse sparse gradients itself, but torch takes milliseconds for each refusal.
            asked = [i for i in (range(len(params)) if indices is None else indices) if params[i].grad is not None]
            dense = [i for i in asked if not params[i].grad.is_sparse]
            refused = [(i, "gradient layout") for i in asked if params[i].grad.is_sparse]
            for start, stop in _runs(dense):
                pieces = add(rule, precision, lr, params[start:stop], inputs.states, offset + start) or ()
                refused += [(start + i, reason) for i, reason in pieces]
        left = []
        for i, reason in refused:
            if reason in _INCOMPLETE:
                complete_state(group, i, inputs.states)
                refused_again = add(rule, precision, lr, [params[i]], inputs.states, offset + i) or ()
                left += [(i, second_reason) for _, second_reason in refused_again]
            else:
                left.append((i, reason))
        return left

    def _gather_sparse(self, inputs: StepInputs, sparse: list[tuple[int, int]]) -> Iterator[Remaining]:
        """Add the rows that sparse gradients touch to the batch; yield parameters that the kernel cannot step."""
        for index, i in sparse:
            check_gradient(inputs.groups[index], i)
        for index, i in sparse:
            p = inputs.groups[index]["params"][i]
            if not (p.grad.is_sparse and p.device.type == "cpu" and self._add_rows(inputs, index, i)):
                yield Remaining(index, [i], _SPARSE)

    def _add_rows(self, inputs: StepInputs, group_index: int, i: int) -> bool:
        """Add touched rows to the batch: in place if possible and not measured, else as copies. Return the success."""
        group, index = inputs.groups[group_index], inputs.offsets[group_index] + i
        p, state = group["params"][i], complete_state(group, i, inputs.states)
        lag = sparse_rows.lag_of(group, i, state, inputs.lags)
        inputs.sparse.add(id(state))
        settings = kernel_rule_of(group).rule, kernel_precision_of(group), lr_number(group["lr"])
        if not inputs.copy_level and p.grad.sparse_dim() and self._add_in_place(settings, p, state, lag, index):
            return True
        rows = sparse_rows.gather(group, i, state, lag, index=index)
        copies = rows.copies
        averages = [copies.averages.get(name) for name in AVERAGES]
        lists = [[x] for x in (copies.p, copies.g, copies.step, *averages)]
        if self._batch.add_lists(*settings, *lists, [index]) is not None:
            return False
        for table in rows.tables.values():
            check_writable(f"a table of parameter {index}", table)
        self._rows.append((group, rows))
        return True

    def _add_in_place(
        self, settings: tuple[Any, Any, float], p: Tensor, state: dict[str, Tensor], lag: Lag | None, index: int
    ) -> bool:
        averages = [state.get(name) for name in AVERAGES]
        row_step = None if lag is None else lag.row_step.numpy()
        row_indices, values = entries(p.grad)  # type: ignore[arg-type]
        memory = row_indices.numpy(), values.contiguous()
        refusal = self._batch.add_rows(*settings, p, *memory, state["step"], *averages, row_step, index)
        return refusal is None

    def nonfinite(self, inputs: StepInputs) -> Tensor | None:
        """Return whether a gradient in groups with nonfinite="skip" is not finite; None without parameters."""
        if not len(self._batch):
            return None
        finite = self._batch.finite(torch.get_num_threads(), native.GRAIN, inputs.grad_scale)
        return torch.tensor(not finite, device="cpu")

    def copy_before(self, inputs: StepInputs) -> None:
        """Copy the touched rows of sparse gradients. The kernel measures dense parameters while it steps."""
        for group, rows in self._rows:
            param_step = rows.param_step(inputs.grad_scale)
            self._before.append(copied_statistics.copy_before(group, rule_of(group), param_step, rows))

    def run(self, inputs: StepInputs, skip: Tensor | None) -> Tensor | None:
        """Step the parameters taken. Return True as a Tensor if gradient elements counted as 0, else None."""
        good = self._batch.run(torch.get_num_threads(), native.GRAIN, inputs.grad_scale, inputs.sweep_level)
        for _, rows in self._rows:
            rows.put()
        self._rows.clear()
        return None if good else torch.tensor(True, device="cpu")

    def measured(self, inputs: StepInputs) -> list[Measured]:
        """Return the statistics of the last run."""
        parts = []
        if inputs.sweep_level:
            parts.append(Measured(*self._batch.measured()))
        before, self._before = self._before, []
        return [*parts, copied_statistics.measure(before, inputs.copy_level)] if before else parts

    def clear(self) -> None:
        """Forget the parameters taken."""
        if self._batch is not None:
            self._batch.clear()
        self._rows.clear()
        self._before.clear()


def execution_refusal(group: ParamGroup, modes: int) -> str | None:
    """Return why the kernel cannot step `group` with any rule, else None. `modes` dispatch modes are active."""
    off = group["fused"] is not None and not group["fused"]
    if off or group["foreach"] is not None or group["capturable"] or group["differentiable"]:
        defaults = {"fused": None, "foreach": None, "capturable": False, "differentiable": False}
        return ", ".join(f"{name}={group[name]}" for name, value in defaults.items() if group[name] is not value)
    if modes:
        return "a torch dispatch mode watches tensor operations"
    return UNAVAILABLE


def _runs(indices: list[int]) -> Iterator[tuple[int, int]]:
    """Yield start and stop of every run of consecutive indices."""
    start = 0
    for i in range(1, len(indices) + 1):
        if i == len(indices) or indices[i] != indices[i - 1] + 1:
            yield indices[start], indices[i - 1] + 1
            start = i


@from_group(*RULE_NAMES)
def kernel_rule_of(*values: Any) -> _KernelRule:
    """Check the rule of a group, except lr; return the kernel's form of it, or why the kernel cannot step it."""
    rule = rule_from(*values)
    refusal = missing_field(dict(zip(RULE_NAMES, values, strict=True)), CpuKernel.fields, "the native kernel")
    return _KernelRule(None if refusal else native.kernel_rule(rule), refusal)


@from_group(*STORAGE)
def kernel_precision_of(*values: Any) -> Any:
    """Check how parameters of a group are stored and rounded; return that as the kernel's Precision."""
    group = dict(zip(STORAGE, values, strict=True))
    check_storage(group)
    bits = {None: 0, "bfloat16": 16, "uint8": 8}[group["state_dtype"]]
    mode = getattr(native.kernel.Nonfinite, group["nonfinite"])  # type: ignore[union-attr]
    seed = int(group["stochastic_rounding"])
    return native.kernel.Precision(state=bits, stochastic=seed > 0, seed=seed or 1, nonfinite=mode)  # type: ignore[union-attr]


@lru_cache(maxsize=8)
def warn_once(reason: str) -> None:
    """Warn that steps on the CPU run without the kernel, once per process and reason."""
    warnings.warn(f"rmsprop: {reason}", stacklevel=2)
