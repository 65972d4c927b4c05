"""Vectors from PyTorch: torch.optim.RMSprop, Adam, AdamW and NAdam.

NAdam keeps the product of its momenta in the default dtype, whatever the parameters are: hence double.
"""

from __future__ import annotations

from typing import Any

import torch
from shared import Array, Family, Step, main

STATE = {"square_avg": "square_avg", "grad_avg": "grad_avg", "momentum_buffer": "momentum_buffer"}
ADAM_STATE = {"exp_avg_sq": "square_avg", "exp_avg": "momentum_buffer", "max_exp_avg_sq": "max_square_avg"}
VERSION = torch.__version__.split("+")[0]


def stepper(optimizer: torch.optim.Optimizer, param: torch.Tensor, names: dict[str, str]) -> Step:
    """Return the step function of any PyTorch optimizer. `names` maps its state to our names."""

    def step(gradient: Array, lr: float) -> dict[str, Array]:
        param.grad = torch.from_numpy(gradient)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        state = optimizer.state[param]
        result = {"params": param.detach().numpy().copy()}
        return result | {ours: state[theirs].numpy().copy() for theirs, ours in names.items() if theirs in state}

    return step


def start_rmsprop(arguments: dict[str, Any], params: Array) -> Step:
    param = torch.from_numpy(params.copy())
    return stepper(torch.optim.RMSprop([param], foreach=False, **arguments), param, STATE)


def start_foreach(arguments: dict[str, Any], params: Array) -> Step:
    param = torch.from_numpy(params.copy())
    return stepper(torch.optim.RMSprop([param], foreach=True, **arguments), param, STATE)


def start_adam(arguments: dict[str, Any], params: Array) -> Step:
    param = torch.from_numpy(params.copy())
    names = {k: v for k, v in ADAM_STATE.items() if v != "momentum_buffer" or arguments.get("betas", [0.9])[0]}
    return stepper(torch.optim.Adam([param], **arguments), param, names)


def start_adamw(arguments: dict[str, Any], params: Array) -> Step:
    param = torch.from_numpy(params.copy())
    return stepper(torch.optim.AdamW([param], **arguments), param, ADAM_STATE)


def start_nadam(arguments: dict[str, Any], params: Array) -> Step:
    param = torch.from_numpy(params.copy())
    in_default_dtype = stepper(torch.optim.NAdam([param], **arguments), param, ADAM_STATE)

    def step(gradient: Array, lr: float) -> dict[str, Array]:
        """Step while the default dtype is double: the product of momenta has it."""
        torch.set_default_dtype(torch.float64)
        try:
            return in_default_dtype(gradient, lr)
        finally:
            torch.set_default_dtype(torch.float32)

    return step


SEEN: dict[str, Any] = {"lr": 0.03, "alpha": 0.9, "eps": 0.02}  # an eps large enough to matter
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": SEEN,
    "momentum": {**SEEN, "momentum": 0.8},
    "momentum-default-eps": {"lr": 0.01, "momentum": 0.9},
    "centered": {**SEEN, "centered": True},
    "centered-momentum": {**SEEN, "centered": True, "momentum": 0.8},
    "weight-decay": {**SEEN, "weight_decay": 0.3},
    "maximize": {**SEEN, "maximize": True, "weight_decay": 0.3},
    "all": {**SEEN, "centered": True, "momentum": 0.8, "weight_decay": 0.3, "maximize": True},
}
ADAM: dict[str, Any] = {"lr": 0.03, "betas": [0.0, 0.9], "eps": 0.02}
MOMENTUM: dict[str, Any] = {**ADAM, "betas": [0.8, 0.9]}
SCHEDULE: dict[str, Any] = {**MOMENTUM, "momentum_decay": 0.5}
FAMILIES = [
    Family("torch", "torch.optim.RMSprop", VERSION, "torch", start_rmsprop, CASES),
    Family("torch-foreach", "torch.optim.RMSprop", VERSION, "torch", start_foreach, CASES, vectors=False),
    Family(
        "adam", "torch.optim.Adam", VERSION, "adam-b1-0", start_adam,
        {
            "default": {"lr": 1e-3, "betas": [0.0, 0.999]},
            "plain": ADAM,
            "weight-decay": {**ADAM, "weight_decay": 0.3},
        },
    ),
    Family(
        "torch-adam", "torch.optim.Adam", VERSION, "adam", start_adam,
        {
            "default": {},
            "plain": MOMENTUM,
            "weight-decay": {**MOMENTUM, "weight_decay": 0.3},
            "maximize": {**MOMENTUM, "weight_decay": 0.3, "maximize": True},
        },
    ),
    Family(
        "torch-adamw", "torch.optim.AdamW", VERSION, "adamw", start_adamw,
        {
            "default": {},
            "plain": {**MOMENTUM, "weight_decay": 0.3},
            "amsgrad": {**MOMENTUM, "weight_decay": 0.3, "amsgrad": True},
        },
    ),
    Family(
        "torch-amsgrad", "torch.optim.Adam", VERSION, "amsgrad", start_adam,
        {"default": {"amsgrad": True}, "plain": {**MOMENTUM, "amsgrad": True}},
    ),
    Family(
        "torch-nadam", "torch.optim.NAdam", VERSION, "nadam", start_nadam,
        {
            "default": {},
            "plain": SCHEDULE,
            "weight-decay": {**SCHEDULE, "weight_decay": 0.3},
            "decoupled": {**SCHEDULE, "weight_decay": 0.3, "decoupled_weight_decay": True},
        },
    ),
]  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
