"""Vectors from Stable-Baselines3: RMSpropTFLike."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from from_torch import STATE, stepper
from shared import Array, Family, Step, main
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike


def start(arguments: dict[str, Any], params: Array) -> Step:
    param = torch.nn.Parameter(torch.from_numpy(params.copy()))
    return stepper(RMSpropTFLike([param], **arguments), param, STATE)


SEEN: dict[str, Any] = {"lr": 0.03, "alpha": 0.9, "eps": 0.02}
FAMILIES = [
    Family(
        "sb3", "stable_baselines3.common.sb2_compat.rmsprop_tf_like.RMSpropTFLike", version("stable_baselines3"),
        "sb3", start,
        {
            "default": {},
            "plain": SEEN,
            "momentum": {**SEEN, "momentum": 0.8},
            "centered": {**SEEN, "centered": True},
            "centered-momentum": {**SEEN, "centered": True, "momentum": 0.8},
            "weight-decay": {**SEEN, "weight_decay": 0.3},
        },
    ),
]  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
