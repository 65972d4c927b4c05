"""The Triton kernel: the engine that steps dense tensors on GPUs, with one launch for all tensors of one form.

In each step, the engine reads the address, dtype and layout of every parameter, gradient and average anew. The tables
on the device are replaced only if one of these has changed. The host reads nothing from the device.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from rmsprop.rule import AVERAGES, Rule, moment_weights
from rmsprop.torch.engines import arithmetic, copied_statistics, triton_tables
from rmsprop.torch.engines.copied_statistics import Before
from rmsprop.torch.engines.engine import NOT_ON_GPU, Measured, Remaining, StepInputs, missing_field
from rmsprop.torch.engines.param_step import ParamStep, scaled
from rmsprop.torch.engines.triton_tables import Scalars, Table, TensorRow, scalars_of
from rmsprop.torch.groups import FIELDS, check_storage, lr_number, rule_of
from rmsprop.torch.low_precision import order_of
from rmsprop.torch.nonfinite import either
from rmsprop.torch.private import check_graph_capture, dispatch_modes
from rmsprop.torch.state import COMPUTE, ParamGroup, check_gradient, complete_state, kappa_of, needed_averages, real

DEVICES = ("cuda",)  # device types; ROCm's is cuda, too
OPTIONS = {
    "enable_fp_fusion": False,
    "num_warps": 4,
}  # of every launch; a fused multiply-add rounds once, the rule twice
OLDEST = (3, 2)  # Triton of torch 2.6
REASONS = {
    "class": "it is of a subclass of Tensor, which may compute in its own way",
    "dtype": "its dtype is not float32, float64, bfloat16, float16, complex64 or complex128",
    "flag": "it is a conjugated or negated view",
    "inference": "it was created in inference_mode",
    "memory": "it has no memory of its own",
    "strides": "its memory has gaps or repeats",
    "gradient class": "its gradient is of a subclass of Tensor",
    "gradient layout": "its gradient is sparse",
    "gradient device": "its gradient is on another device",
    "gradient dtype": "its gradient has another dtype",
    "gradient flag": "its gradient is a conjugated or negated view",
    "gradient strides": "its gradient has other strides",
    "state": "its state has another device, dtype or other strides than the Triton kernel uses",
    "step": "its step counter is not one float64 number on the CPU or its device",
    "overlap": "its memory overlaps that of another tensor",
}
UNAVAILABLE = None if importlib.util.find_spec("triton") else "Triton is not installed; pip install triton"

_PLAIN = (Tensor, torch.nn.Parameter)
_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, *_REAL)


class _Form(NamedTuple):
    """The operations that a step has, as triton_step numbers them."""

    decay: int  # 0 none, 1 L2, 2 decoupled
    momentum: int  # 0 none, 1 heavy ball, 2 Nesterov, 3 first moment, 4 first moment with Nesterov
    centered: bool
    corrected: bool
    amsgrad: bool


class _Launch(NamedTuple):
    """What all tensors of one launch share."""

    device: torch.device
    param: torch.dtype  # of real numbers
    state: torch.dtype
    form: _Form
    nonfinite: str
    aligned: bool  # all addresses are multiples of 16


_Tables: TypeAlias = tuple[Tensor, Tensor, Tensor]  # tensors, blocks and scalars of a launch


class _Taken(NamedTuple):
    """A parameter taken for one step, and where its tensors lie in memory."""

    step: ParamStep
    row: TensorRow


class _Work(NamedTuple):
    """The parameters taken of one group, or those of them that one launch steps."""

    group_index: int
    group: ParamGroup
    rule: Rule
    taken: list[_Taken]


class TritonKernel:
    """The engine that calls the Triton kernel (see `engine.Engine`). An object is not thread-safe."""

    fields = frozenset(FIELDS.values())
    skips_on_device = True
    name = "Triton kernel"

    def __init__(self) -> None:
        self._work: list[_Work] = []
        self._before: list[Before] = []
        self._rows: list[TensorRow] = []  # of the last step
        self._overlapping: set[int] = set()  # positions in `_rows`
        self._tensor_tables: dict[_Launch, Table] = {}
        self._scalar_tables: dict[_Launch, Table] = {}
        self._prepared: list[tuple[_Launch, _Tables]] | None = None  # of this step
        self._captured: list[Table] = []  # read again by every replay of a graph

    def __len__(self) -> int:
        return sum(len(work.taken) for work in self._work)

    @classmethod
    def unavailable(cls) -> str | None:
        """Return why the engine steps nothing in this process; else None."""
        return UNAVAILABLE or (None if torch.cuda.is_available() else "there is no GPU that Triton supports")

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
        if type(p) not in _PLAIN and not torch.nn.parameter.is_lazy(p):
            return REASONS["class"]
        return None if p.dtype in _DTYPES else REASONS["dtype"]

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
            if reason := self.group_refusal(group) or _loading_error():
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
        work = _Work(group_index, group, rule_of(group), [])
        names = needed_averages(group)
        skips = any(each["nonfinite"] == "skip" for each in inputs.groups)
        for i in indices:
            p = group["params"][i]
            reason = self.param_refusal(p) or _tensor_refusal(group, i)
            if reason is None:
                state = inputs.states[p]
                if _state_refusal(p, state, names):
                    state = complete_state(group, i, inputs.states)
                reason = _state_refusal(p, state, names)
            if reason is None:
                if skips:
                    state["step"] = state["step"].to(p.device)  # where the flag is
                step = ParamStep(p, p.grad, state["step"], {name: state[name] for name in names}, offset + i)
                work.taken.append(_Taken(step, _row(step)))
            else:
                left.append(Remaining(group_index, [i], reason))
        if work.taken:
            self._work.append(work)
        return left

    def _leave_overlapping(self, inputs: StepInputs) -> list[Remaining]:
        """Return the parameters taken whose memory overlaps other memory: one launch steps all at the same time."""
        rows = [each.row for work in self._work for each in work.taken]
        if rows != self._rows:
            steps = [each.step for work in self._work for each in work.taken]
            widths = [(_width(step.p), _width(step.averages["square_avg"])) for step in steps]
            self._rows, self._overlapping = rows, triton_tables.overlapping(rows, widths)
        if not self._overlapping:
            return []
        left, works, position = [], self._work, 0
        self._work = []
        for work in works:
            kept = []
            for each in work.taken:
                if position in self._overlapping:
                    index = each.step.param_index - inputs.offsets[work.group_index]
                    left.append(Remaining(work.group_index, [index], REASONS["overlap"]))
                else:
                    kept.append(each)
                position += 1
            self._work.append(work._replace(taken=kept))
        return left

    def nonfinite(self, inputs: StepInputs) -> Tensor | None:
        """Return, on the device, whether a gradient in groups with nonfinite="skip" is not finite."""
        from rmsprop.torch.engines import triton_step  # imports triton

        flags: dict[torch.device, Tensor] = {}
        for key, (tensors, blocks, scalars) in self._prepare(inputs):
            if key.nonfinite == "skip" and len(blocks):
                found = flags.setdefault(key.device, torch.zeros((), dtype=torch.int32, device=key.device))
                with _device_of(key.device):
                    triton_step.find_nonfinite[(len(blocks),)](
                        blocks, tensors, scalars, found, triton_step.TYPES[key.param], key.aligned, triton_tables.BLOCK,
                        **OPTIONS,
                    )  # fmt: skip
        return either(found != 0 for found in flags.values())

    def copy_before(self, inputs: StepInputs) -> None:
        """Copy what statistics need and the step overwrites."""
        for work in self._work:
            for each in work.taken:
                p, g, step, averages, index = each.step
                averages = {name: real(x) for name, x in averages.items()}
                viewed = ParamStep(real(p), real(scaled(g, inputs.grad_scale)), step, averages, index)
                self._before.append(copied_statistics.copy_before(work.group, work.rule, viewed))

    def run(self, inputs: StepInputs, skip: Tensor | None) -> Tensor | None:
        """Step the parameters taken. Return, on the device, whether gradient elements counted as 0."""
        from rmsprop.torch.engines import triton_step

        flags: dict[torch.device, Tensor] = {}
        for key, (tensors, blocks, scalars) in self._prepare(inputs):  # allocates before the first change
            zeroed = None
            if key.nonfinite == "zero":
                zeroed = flags.setdefault(key.device, torch.zeros((), dtype=torch.int32, device=key.device))
            if not len(blocks):
                continue
            with _device_of(key.device):
                triton_step.step_tensors[(len(blocks),)](
                    blocks, tensors, scalars, None if skip is None else skip.to(key.device).view(torch.uint8), zeroed,
                    triton_step.TYPES[key.param], triton_step.TYPES[key.state], *key.form, key.aligned,
                    triton_tables.BLOCK, **OPTIONS,
                )  # fmt: skip
        steps = [each.step for work in self._work for each in work.taken]
        for device, counters in _by_device(each.step for each in steps).items():
            torch._foreach_add_(counters, 1 if skip is None else (~skip).to(device, torch.float64))
        torch.autograd.graph.increment_version([each.p for each in steps])
        self._work.clear()
        self._prepared = None
        return either(zeroed != 0 for zeroed in flags.values())

    def measured(self, inputs: StepInputs) -> list[Measured]:
        """Return the statistics of the last run, if `copy_before` was called before it."""
        before, self._before = self._before, []
        return [copied_statistics.measure(before, inputs.copy_level)] if before else []

    def clear(self) -> None:
        """Forget the parameters taken."""
        self._work.clear()
        self._before.clear()
        self._prepared = None

    def _prepare(self, inputs: StepInputs) -> list[tuple[_Launch, _Tables]]:
        """Return the launches of this step and their tables, on their devices."""
        if self._prepared is None:
            launches = _launches(self._work)
            self._prepared = [(key, self._tables(key, parts, inputs)) for key, parts in launches.items()]
        return self._prepared

    def _tables(self, key: _Launch, parts: list[_Work], inputs: StepInputs) -> _Tables:
        """Return the tensors, blocks and scalars of a launch on its device. Copies what has changed on the host."""
        rows: list[TensorRow] = []
        scalars: list[Scalars] = []
        columns: list[tuple[slice, dict[str, Tensor]]] = []
        for work in parts:
            first = len(scalars)
            rows += _add_scalars(scalars, work, inputs.grad_scale)
            if numbers := _numbers_on_device(work, key.device):
                columns.append((slice(first, len(scalars)), numbers))
        tensor_table = triton_tables.tensor_table(self._tensor_tables.get(key), rows, key.device)
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
        return tensors, blocks, on_device


def _execution_refusal(group: ParamGroup, modes: int) -> str | None:
    """Return why the kernel cannot step `group` with any rule, else None. `modes` dispatch modes are active."""
    allowed = {
        "fused": (None, True), "foreach": (None,), "differentiable": (False,), "state_dtype": (None,),
        "stochastic_rounding": (False,),
    }  # fmt: skip
    refused = ", ".join(f"{name}={group[name]!r}" for name, values in allowed.items() if group[name] not in values)
    if refused:
        return refused
    if modes:
        return "a torch dispatch mode watches tensor operations"
    return UNAVAILABLE


@cache
def _loading_error() -> str | None:
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


def _tensor_refusal(group: ParamGroup, index: int) -> str | None:
    """Return why the layout of a parameter or its gradient keeps the kernel from stepping it; else None."""
    p = group["params"][index]
    g = p.grad
    if type(g) not in _PLAIN:
        return REASONS["gradient class"]
    check_gradient(group, index)
    if g.layout != torch.strided:
        return REASONS["gradient layout"]
    if g.device != p.device:
        return REASONS["gradient device"]
    if g.dtype != p.dtype:
        return REASONS["gradient dtype"]
    if p.is_conj() or p.is_neg():
        return REASONS["flag"]
    if g.is_conj() or g.is_neg():
        return REASONS["gradient flag"]
    if p.is_inference():
        return REASONS["inference"]
    if not p.is_contiguous() and order_of(p) != p.stride():
        return REASONS["strides"]
    return None if _same_layout(p, g) else REASONS["gradient strides"]


def _state_refusal(p: Tensor, state: dict[str, Tensor], names: list[str]) -> str | None:
    """Return why the state of a parameter keeps the kernel from stepping it; else None."""
    step, dtype = state.get("step"), COMPUTE.get(p.dtype, p.dtype)
    if not isinstance(step, Tensor) or step.dtype != torch.float64 or step.numel() != 1:
        return REASONS["step"]
    if step.device.type != "cpu" and step.device != p.device:
        return REASONS["step"]
    for name in names:
        x = state.get(name)
        if not isinstance(x, Tensor) or x.dtype != dtype or x.device != p.device or not _same_layout(p, x):
            return REASONS["state"]
    return None


def _same_layout(p: Tensor, x: Tensor) -> bool:
    """Return whether each element of `x` has the offset of that of `p`. Strides of dimensions of size 1 are unused."""
    if x.shape != p.shape:
        return False
    if x.stride() == p.stride():
        return True
    return all(a == b for a, b, size in zip(x.stride(), p.stride(), p.shape, strict=True) if size > 1)


def _row(step: ParamStep) -> TensorRow:
    p, averages = step.p, step.averages
    v, m, b, w = (averages[name].data_ptr() if name in averages else 0 for name in AVERAGES)
    return TensorRow(p.data_ptr(), step.g.data_ptr(), v, m, b, w, p.numel() * (2 if p.is_complex() else 1))


def _width(x: Tensor) -> int:
    """Return the bytes of a real number of `x`."""
    return x.element_size() // (2 if x.is_complex() else 1)


def _launches(works: list[_Work]) -> dict[_Launch, list[_Work]]:
    """Divide the parameters taken into launches."""
    launches: dict[_Launch, list[_Work]] = {}
    for work in works:
        form = _form_of(work.rule)
        taken_by_key: dict[_Launch, list[_Taken]] = {}
        for each in work.taken:
            p, row = each.step.p, each.row
            bits = row.p | row.g | row.square_avg | row.grad_avg | row.momentum_buffer | row.max_square_avg
            stored = each.step.state_dtype
            key = _Launch(p.device, _real(p.dtype), _real(stored), form, work.group["nonfinite"], bits % 16 == 0)
            taken_by_key.setdefault(key, []).append(each)
        for key, taken in taken_by_key.items():
            launches.setdefault(key, []).append(work._replace(taken=taken))
    return launches


def _real(dtype: torch.dtype) -> torch.dtype:
    return _REAL.get(dtype, dtype)


def _form_of(rule: Rule) -> _Form:
    decay = 0 if not rule.weight_decay else 2 if rule.decoupled_weight_decay else 1
    momentum = 0 if not rule.momentum else 1 + rule.nesterov + 2 * rule.first_moment
    return _Form(decay, momentum, rule.centered, rule.bias_correction, rule.amsgrad)


def _add_scalars(scalars: list[Scalars], work: _Work, grad_scale: float) -> list[TensorRow]:
    """Append the scalars of a group; return the rows of its parameters, each with the index of its scalars."""
    rule, lr = work.rule, 0.0 if _reads_lr_on_device(work.group) else lr_number(work.group["lr"])
    counts_on_device = _reads_counters_on_device(work)
    indices: dict[float, int] = {}
    rows = []
    for position, (step, row) in enumerate(work.taken):
        count = 1.0
        if counts_on_device:
            count = float(position)
        elif rule.bias_correction:
            count = step.step.item() + 1
        if count not in indices:
            indices[count] = len(scalars)
            t = 1.0 if counts_on_device else count
            a, c = moment_weights(rule, t) if rule.first_moment else (1.0, 0.0)
            power = rule.decay**t if rule.bias_correction else 0.0
            kappa = kappa_of(_real(step.state_dtype))
            scalars.append(scalars_of(rule, lr, power, a, c, grad_scale=grad_scale, kappa=kappa))
        rows.append(row._replace(scalar_row=indices[count]))
    return rows


def _numbers_on_device(work: _Work, device: torch.device) -> dict[str, Tensor]:
    """Return those scalars of a group that only the device knows: by name, one number or one for each parameter."""
    rule, numbers = work.rule, dict[str, Any]()
    if _reads_lr_on_device(work.group):
        lr = work.group["lr"].detach().to(device).double().reshape(())
        numbers["lr_inside" if rule.lr_in_momentum else "lr_outside"] = lr
        if rule.decoupled_weight_decay:
            numbers["lam"] = lr * rule.weight_decay
    if _reads_counters_on_device(work):
        t = torch.stack([each.step.step.to(device).reshape(()) for each in work.taken]) + 1
        (of_step,) = arithmetic.step_numbers(rule, [t], capturable=True)
        numbers["decayed_v0"] = of_step.power * rule.initial_square_avg
        numbers["one_minus_power"] = 1 - of_step.power
        numbers |= {"a": of_step.a, "c": of_step.c}
    return {name: x for name, x in numbers.items() if isinstance(x, Tensor)}


def _reads_lr_on_device(group: ParamGroup) -> bool:
    lr = group["lr"]
    return isinstance(lr, Tensor) and (group["capturable"] or lr.device.type != "cpu")


def _reads_counters_on_device(work: _Work) -> bool:
    if not work.rule.bias_correction:
        return False
    return work.group["capturable"] or any(each.step.step.device.type != "cpu" for each in work.taken)


def _by_device(tensors: Iterable[Tensor]) -> dict[torch.device, list[Tensor]]:
    lists: dict[torch.device, list[Tensor]] = {}
    for x in tensors:
        lists.setdefault(x.device, []).append(x)
    return lists


def _device_of(device: torch.device) -> Any:
    """Return a context in which `device` is the current one: Triton launches there."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)
