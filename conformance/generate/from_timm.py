"""Vectors from timm: RMSpropTF.

`pip install --no-deps timm==1.0.31` is enough, since only the optimizer is imported: timm itself needs torchvision.
PYTHONPATH may name a folder with timm's sources and its dist-info instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from from_torch import STATE, stepper
from shared import Array, Family, Step, main


def optimizer_class() -> Any:
    """Return timm.optim.rmsprop_tf.RMSpropTF without running timm/__init__.py and timm/optim/__init__.py."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise SystemExit("from_timm.py needs timm's sources: pip install --no-deps timm==1.0.31")
    folder = Path(spec.origin).parent
    for name, path in (("timm", folder), ("timm.optim", folder / "optim")):
        package = ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules.setdefault(name, package)
    return importlib.import_module("timm.optim.rmsprop_tf").RMSpropTF


RMSpropTF = optimizer_class()


def start(arguments: dict[str, Any], params: Array) -> Step:
    param = torch.nn.Parameter(torch.from_numpy(params.copy()))
    return stepper(RMSpropTF([param], foreach=False, **arguments), param, STATE)


SEEN: dict[str, Any] = {"lr": 0.03, "alpha": 0.8, "eps": 0.02}
FAMILIES = [
    Family(
        "timm", "timm.optim.RMSpropTF", version("timm"), "timm", start,
        {
            "default": {},
            "plain": SEEN,
            "momentum": {**SEEN, "momentum": 0.8},
            "momentum-without-lr": {**SEEN, "momentum": 0.8, "lr_in_momentum": False},
            "centered": {**SEEN, "centered": True},
            "centered-momentum": {**SEEN, "centered": True, "momentum": 0.8},
            "weight-decay": {**SEEN, "weight_decay": 0.3},
            "decoupled-weight-decay": {**SEEN, "weight_decay": 0.3, "decoupled_decay": True},
        },
    ),
]  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
