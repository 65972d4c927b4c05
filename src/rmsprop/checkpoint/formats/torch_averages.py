"""Averages in PyTorch state dicts as arrays: bfloat16, eight bits of rmsprop.torch and of bitsandbytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmsprop.checkpoint.formats.packages import bfloat16, import_package
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.state import AVERAGES
from rmsprop.errors import InputError, Received
from rmsprop.profiles import SHAPE_KEY
from rmsprop.rule import Array

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 256  # elements that share a scale in bitsandbytes' 8-bit state


def is_packed(value: Any) -> bool:
    """Return whether an average is packed in eight bits."""
    return value is not None and str(value.dtype).removeprefix("torch.") == "uint8"


def averages_in_float32(path: Path, name: str, own: dict[str, Any], budget: ReadBudget) -> dict[str, Any]:
    """Return the state of a parameter with averages in bfloat16 or eight bits as float32."""
    torch = import_package("torch", "torch", "a file of rmsprop.torch")
    from rmsprop.torch.low_precision import packed_size, unpack

    for field in AVERAGES:
        if field not in own:
            continue
        value = own[field] if isinstance(own[field], torch.Tensor) else to_tensor(own[field])
        if value.dtype == torch.uint8:
            if SHAPE_KEY not in own:
                found = Received(f"{field} of {name} in eight bits alone")
                raise InputError(str(path), "averages with the shape of their parameter", found, "save state_dict()")
            shape = torch.empty([int(size) for size in own[SHAPE_KEY]], device="meta")
            if value.shape != (packed_size(shape.numel()),):
                found = Received(f"{field} of {name} of {value.numel()} bytes for shape {tuple(shape.shape)}")
                raise InputError(str(path), f"{packed_size(shape.numel())} bytes there", found, "save or copy it again")
            budget.spend(4 * shape.numel(), f"{field} of {name}")
            value = unpack(value, shape, signed=field != "square_avg")
        own[field] = value.float() if value.dtype == torch.bfloat16 else value
    return own


def bitsandbytes_square_avg(own: Mapping[str, Any]) -> Array:
    """Return v, from 8 bits by the table qmap1 and the scale of each block absmax1."""
    own = own.get("__bnb_optimizer_quant_state__", own)
    state = to_array(own["state1"])
    if state.dtype != np.uint8:
        return state
    table, scales = to_array(own["qmap1"]), to_array(own["absmax1"])
    blocks = np.arange(state.size) // _BLOCK
    v = table[state.reshape(-1)] * scales[blocks]
    return v.reshape(state.shape)


def to_array(tensor: Any) -> Array:
    """Return a torch tensor as an array; bfloat16, which NumPy alone lacks, too."""
    if isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if str(tensor.dtype) == "torch.bfloat16":
        import torch

        return np.asarray(tensor.view(torch.int16).numpy()).view(bfloat16())
    array: Array = tensor.numpy()
    return array


def to_tensor(array: Array) -> Tensor:
    """Return an array as a torch tensor of its own; bfloat16, too."""
    import torch

    array = array.copy(order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
