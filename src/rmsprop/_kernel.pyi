"""The native kernel (src/rmsprop/kernel): the rule over memory, bit for bit that of `rmsprop.rule`.

Arguments are checked by its callers, `rmsprop.native` and `rmsprop.torch`. `threads` is an upper limit; every thread
gets at least `grain` elements, 0 standing for the number that was measured to pay.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Rule:
    """The hyperparameters of `rmsprop.Rule` without lr."""

    def __init__(
        self,
        *,
        decay: float,
        eps: float,
        momentum: float,
        weight_decay: float,
        centered: bool,
        nesterov: bool,
        eps_inside_sqrt: bool,
        initial_square_avg: float,
        lr_in_momentum: bool,
        bias_correction: bool,
        decoupled_weight_decay: bool,
        maximize: bool,
    ) -> None: ...

class Nonfinite:
    """What a gradient does that is not finite."""

    propagate: Nonfinite
    skip: Nonfinite
    zero: Nonfinite

class Precision:
    """How a group's parameters are stored: bits of the averages (16, 8, or 0 for the type that computes), and noise."""

    def __init__(self, *, state: int, stochastic: bool, seed: int, nonfinite: Nonfinite) -> None: ...

class Batch:
    """The parameters of one step of a torch optimizer: gathered by `add`, group by group, then stepped by `run`."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def clear(self) -> None:
        """Forget what was gathered."""

    def add(
        self, rule: Rule, precision: Precision, lr: float, params: list[Any], state: dict[Any, Any], first: int, /
    ) -> list[tuple[int, str]] | None:
        """Add the parameters with a gradient; return number and reason (a key of `fused.REASONS`) of those refused.

        `first` is the number of the first one in its group, for the noise.
        """

    def add_lists(
        self,
        rule: Rule,
        precision: Precision,
        lr: float,
        params: list[Any],
        grads: list[Any],
        steps: list[Any],
        square_avgs: list[Any],
        grad_avgs: list[Any],
        momentum_buffers: list[Any],
        numbers: list[int],
        /,
    ) -> list[tuple[int, str]] | None:
        """Do the same for parallel lists; those that the rule has no use for may be empty."""

    def add_rows(
        self,
        rule: Rule,
        precision: Precision,
        lr: float,
        param: Any,
        index: NDArray[np.int64],
        values: Any,
        step: Any,
        square_avg: Any,
        grad_avg: Any,
        momentum_buffer: Any,
        row_step: NDArray[np.int32] | None,
        number: int,
        /,
    ) -> str | None:
        """Add the rows of one parameter that a sparse gradient has entries for, to be stepped where they lie.

        `index` has a line for each sparse dimension and a column for each row of `values`. `row_step` holds the step at
        which each row stands, is kept up, and None if none lags. Return the reason if they cannot be added.
        """

    def finite(self, threads: int, grain: int, grad_scale: float) -> bool:
        """Return whether the gradients are finite, and their squares, of groups that say `Nonfinite.skip`."""

    def run(self, threads: int, grain: int, grad_scale: float, level: int, /) -> bool:
        """Count the steps, make them with gradients divided by `grad_scale`, and forget the parameters.

        Return False if gradients that are not finite counted as 0. With a `level` of 1, measure the parameters that
        `add` has added, with 2 also their histograms.
        """

    def measured(self) -> tuple[bytes, NDArray[np.float64], NDArray[np.int64]] | None:
        """Return what the last step that measured has found: parameters' numbers (of uint32), sums and histograms.

        The next step that measures writes over the arrays. It is the same object while the numbers are the same.
        """

def use_torch(tensor_class: type, parameter_class: type, increment_version: Callable[[list[Any]], None], /) -> None:
    """Say once what torch is; raises AttributeError if its tensors cannot be read."""

def has_team() -> bool:
    """Return whether threads are those of torch's OpenMP team; otherwise they are started for each step."""

def use_own_threads(own: bool, /) -> None:
    """For tests and measurements: start threads although there is a team; False takes the team again."""

def update(
    rule: Rule,
    lr: float,
    power: float,
    param: NDArray[np.floating[Any]],
    grad: NDArray[np.floating[Any]],
    square_avg: NDArray[np.floating[Any]],
    grad_avg: NDArray[np.floating[Any]] | None,
    momentum_buffer: NDArray[np.floating[Any]] | None,
    threads: int,
    grain: int,
) -> None:
    """Step C-contiguous arrays of one dtype (float32 or float64) in place; `power` is βᵗ."""

def move(
    param: NDArray[np.float32],
    grad: NDArray[np.float32],
    square_avg: NDArray[np.float32],
    threads: int,
    grain: int,
) -> None:
    """For measurements: read and write what a plain step does, 20 bytes an element, with hardly any arithmetic."""

def instruction_sets() -> list[str]:
    """Return the instruction sets that this processor has and the kernel was compiled for, best first."""

def instruction_set() -> str:
    """Return the one in use."""

def use_instruction_set(name: str, /) -> None:
    """Use another one; results are the same bits."""
