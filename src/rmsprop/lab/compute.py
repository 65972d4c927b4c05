"""Where a training is computed, and how precisely: device, autocast and compilation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rmsprop.errors import InputError, Received

CPU = torch.device("cpu")
AMP = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Device of a training, dtype of its autocast, and whether its model is compiled.

    Attributes
    ----------
    device
        Where model, data and state are.
    amp
        Dtype of `torch.autocast`; None computes in the parameters' dtype. float16 comes with a GradScaler.
    compiled
        Run the model through `torch.compile`.
    """

    device: torch.device = CPU
    amp: torch.dtype | None = None
    compiled: bool = False

    @classmethod
    def chosen(cls, device: str, amp: str | None, *, compiled: bool) -> Compute:
        """Return the choice of these options.

        Raises
        ------
        InputError
            If this machine has no such device, or the device cannot compute in the dtype.
        """
        chosen = _device(device)
        if amp is not None and amp not in AMP:
            raise InputError("--amp", f"one of {', '.join(AMP)}", amp, "bfloat16 needs no loss scaling")
        dtype = None if amp is None else AMP[amp]
        if dtype is torch.bfloat16 and chosen.type == "cuda" and not torch.cuda.is_bf16_supported():
            found = Received(f"bfloat16 on {torch.cuda.get_device_name(chosen)}, which cannot compute in it")
            raise InputError("--amp", "a dtype of the device", found, "use --amp float16")
        return cls(chosen, dtype, compiled)

    def callable_of(self, model: nn.Module) -> Any:
        """Return what to call for the model's output: the model, compiled or as it is."""
        return torch.compile(model) if self.compiled else model

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass."""
        return nullcontext() if self.amp is None else torch.autocast(self.device.type, self.amp)

    def scaler(self) -> torch.amp.GradScaler | None:
        """Return a new GradScaler for float16; None otherwise."""
        return torch.amp.GradScaler(self.device.type) if self.amp is torch.float16 else None


def _device(name: str) -> torch.device:
    here = ["cpu"]
    if torch.cuda.is_available():
        here.append("cuda")
    if torch.backends.mps.is_available():
        here.append("mps")
    if name == "auto":
        return torch.device(here[-1])
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind not in here or (index and not (index.isdecimal() and int(index) < count)):
        allowed = f"auto or one of {', '.join(here)} on this machine"
        raise InputError("--device", allowed, name, "auto takes the fastest")
    return torch.device(name)
