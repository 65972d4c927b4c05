"""Classes with the arguments of timm's and Stable-Baselines3's RMSprop.

Each follows the rule of its library (`rmsprop.profile("timm")`, `"sb3"`) and takes the arguments of `RMSprop` besides.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rmsprop.errors import InputError
from rmsprop.profiles import profile
from rmsprop.rule import Rule
from rmsprop.torch.optimizer import Params, RMSprop

__all__ = ["RMSpropTF", "RMSpropTFLike"]

_ARGUMENTS = ("alpha", "eps", "weight_decay", "momentum", "centered")  # of both libraries


class RMSpropTF(RMSprop):
    """timm's `RMSpropTF`: TensorFlow 1's rule, with timm's arguments and defaults.

    Parameters
    ----------
    params
        As in `RMSprop`.
    lr, alpha, eps, weight_decay, momentum, centered
        As in `RMSprop`, with timm's defaults.
    decoupled_decay
        `decoupled_weight_decay` of `RMSprop`.
    corrected_weight_decay, caution
        timm's own; False is the only value: no other RMSprop has these rules.
    lr_in_momentum
        Accumulate η·g/d in the momentum buffer.
    **arguments
        Other arguments of `RMSprop`.

    Raises
    ------
    InputError
        For an argument out of range.

    Examples
    --------
    >>> import torch
    >>> from rmsprop.torch.drop_ins import RMSpropTF
    >>> RMSpropTF([torch.ones(2)], lr=0.1, momentum=0.9).rule().initial_square_avg
    1.0
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.9,
        eps: float = 1e-10,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        decoupled_decay: bool = False,
        corrected_weight_decay: bool = False,
        lr_in_momentum: bool = True,
        caution: bool = False,
        **arguments: Any,
    ) -> None:
        for name, value in (("caution", caution), ("corrected_weight_decay", corrected_weight_decay)):
            if value:
                raise InputError(name, "False", value, "omit it: no other RMSprop has this rule of timm's")
        rule = profile("timm", decoupled_weight_decay=decoupled_decay, lr_in_momentum=lr_in_momentum)
        super().__init__(params, lr, alpha, eps, weight_decay, momentum, centered, **{**_variant(rule), **arguments})


class RMSpropTFLike(RMSprop):
    """Stable-Baselines3's `RMSpropTFLike`: ε inside the root and averages that start at 1.

    Parameters
    ----------
    params
        As in `RMSprop`.
    lr, alpha, eps, weight_decay, momentum, centered
        As in `RMSprop`.
    **arguments
        Other arguments of `RMSprop`.

    Raises
    ------
    InputError
        For an argument out of range.

    Examples
    --------
    >>> import torch
    >>> from rmsprop.torch.drop_ins import RMSpropTFLike
    >>> RMSpropTFLike([torch.ones(2)], lr=7e-4, eps=1e-5).rule().eps_inside_sqrt
    True
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        **arguments: Any,
    ) -> None:
        variant = _variant(profile("sb3"))
        super().__init__(params, lr, alpha, eps, weight_decay, momentum, centered, **{**variant, **arguments})


def _variant(rule: Rule) -> dict[str, Any]:
    """Return what makes a library's rule differ, without the arguments that its users give."""
    return {name: value for name, value in rule.torch_kwargs().items() if name not in _ARGUMENTS}
