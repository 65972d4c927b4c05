"""Read names, samples of gradients and dead rows from PyTorch's tensors.

Functions that take tensors import PyTorch themselves.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, Received
from rmsprop.monitor import record
from rmsprop.monitor.record import DEAD, Change, GroupRecord, Stored, stride
from rmsprop.names import plain_names

if TYPE_CHECKING:
    from rmsprop.torch.observer import ParamKey

Tensor = Any  # torch.Tensor


def names_of(groups: list[dict[str, Any]], model: Any) -> dict[ParamKey, str]:
    """Return a name for each parameter: from its group, else from the model, else its indices, such as "0.3".

    A name that occurs twice gets the indices appended.
    """
    by_id: dict[int, str] = {}
    if model is not None:
        named = dict(model.named_parameters())
        by_id = {id(p): name for name, p in zip(plain_names(named), named.values(), strict=True)}
    names: dict[ParamKey, str] = {}
    for group_index, group in enumerate(groups):
        group_names: list[str | None] = [*plain_names(group.get("param_names") or ())] or [
            by_id.get(id(p)) for p in group["params"]
        ]
        names |= {(group_index, index): name or f"{group_index}.{index}" for index, name in enumerate(group_names)}
    uses = Counter(names.values())
    return {key: name if uses[name] == 1 else f"{name} ({key[0]}.{key[1]})" for key, name in names.items()}


def check_model(groups: list[dict[str, Any]], model: Any) -> None:
    """Raise InputError unless `model` has a parameter of the groups."""
    if not callable(getattr(model, "named_parameters", None)):
        raise InputError("model", "a torch.nn.Module", model, "omit it, or pass the module that is trained")
    of_model = {id(p) for _, p in model.named_parameters()}
    if not any(id(p) in of_model for group in groups for p in group["params"]):
        found = Received(f"a {type(model).__name__} with none of them")
        raise InputError("model", "a module with parameters of the optimizer", found, "pass the module that is trained")


def executed_steps(states: Any) -> int:
    """Return how many steps an optimizer has executed: the largest count of its parameters."""
    return max((int(state["step"]) for state in states.values() if "step" in state), default=0)


def describe_group(group: dict[str, Any], states: Any) -> GroupRecord:
    """Return a group's entry in a record: fields of its rule, dtypes, rounding and `nonfinite`.

    Different dtypes within the group are joined: "bfloat16, float32".
    """
    from rmsprop.torch.groups import lr_number, rule_of

    def names(dtypes: dict[Any, None]) -> str | None:
        return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes) or None

    averages = [state["square_avg"] for p in group["params"] if "square_avg" in (state := states.get(p, {}))]
    described: Any = {
        **vars(rule_of(group)),
        "lr": max(0.0, lr_number(group["lr"])),
        "state_dtype": names(dict.fromkeys(x.dtype for x in averages)),
        "param_dtype": names(dict.fromkeys(p.dtype for p in group["params"])),
        "stochastic_rounding": bool(group["stochastic_rounding"]),
        "nonfinite": group["nonfinite"],
    }
    return cast("GroupRecord", described)


def describe_state(p: Tensor, state: dict[str, Tensor]) -> Stored:
    """Return the dtypes of a stepped parameter and its v, and the number of its steps before this one."""
    dtype, state_dtype = (str(x).removeprefix("torch.") for x in (p.dtype, state["square_avg"].dtype))
    return {"dtype": dtype, "state_dtype": state_dtype, "age": int(state["step"]) - 1}


def local(x: Tensor) -> Tensor:
    """Return this rank's shard of a DTensor, and any other tensor as it is."""
    from rmsprop.torch.distributed import local_shard

    return local_shard(x)


def elements_of(x: Tensor) -> int:
    """Return how many elements of a tensor this rank holds; a complex element counts as two."""
    x = local(x)
    return int(x.numel()) * (2 if x.is_complex() else 1)


def measured_of(p: Tensor) -> tuple[int, bool]:
    """Return how many elements of a parameter were measured, and whether only touched rows were."""
    is_sparse = p.grad is not None and p.grad.is_sparse
    return elements_of(p.grad.coalesce().values() if is_sparse else p), is_sparse


@dataclasses.dataclass
class Samples:
    """Elements of every dense gradient that is not empty, at the same offsets in every step."""

    step: int
    starts: dict[ParamKey, int]  # offset of each tensor's elements in `values`
    values: npt.NDArray[np.float64]

    def changes(self, before: Samples) -> dict[ParamKey, Change]:
        """Compare tensors that are in both samples; return nothing unless `before` is from the step before."""
        if self.step != before.step + 1:
            return {}
        now, old = self, before
        if now.starts != old.starts or len(now.values) != len(old.values):
            new_pieces, old_pieces = now.pieces(), old.pieces()
            both = [key for key, x in new_pieces.items() if key in old_pieces and len(x) == len(old_pieces[key])]
            now = joined(now.step, {key: new_pieces[key] for key in both})
            old = joined(old.step, {key: old_pieces[key] for key in both})
        changes = record.changes(now.values, old.values, list(now.starts.values()))
        return dict(zip(now.starts, changes, strict=True))

    def pieces(self) -> dict[ParamKey, npt.NDArray[np.float64]]:
        """Return the elements of each tensor."""
        if not self.starts:
            return {}
        return dict(zip(self.starts, np.split(self.values, list(self.starts.values())[1:]), strict=True))


def joined(step: int, pieces: dict[ParamKey, npt.NDArray[np.float64]]) -> Samples:
    """Join the elements of several tensors."""
    return Samples(step, _starts(pieces), np.concatenate([*pieces.values(), np.empty(0)]))


def _starts(pieces: dict[ParamKey, Any]) -> dict[ParamKey, int]:
    return dict(zip(pieces, accumulate((x.shape[0] for x in pieces.values()), initial=0), strict=False))


def samples(step: int, groups: list[dict[str, Any]]) -> Samples:
    """Sample all gradients, with one transfer from each device."""
    import torch

    by_device: dict[torch.device, dict[ParamKey, Tensor]] = {}
    for index, group in enumerate(groups):
        for number, p in enumerate(group["params"]):
            if p.grad is None or p.grad.layout != torch.strided:
                continue
            g = local(p.grad)
            if not g.numel():  # this rank may hold nothing of a DTensor
                continue
            if g.is_complex():
                g = torch.view_as_real(g.resolve_conj())
            by_device.setdefault(g.device, {})[index, number] = g.reshape(-1)[:: stride(g.numel())]
    parts = [
        Samples(step, _starts(pieces), torch.cat(list(pieces.values())).detach().cpu().double().numpy())
        for pieces in by_device.values()
    ]
    if len(parts) == 1:
        return parts[0]
    return joined(step, {key: piece for part in parts for key, piece in part.pieces().items()})


def dead_rows(p: Tensor, state: dict[str, Tensor], zeros: float) -> int:
    """Count the dead rows of a dense parameter; `record.dead_rows` defines them.

    `zeros` is the number of zeros in the gradient. Below the length of a row, no row is dead and nothing is read.
    """
    import torch

    g = local(p.grad).detach()
    rows, elements = g.shape[0], g.numel()
    if not elements or zeros * rows < elements:
        return 0
    alive = g.reshape(rows, -1).any(1)
    if alive.all():
        return 0
    from rmsprop.torch.state import average

    with torch.no_grad():
        v = average({"square_avg": local(state["square_avg"])}, "square_avg", local(p)).reshape(rows, -1)
        return int((~alive & (v.amax(1) <= DEAD**2 * float(v.mean()))).sum())
