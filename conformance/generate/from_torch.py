"""Vectors from PyTorch: torch.optim.RMSprop, and torch.optim.Adam with beta1 = 0."""

from __future__ import annotations

from typing import Any

import torch
from shared import Array, Family, Step, main

STATE = {"square_avg": "square_avg", "grad_avg": "grad_avg", "momentum_buffer": "momentum_buffer"}
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
    return stepper(torch.optim.Adam([param], **arguments), param, {"exp_avg_sq": "square_avg"})


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
]  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
