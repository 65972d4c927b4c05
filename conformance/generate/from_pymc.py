"""Vectors from PyMC: pymc.rmsprop, which is Lasagne's, through a compiled PyTensor function."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pymc
import pytensor
from shared import Array, Family, Step, main


def start(arguments: dict[str, Any], params: Array) -> Step:
    """Run the graph in NumPy with `FAST_COMPILE`: no C compiler is needed, and nothing is fused.

    Numbers in the graph have the dtype `floatX`, so it is set to the parameters' dtype.
    """
    pytensor.config.floatX = params.dtype.name
    kind = params.dtype.type
    param, lr = pytensor.shared(params.copy()), pytensor.shared(kind(0.0))
    gradient = pytensor.tensor.vector(dtype=params.dtype.name)
    others = {name: value for name, value in arguments.items() if name != "learning_rate"}
    updates = pymc.rmsprop([gradient], [param], learning_rate=lr, **others)
    (average,) = (variable for variable in updates if variable is not param)
    function = pytensor.function([gradient], [], updates=updates, mode="FAST_COMPILE")

    def step(gradient: Array, rate: float) -> dict[str, Array]:
        lr.set_value(kind(rate))
        function(gradient)
        return {"params": param.get_value(), "square_avg": average.get_value()}

    return step


FAMILIES = [
    Family(
        "pymc", "pymc.rmsprop", version("pymc"), "lasagne", start,
        {
            "default": {},
            "small-rate": {"learning_rate": 0.003},
            "plain": {"learning_rate": 0.03, "rho": 0.8, "epsilon": 0.02},
        },
    ),
]  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
