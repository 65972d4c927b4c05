"""The order of a Keras optimizer's variables, which files number.

iteration
learning_rate, unless it is a schedule
averaged weights, with use_ema
accumulated gradients, with gradient_accumulation_steps
RMSprop: v of every variable; M of every variable, with momentum; m of every variable, if centered
rmsprop.keras.RMSprop: the same, then max v of every variable, with amsgrad
Adam, AdamW: b and v of the first variable, of the second, …; then max v of every variable, with amsgrad
Nadam: b and v of the first variable, of the second, …; then μ₁⋯μₜ
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rmsprop.errors import InputError, Received
from rmsprop.profiles import KINDS
from rmsprop.rule import Array

_RMSPROP = (("square_avg",), ("momentum_buffer",), ("grad_avg",), ("max_square_avg",))
_ADAM = (("momentum_buffer", "square_avg"), ("max_square_avg",))


class Layout(NamedTuple):
    """The positions of the state among the optimizer's variables."""

    has_lr: bool
    has_ema: bool
    accumulates: bool
    blocks: tuple[tuple[str, ...], ...]  # fields of ParameterState; those of one block alternate
    has_product: bool
    size: int  # number of the model's variables

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of ParameterState in the file."""
        return tuple(field for block in self.blocks for field in block)

    @property
    def each(self) -> int:
        """The number of the optimizer's variables for each of the model's."""
        return self.has_ema + self.accumulates + len(self.fields)

    @property
    def accumulators(self) -> range:
        """The indices of the accumulated gradients."""
        start = 1 + self.has_lr + self.has_ema * self.size
        return range(start, start + self.accumulates * self.size)

    def indices(self, field: str) -> range:
        """Return the indices of a field's variables."""
        start = self.accumulators.stop
        for block in self.blocks:
            stop = start + len(block) * self.size
            if field in block:
                return range(start + block.index(field), stop, len(block))
            start = stop
        raise KeyError(field)

    def fits(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Return whether the optimizer's variables may have these shapes."""
        if len(shapes) != 1 + self.has_lr + self.each * self.size + self.has_product:
            return False
        start = 1 + self.has_lr
        parts = [range(start, start + self.has_ema * self.size), self.accumulators, *map(self.indices, self.fields)]
        found = {tuple(shapes[i] for i in part) for part in parts if part}
        return len(found) <= 1 and (not self.has_product or shapes[-1] == ())


def layout(
    path: Path, kind: str, variables: Sequence[Array], config: Mapping[str, Any], rule: Mapping[str, Any]
) -> Layout:
    """Return the positions of the state.

    `rule` must have momentum, except for Adam, and centered and amsgrad if they are True.
    """
    adam = bool(KINDS[kind].fixed.get("first_moment"))
    unknown = f"known to tell the variables of {path} apart", Received("neither in the file nor given")
    if not adam and "momentum" not in rule:
        raise InputError("momentum", *unknown, "pass --momentum (or 0)")
    has = {"square_avg": True, "momentum_buffer": adam or rule["momentum"], "grad_avg": rule.get("centered")}
    options = [False, True] if adam and rule.get("amsgrad") is None else [bool(rule.get("amsgrad"))]
    candidates = [_layout(kind, variables, config, {**has, "max_square_avg": amsgrad}) for amsgrad in options]
    fitting = [each for each in candidates if each.fits([variable.shape for variable in variables])]
    if len(fitting) > 1 and fitting[0].size:
        raise InputError("amsgrad", *unknown, "pass --amsgrad or --no-amsgrad")
    if not fitting:
        found = candidates[0]
        name, allowed = f"the optimizer's variables in {path}", f"{', '.join(found.fields)} of each variable"
        count = len(variables) - 1 - found.has_lr - found.has_product
        received = Received(f"{count} that do not fall into {found.each} equal blocks")
        remedy = "check --from and --amsgrad" if adam else "check --momentum and --centered"
        raise InputError(name, allowed, received, remedy)
    return fitting[0]


def blocks_of(kind: str, has: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Return the blocks in a file of `kind` with the averages that `has` maps to a true value."""
    order = _ADAM if KINDS[kind].fixed.get("first_moment") else _RMSPROP
    return tuple(block for block in order if all(has.get(field) for field in block))


def has_product(kind: str) -> bool:
    """Return whether the last variable is Nadam's product of momenta."""
    return bool(KINDS[kind].fixed.get("momentum_decay"))


def _layout(kind: str, variables: Sequence[Array], config: Mapping[str, Any], has: Mapping[str, Any]) -> Layout:
    """Return the layout with these averages, of as many variables as there may be."""
    # A schedule has no variable. Any other learning rate is a scalar before the state.
    schedule = isinstance(config.get("learning_rate"), dict)
    has_lr = not schedule and len(variables) > 1 and variables[1].shape == ()
    has_ema, accumulates = (bool(config.get(name)) for name in ("use_ema", "gradient_accumulation_steps"))
    found = Layout(has_lr, has_ema, accumulates, blocks_of(kind, has), has_product(kind), 0)
    return found._replace(size=max(0, len(variables) - 1 - has_lr - found.has_product) // found.each)
