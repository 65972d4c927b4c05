"""Averages of PyTorch state dicts as NumPy arrays, including bfloat16 and 8-bit averages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmsprop.checkpoint.formats.packages import bfloat16, import_package
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.errors import InputError, Received
from rmsprop.profiles import SHAPE_KEY
from rmsprop.rule import AVERAGES, SQUARES, Array

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 256  # elements that share a scale in bitsandbytes' 8-bit state


def is_packed(value: Any) -> bool:
    """Return whether an average is packed in 8 bits."""
    return value is not None and str(value.dtype).removeprefix("torch.") == "uint8"


def averages_in_float32(path: Path, name: str, state: dict[str, Any], budget: ReadBudget) -> dict[str, Any]:
    """Convert the bfloat16 and 8-bit averages in a parameter's state to float32, in place."""
    torch = import_package("torch", "torch", "a file of rmsprop.torch")
    from rmsprop.torch.low_precision import packed_size, unpack

    for field in AVERAGES:
        if field not in state:
            continue
        value = state[field] if isinstance(state[field], torch.Tensor) else to_tensor(state[field])
        if value.dtype == torch.uint8:
            if SHAPE_KEY not in state:
                received = Received(f"{field} of {name} in eight bits alone")
                raise InputError(str(path), "averages with the shape of their parameter", received, "save state_dict()")
            shape = torch.empty([int(size) for size in state[SHAPE_KEY]], device="meta")
            if value.shape != (packed_size(shape.numel()),):
                received = Received(f"{field} of {name} of {value.numel()} bytes for shape {tuple(shape.shape)}")
                raise InputError(
                    str(path), f"{packed_size(shape.numel())} bytes there", received, "save or copy it again"
                )
            budget.spend(4 * shape.numel(), f"{field} of {name}")
            value = unpack(value, shape, signed=field not in SQUARES)
        state[field] = value.float() if value.dtype == torch.bfloat16 else value
    return state


def bitsandbytes_square_avg(state: Mapping[str, Any]) -> Array:
    """Return v of bitsandbytes. In 8 bits, state1 has indices into the table qmap1; absmax1 scales each block."""
    state = state.get("__bnb_optimizer_quant_state__", state)
    values = to_array(state["state1"])
    if values.dtype != np.uint8:
        return values
    table, scales = to_array(state["qmap1"]), to_array(state["absmax1"])
    blocks = np.arange(values.size) // _BLOCK
    v = table[values.reshape(-1)] * scales[blocks]
    return v.reshape(values.shape)


def to_array(tensor: Any) -> Array:
    """Return a torch tensor as an array, including bfloat16."""
    if isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if str(tensor.dtype) == "torch.bfloat16":
        import torch

        return np.asarray(tensor.view(torch.int16).numpy()).view(bfloat16())
    array: Array = tensor.numpy()
    return array


def to_tensor(array: Array) -> Tensor:
    """Return a copy of an array as a torch tensor, including bfloat16."""
    import torch

    array = array.copy(order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
