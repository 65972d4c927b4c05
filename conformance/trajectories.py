"""Run every case of one framework for up to a thousand steps, and regenerate its vectors.

`python conformance/trajectories.py from_torch FOLDER` writes FOLDER/trajectories.npz and FOLDER/*.json. Each framework
needs its own process: floatx and 64-bit numbers in JAX are global settings.

The loss is a noisy quadratic: an error in the parameters changes the next gradients.

    gradient_i = scale_i · ((p_i − target_i)/2 + noise_i)        scale from 1e-3 to 1e2, one in ten set to 0

With `centered`, frameworks return NaN where v − m² is lost in rounding: at gradients that hardly change, or after a
single one. So the noise is as large as the rest, and with bias correction the first gradient is 0.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmsprop import Rule

Array = NDArray[Any]
GENERATE = Path(__file__).resolve().parent / "generate"
STEPS, CUT, SIZE = 1000, 100, 24
LENGTHS = {"float64": STEPS, "float32": 2 * CUT}  # float32 is compared step by step: errors do not add up

_generator = np.random.default_rng(1308)
_SCALE = np.logspace(-3, 2, SIZE)
_TARGET = _generator.standard_normal(SIZE)
_NOISE = _generator.standard_normal((STEPS, SIZE))
_PRESENT = _generator.random((STEPS, SIZE)) >= 0.1
START = _generator.standard_normal(SIZE)


def gradient(rule: Rule, params: Array, step: int) -> Array:
    """Return the gradient of the noisy quadratic at a step, counted from 1, in the parameters' dtype."""
    present = _PRESENT[step - 1] & (step > 1 or not (rule.centered and rule.bias_correction))
    scale, target, noise = (x.astype(params.dtype) for x in (_SCALE * present, _TARGET, _NOISE[step - 1]))
    result: Array = scale * ((params - target) * params.dtype.type(0.5) + noise)
    return result


def lr_at(rule: Rule, step: int) -> float:
    return rule.lr if step <= CUT else rule.lr / 10


def main(module: str, folder: Path) -> None:
    """Run all dense cases of a script in generate/ and write the results."""
    sys.path.insert(0, str(GENERATE))
    shared = importlib.import_module("shared")
    families = importlib.import_module(module).FAMILIES
    shared.write(families, folder)
    arrays: dict[str, Array] = {}
    # Keras runs the same code on every backend: all steps on TensorFlow, where errors add up; fewer on the others.
    is_repeated = module == "from_keras" and os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow"
    lengths = {**LENGTHS, "float64": 3 * CUT} if is_repeated else LENGTHS
    for family in families:
        for case, arguments in {} if family.rows else family.cases.items():
            rule = shared.rule_of(family, arguments)
            name = f"{family.prefix}-{case}"
            arrays[name] = np.array(json.dumps(dataclasses.asdict(rule)))
            for dtype, length in lengths.items():
                if family.framework == "formula" and dtype != "float64":
                    continue  # formulas compute in Python floats, which are float64
                params = START.astype(dtype)
                step, records = family.start(dict(arguments), params.copy()), []
                for t in range(1, length + 1):
                    result = step(gradient(rule, params, t), lr_at(rule, t))
                    records.append({key: np.array(value) for key, value in result.items()})
                    params = records[-1]["params"]
                for key in records[0]:
                    arrays[f"{name}/{dtype}/{key}"] = np.array([r[key] for r in records])
    np.savez(folder / "trajectories.npz", **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
