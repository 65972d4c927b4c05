"""The Triton kernel: the engine that steps dense tensors on GPUs, with one launch for all tensors of one form.

In each step, the engine reads the address, dtype and layout of every parameter, gradient and average anew. The tables
on the device are replaced only if one of these has changed. The host reads nothing from the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rmsprop.torch import low_precision
from rmsprop.torch.distributed import is_sharded
from rmsprop.torch.engines import copied_statistics, triton_compiler, triton_tables
from rmsprop.torch.engines.copied_statistics import Before
from rmsprop.torch.engines.engine import NOT_ON_GPU, Measured, Remaining, StepInputs, missing_field
from rmsprop.torch.engines.param_step import ParamStep, scaled
from rmsprop.torch.engines.triton_launches import (
    REAL,
    Launch,
    Work,
    add_scalars,
    launches,
    noise_keys,
    numbers_on_device,
)
from rmsprop.torch.engines.triton_tables import Scalars, Table
from rmsprop.torch.engines.triton_taken import PLAIN, REASONS, Taken, take, take_again, tensor_refusal
from rmsprop.torch.groups import FIELDS, check_storage, rule_of
from rmsprop.torch.nonfinite import either
from rmsprop.torch.private import check_graph_capture, dispatch_modes
from rmsprop.torch.state import ParamGroup, complete_state, needed_averages, real, state_dtype

DEVICES = ("cuda",)  # device types; ROCm's is cuda, too
# Whether fused=None takes the kernel: not on GPUs before scripts/check-gpu has passed on one.
BY_DEFAULT = torch.version.cuda is None and torch.version.hip is None

_ONE = torch.ones((), dtype=torch.float64, device="cpu")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, *REAL)
_Tables: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor | None]  # tensors, blocks, scalars and keys of a launch


class TritonKernel:
    """The engine that calls the Triton kernel (see `engine.Engine`). An object is not thread-safe."""

    fields = frozenset(FIELDS.values())
    skips_on_device = True
    name = "Triton kernel"

    def __init__(self) -> None:
        self._work: list[Work] = []
        self._before: list[Before] = []
        self._known: dict[int, Taken] = {}  # of the last steps, by parameter index
        self._last: list[Taken] = []  # of the last step
        self._overlapping: set[int] = set()  # positions in `_last`
        self._tensor_tables: dict[Launch, Table] = {}
        self._scalar_tables: dict[Launch, Table] = {}
        self._prepared: list[tuple[Launch, _Tables]] | None = None  # of this step
        self._captured: list[Table] = []  # read again by every replay of a graph

    def __len__(self) -> int:
        return sum(len(work.taken) for work in self._work)

    @classmethod
    def unavailable(cls) -> str | None:
        """Return why the engine steps nothing in this process; else None."""
        return triton_compiler.UNAVAILABLE or (
            None if torch.cuda.is_available() else "there is no GPU that Triton supports"
        )

    @classmethod
    def group_refusal(cls, group: ParamGroup) -> str | None:
        """Return why the engine steps no parameter of `group`: how it is executed or a field of its rule; else None."""
        modes = 0 if torch.compiler.is_compiling() else dispatch_modes()
        return _execution_refusal(group, modes) or missing_field(group, cls.fields, "the Triton kernel")

    @classmethod
    def param_refusal(cls, p: Tensor) -> str | None:
        """Return why the class, device or dtype of `p` keeps the engine from stepping `p`; else None."""
        if p.device.type not in DEVICES:
            return NOT_ON_GPU
        is_compiling = torch.compiler.is_compiling()
        is_supported = type(p) in PLAIN or torch.nn.parameter.is_lazy(p)
        if not is_supported and (is_compiling or not is_sharded(p)):  # an operator takes no DTensor
            return REASONS["class"]
        refusal = None if is_compiling else triton_compiler.device_refusal(p.device)  # the operator asks again
        return refusal or (None if p.dtype in _DTYPES else REASONS["dtype"])

    @torch.no_grad()
    def gather(self, inputs: StepInputs, remaining: Sequence[Remaining]) -> list[Remaining]:
        """Take the parameters on GPUs that the kernel can step; return the others."""
        left: list[Remaining] = []
        for part in remaining:
            group = inputs.groups[part.group_index]
            params = group["params"]
            indices = part.indices
            if indices is None:
                indices = [i for i, p in enumerate(params) if p.grad is not None]
            here = [i for i in indices if params[i].device.type in DEVICES]
            if not here:
                left.append(part)
                continue
            left += [part._replace(indices=[i]) for i in indices if params[i].device.type not in DEVICES]
            if reason := self.group_refusal(group) or triton_compiler.loading_error():
                left.append(Remaining(part.group_index, here if len(here) < len(indices) else part.indices, reason))
                continue
            left += self._take(inputs, part.group_index, here)
        if self._work:
            check_graph_capture(inputs.optimizer)
            left += self._leave_overlapping(inputs)
        return left

    def _take(self, inputs: StepInputs, group_index: int, indices: list[int]) -> list[Remaining]:
        """Take parameters of a group; return those that the kernel cannot step."""
        group, offset, left = inputs.groups[group_index], inputs.offsets[group_index], []
        check_storage(group)
        work = Work(group_index, group, rule_of(group), [])
        names, wanted = needed_averages(group), low_precision.DTYPES.get(group["state_dtype"])
        # The counter, where the flag is.
        on_device = inputs.found_inf is not None or any(each["nonfinite"] == "skip" for each in inputs.groups)
        for i in indices:
            p, index = group["params"][i], offset + i
            known, state = self._known.get(index), inputs.states[p]
            taken = None if known is None else take_again(known, p, state, names, wanted)
            if taken is None or (on_device and taken.counter.device != p.device):
                new = self._take_new(inputs, group, i, index, on_device=on_device)
                if isinstance(new, str):
                    left.append(Remaining(group_index, [i], new))
                    continue
                taken = new
            self._known[index] = taken
            work.taken.append(taken)
        if work.taken:
            self._work.append(work)
        return left

    def _take_new(self, inputs: StepInputs, group: ParamGroup, i: int, index: int, *, on_device: bool) -> Taken | str:
        """Take a parameter and complete its state; return the reason if the kernel cannot step it."""
        p, names = group["params"][i], needed_averages(group)
        if reason := self.param_refusal(p) or tensor_refusal(group, i):
            return reason
        state = inputs.states[p]
        wanted = state_dtype(group, p)
        new = take(group, i, index, state, names, wanted)
        if isinstance(new, str):
            state = complete_state(group, i, inputs.states)
        if on_device and state["step"].device != p.device:
            count = state["step"].item()
            state["step"] = torch.full((), count, dtype=torch.float64, device=p.device)  # a copy would synchronize
        return take(group, i, index, state, names, wanted)

    def _leave_overlapping(self, inputs: StepInputs) -> list[Remaining]:
        """Return the parameters taken whose memory overlaps other memory: one launch steps all at the same time."""
        taken = [each for work in self._work for each in work.taken]
        if taken != self._last:
            rows, lengths = [each.row for each in taken], [each.lengths for each in taken]
            self._last, self._overlapping = taken, triton_tables.overlapping(rows, lengths)
        if not self._overlapping:
            return []
        left, works, position = [], self._work, 0
        self._work = []
        for work in works:
            kept = []
            for each in work.taken:
                if position in self._overlapping:
                    index = each.index - inputs.offsets[work.group_index]
                    left.append(Remaining(work.group_index, [index], REASONS["overlap"]))
                else:
                    kept.append(each)
                position += 1
            if kept:
                self._work.append(work._replace(taken=kept))
        return left

    def nonfinite(self, inputs: StepInputs) -> Tensor | None:
        """Return, on the device, whether a gradient in groups with nonfinite="skip" is not finite."""
        from rmsprop.torch.engines import triton_step  # imports triton

        flags: dict[torch.device, Tensor] = {}
        for key, (tensors, blocks, scalars, _) in self._prepare(inputs):
            if key.nonfinite == "skip" and len(blocks):
                found = _flag(flags, key.device)
                types = triton_step.TYPES[key.param], key.aligned, triton_tables.BLOCK
                with triton_compiler.device_of(key.device):
                    triton_step.find_nonfinite[(len(blocks),)](
                        blocks, tensors, scalars, found, *types, **triton_compiler.OPTIONS
                    )
        return either(flags.values())

    def copy_before(self, inputs: StepInputs) -> None:
        """Copy what statistics need and the step overwrites."""
        for work in self._work:
            for each in work.taken:
                g: Any = each.p.grad
                averages = {name: real(x) for name, x in each.averages.items()}
                viewed = ParamStep(real(each.p), real(scaled(g, inputs.grad_scale)), each.counter, averages, each.index)
                self._before.append(copied_statistics.copy_before(work.group, work.rule, viewed))

    def run(self, inputs: StepInputs, skip: Tensor | None) -> Tensor | None:
        """Step the parameters taken. Return, on the device, whether gradient elements counted as 0.

        Everything that may fail comes first: tables and flags take memory, and a new form of the rule is compiled.
        """
        from rmsprop.torch.engines import triton_step

        function, flags, calls = triton_step.step_tensors, dict[torch.device, Tensor](), []
        for key, (tensors, blocks, scalars, keys) in self._prepare(inputs):
            zeroed = _flag(flags, key.device) if key.nonfinite == "zero" else None
            if not len(blocks):
                continue
            skipped = None if skip is None else skip.to(key.device).view(torch.uint8)
            types = triton_step.TYPES[key.param], triton_step.TYPES[key.state], key.stochastic, *key.form, key.aligned
            arguments = (blocks, tensors, scalars, keys, skipped, zeroed, *types, triton_tables.BLOCK)
            options, grid = triton_compiler.options_of(key.state), (len(blocks),)
            with triton_compiler.device_of(key.device):
                triton_compiler.prepare(function, key.device, grid, arguments, **options)
            calls.append((key.device, grid, arguments, options))
        taken = [each for work in self._work for each in work.taken]
        counters = _by_device([each.counter for each in taken])
        # On the CPU, adding a tensor takes half as long as adding a number.
        executed: dict[torch.device, Any] = {device: _ONE if device.type == "cpu" else 1 for device in counters}
        if skip is not None:
            executed = {device: (~skip).to(device, torch.float64) for device in counters}
        for device, grid, arguments, options in calls:
            with triton_compiler.device_of(device):
                function[grid](*arguments, **options)
        for device, together in counters.items():
            torch._foreach_add_(together, executed[device])
        torch.autograd.graph.increment_version([each.p for each in taken])
        self._work.clear()
        self._prepared = None
        return either(flags.values())

    def measured(self, inputs: StepInputs) -> list[Measured]:
        """Return the statistics of the last run, if `copy_before` was called before it."""
        before, self._before = self._before, []
        return [copied_statistics.measure(before, inputs.copy_level)] if before else []

    def clear(self) -> None:
        """Forget the parameters taken."""
        self._work.clear()
        self._before.clear()
        self._prepared = None

    def _prepare(self, inputs: StepInputs) -> list[tuple[Launch, _Tables]]:
        """Return the launches of this step and their tables, on their devices."""
        if self._prepared is None:
            parts = launches(self._work)
            self._prepared = [(key, self._tables(key, works, inputs)) for key, works in parts.items()]
        return self._prepared

    def _tables(self, key: Launch, works: list[Work], inputs: StepInputs) -> _Tables:
        """Return the tensors, blocks and scalars of a launch on its device. Copies what has changed on the host."""
        rows = [each.row for work in works for each in work.taken]
        indices: list[int] = []  # of the scalars of each row
        scalars: list[Scalars] = []
        columns: list[tuple[slice, dict[str, Tensor]]] = []
        for work in works:
            first = len(scalars)
            indices += add_scalars(scalars, work, inputs.loss_scale)
            if numbers := numbers_on_device(work, key.device, inputs.loss_scale):
                columns.append((slice(first, len(scalars)), numbers))
        tensor_table = triton_tables.tensor_table(self._tensor_tables.get(key), rows, indices, key.device)
        scalar_table = triton_tables.scalar_table(self._scalar_tables.get(key), scalars, key.state, key.device)
        self._tensor_tables[key], self._scalar_tables[key] = tensor_table, scalar_table
        if key.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            self._captured += [tensor_table, scalar_table]
        (on_device,) = scalar_table.tensors
        if columns:
            on_device = on_device.clone()
            for part, numbers in columns:
                for name, x in numbers.items():
                    on_device[part, Scalars._fields.index(name)] = x
        tensors, blocks = tensor_table.tensors
        is_rounded = key.stochastic or key.state in low_precision.KAPPA
        keys = torch.cat([noise_keys(work, key.device) for work in works]) if is_rounded else None
        return tensors, blocks, on_device, keys


def _execution_refusal(group: ParamGroup, modes: int) -> str | None:
    """Return why the kernel cannot step `group` with any rule, else None. `modes` dispatch modes are active."""
    allowed = {"fused": (None, True), "foreach": (None,), "differentiable": (False,)}
    refused = ", ".join(f"{name}={group[name]!r}" for name, values in allowed.items() if group[name] not in values)
    if refused:
        return refused
    if group["fused"] is None and not BY_DEFAULT:
        return "the Triton kernel has not run on a GPU yet; fused=True takes it"
    if modes:
        return "a torch dispatch mode watches tensor operations"
    return triton_compiler.UNAVAILABLE


def _flag(flags: dict[torch.device, Tensor], device: torch.device) -> Tensor:
    """Return the flag of a device, which is false at first, as a byte."""
    return flags.setdefault(device, torch.zeros((), dtype=torch.bool, device=device)).view(torch.uint8)


def _by_device(tensors: list[Tensor]) -> dict[torch.device, list[Tensor]]:
    lists: dict[torch.device, list[Tensor]] = {x.device: [] for x in tensors}
    if len(lists) == 1:
        return dict.fromkeys(lists, tensors)
    for x in tensors:
        lists[x.device].append(x)
    return lists
