"""Is this installation sound? Versions, and real steps down every path, held against the rule in NumPy."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import numpy as np

from rmsprop import native
from rmsprop.environment import environment
from rmsprop.rule import Rule, State, init, update

# Every operation of the rule takes part; eps and the weights are large enough to matter.
RULE = Rule(
    lr=0.03, decay=0.8, eps=1e-3, momentum=0.7, weight_decay=0.1, centered=True, nesterov=True, lr_in_momentum=True
)
_STEPS = 5
_EXTRAS = {"torch": "torch", "sklearn": "lab", "mlxtend": "lab", "matplotlib": "lab", "jinja2": "lab", "scipy": "lab"}
# Units in the last place of the largest parameter after _STEPS steps; a rate that is 1 % off is 4e4 units away in
# float32, and 1.7 in bfloat16, whose parameters are rounded alike on both sides.
_TOLERANCE = {"float32": 64.0, "float64": 64.0, "bfloat16": 1.0}


def examine() -> dict[str, Any]:
    """Return the environment, one entry per path with its distance to the rule, and notes in words."""
    missing = {extra for name, extra in _EXTRAS.items() if find_spec(name) is None}
    notes = [f"rmsprop[{extra}] is not installed: pip install 'rmsprop[{extra}]'" for extra in sorted(missing)]
    if native.kernel is None:
        notes.append(native.missing() or "")
    else:
        notes.append(f"the native kernel uses {native.kernel.instruction_set()}")
    paths = _numpy_paths() + ([] if "torch" in missing else _torch_paths())
    return {"environment": environment(), "paths": paths, "notes": notes, "healthy": all(p["ok"] for p in paths)}


def _expected(dtype: type[np.floating[Any]], gradients: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    param = np.linspace(-1, 1, gradients[0].size, dtype=dtype)
    state: State = init(RULE, param)
    for gradient in gradients:
        param, state = update(RULE, param, gradient.astype(dtype), state)
    return param


def _gradients() -> list[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal(1000).astype(np.float32) for _ in range(_STEPS)]


def _numpy_paths() -> list[dict[str, Any]]:
    """Return what `update(..., out=...)` gives; with the kernel it must be the rule to the bit."""
    paths = []
    for dtype in (np.float32, np.float64):
        param = np.linspace(-1, 1, 1000, dtype=dtype)
        state = init(RULE, param)
        for gradient in _gradients():
            param, state = update(RULE, param, gradient.astype(dtype), state, out=(param, state))
        expected = _expected(dtype, _gradients())
        unit = float(np.finfo(dtype).eps) * float(np.max(np.abs(expected)))
        ulps = float(np.max(np.abs(param - expected))) / unit
        path = "NumPy" if native.kernel is None else "NumPy, native kernel"
        paths.append({"path": path, "dtype": np.dtype(dtype).name, "ulps": ulps, "ok": ulps == 0})
    return paths


def _torch_paths() -> list[dict[str, Any]]:
    import torch

    from rmsprop.torch import RMSprop
    from rmsprop.torch.fused import UNAVAILABLE

    gradients = _gradients()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    paths = []
    for device in devices:
        ways = {"one by one": {"foreach": False}, "foreach": {"foreach": True}, "capturable": {"capturable": True}}
        if device == "cpu" and not UNAVAILABLE:
            ways = {"native kernel": {"fused": True}, **ways}
        for name, options in ways.items():
            for dtype, compute in ((torch.float32, np.float32), (torch.float64, np.float64), (torch.bfloat16, None)):
                start = torch.from_numpy(np.linspace(-1, 1, 1000)).to(dtype).to(device)
                params = [start.clone(), start.clone()]  # two, so that foreach has a list
                optimizer = RMSprop.from_rule(params, RULE, **options)
                for gradient in gradients:
                    for p in params:
                        p.grad = torch.from_numpy(gradient).to(device=device, dtype=dtype)
                    optimizer.step()
                result = params[1].double().cpu().numpy()
                if compute is None:  # a parameter rounded after every step: one unit per step
                    expected, unit = _rounded(start, gradients), 2.0**-7
                else:
                    expected, unit = _expected(compute, gradients).astype(np.float64), float(np.finfo(compute).eps)
                ulps = float(np.max(np.abs(result - expected))) / (unit * float(np.max(np.abs(expected))))
                kind = str(dtype).removeprefix("torch.")
                paths.append(
                    {
                        "path": f"torch, {device}, {name}",
                        "dtype": kind,
                        "ulps": ulps if math.isfinite(ulps) else None,
                        "ok": bool(ulps == 0 if name == "native kernel" else ulps < _TOLERANCE[kind]),
                    }
                )
    return paths


def _rounded(start: Any, gradients: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return the rule's result in float32 with the parameter and gradients rounded to bfloat16 at every step."""
    import torch

    def to_bfloat16(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return torch.from_numpy(x).to(torch.bfloat16).float().numpy()

    param = start.float().cpu().numpy()
    state = init(RULE, param)
    for gradient in gradients:
        param, state = update(RULE, param, to_bfloat16(gradient), state)
        param = to_bfloat16(param)
    return np.asarray(param, dtype=np.float64)
