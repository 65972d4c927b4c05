"""The native kernel (src/rmsprop/kernel): steps memory in place, bit for bit as `rmsprop.rule` does.

Its callers, `rmsprop.native` and `rmsprop.torch`, check the arguments. `threads` is an upper limit: every thread gets
at least `grain` elements. A grain of 0 is the measured default: with fewer elements a thread costs more than it saves.
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
        first_moment: bool,
        momentum_decay: float,
        amsgrad: bool,
    ) -> None: ...

class Nonfinite:
    """What non-finite gradients do: enter the averages, skip the step, or count as 0."""

    propagate: Nonfinite
    skip: Nonfinite
    zero: Nonfinite

class Precision:
    """How a group is stored and rounded; `state` is the bits of the averages: 16, 8, or 0 for the compute dtype."""

    def __init__(self, *, state: int, stochastic: bool, seed: int, nonfinite: Nonfinite) -> None: ...

class Batch:
    """The parameters of one optimizer step: `add` gathers them group by group, `run` steps them."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def clear(self) -> None:
        """Remove all parameters."""

    def add(
        self, rule: Rule, precision: Precision, lr: float, params: list[Any], state: dict[Any, Any], offset: int, /
    ) -> list[tuple[int, str]] | None:
        """Add the parameters that have a gradient; return position in `params` and reason of each refused one, or None.

        A reason is a key of `cpu_kernel.REASONS`. `offset` is the index of params[0] among all parameters of the
        optimizer; the noise of stochastic rounding depends on it.
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
        max_square_avgs: list[Any],
        indices: list[int],
        /,
    ) -> list[tuple[int, str]] | None:
        """Add parameters from parallel lists. Lists that the rule does not use may be empty."""

    def add_rows(
        self,
        rule: Rule,
        precision: Precision,
        lr: float,
        param: Any,
        positions: NDArray[np.int64],
        values: Any,
        step: Any,
        square_avg: Any,
        grad_avg: Any,
        momentum_buffer: Any,
        max_square_avg: Any,
        row_step: NDArray[np.int64] | None,
        index: int,
        /,
    ) -> str | None:
        """Add a parameter with a sparse gradient; `run` steps the touched rows in place.

        `positions` has the shape (sparse dimensions, entries), `values` a row for each entry. `row_step` holds the last
        step of each row of the table and is updated; None if no row lags. Return the reason if the rows are refused.
        """

    def finite(self, threads: int, grain: int, grad_scale: float) -> bool:
        """Return whether gradients and their squares are finite in all groups with `Nonfinite.skip`."""

    def run(self, threads: int, grain: int, grad_scale: float, level: int, /) -> bool:
        """Increment the step counters, step with gradients divided by `grad_scale`, and clear the batch.

        Return False if a non-finite gradient was zeroed. Level 1 measures the parameters that `add` added; level 2 also
        computes their histograms.
        """

    def measured(self) -> tuple[bytes, NDArray[np.float64], NDArray[np.int64]] | None:
        """Return statistics of the last measured step: parameter indices (uint32 as bytes), sums and histograms.

        The next measured step overwrites the arrays. The object stays the same while the indices stay the same.
        """

def use_torch(tensor_class: type, parameter_class: type, increment_version: Callable[[list[Any]], None], /) -> None:
    """Register torch's classes, once; raise AttributeError or ValueError if torch has no DLPack exchange functions."""

def use_methods(dtypes: tuple[Any, ...], /) -> None:
    """Read tensors by their methods from now on; `dtypes` is `torch.private.KERNEL_DTYPES`."""

def use_exchange() -> None:
    """Read tensors through DLPack's exchange functions again, if torch has some."""

def uses_methods() -> bool:
    """Return whether tensors are read by their methods."""

def has_team() -> bool:
    """Return whether steps run on torch's OpenMP team; without a team, each step starts threads."""

def use_own_threads(own: bool, /) -> None:
    """Start threads although there is a team, for tests and benchmarks; False uses the team again."""

def update(
    rule: Rule,
    lr: float,
    power: float,
    a: float,
    c: float,
    param: NDArray[np.floating[Any]],
    grad: NDArray[np.floating[Any]],
    square_avg: NDArray[np.floating[Any]],
    grad_avg: NDArray[np.floating[Any]] | None,
    momentum_buffer: NDArray[np.floating[Any]] | None,
    max_square_avg: NDArray[np.floating[Any]] | None,
    threads: int,
    grain: int,
) -> None:
    """Step C-contiguous arrays of one dtype (float32 or float64) in place; `power` is βᵗ; `a` and `c` are in E7."""

def move(
    param: NDArray[np.float32],
    grad: NDArray[np.float32],
    square_avg: NDArray[np.float32],
    threads: int,
    grain: int,
) -> None:
    """Move the bytes of a plain step, 20 per element, with two additions per element, for benchmarks."""

def instruction_sets() -> list[str]:
    """Return the instruction sets that the processor has and the kernel was compiled for, best first."""

def instruction_set() -> str:
    """Return the instruction set in use."""

def use_instruction_set(name: str, /) -> None:
    """Use another instruction set; results keep their bits. Raise ValueError if the processor lacks it."""
