"""The parts of a recipe in PyTorch besides the optimizer: clipping, clamping and an average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rmsprop.errors import InputError, Received
from rmsprop.recipes.clip import Clip
from rmsprop.recipes.schedules import WeightEma

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim.lr_scheduler import LambdaLR
    from torch.optim.swa_utils import AveragedModel

    from rmsprop.torch import RMSprop


class Training(NamedTuple):
    """Result of `Recipe.torch`. A part that the recipe lacks is None.

    Call in each step, omitting missing parts: `clamp(parameters)`; the backward pass; `clip(parameters)`;
    `optimizer.step()`; `scheduler.step()`; `ema.update_parameters(model)`.
    """

    optimizer: RMSprop
    scheduler: LambdaLR
    clip: Callable[[Iterable[Tensor]], Any] | None
    clamp: Callable[[Iterable[Tensor]], None] | None
    ema: AveragedModel | None


def clipping(clip: Clip) -> Callable[[Iterable[Tensor]], Any]:
    """Return torch's function that clips the gradients of parameters."""
    from torch.nn.utils import clip_grad_norm_, clip_grad_value_

    if clip.kind == "norm":
        return partial(clip_grad_norm_, max_norm=clip.limit)
    return partial(clip_grad_value_, clip_value=clip.limit)


def clamp(parameters: Iterable[Tensor], limit: float) -> None:
    """Bound every element of the parameters to ±limit."""
    import torch

    with torch.no_grad():
        for p in parameters:
            p.clamp_(-limit, limit)


def averaged_model(model: nn.Module, weight_ema: WeightEma) -> AveragedModel:
    """Return a model that averages the weights and buffers of `model`, starting at their current values."""
    import torch
    from torch.optim.swa_utils import AveragedModel

    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.dtype in (torch.float16, torch.bfloat16):
            dtype = Received(str(value.dtype).removeprefix("torch."))
            remedy = "keep the model in float32 and train it under torch.autocast"
            raise InputError(f"the dtype of the model's {name}", "float32 where weights are averaged", dtype, remedy)

    @torch.no_grad()
    def average(averages: Any, values: Any, n: Tensor | int) -> None:
        decay = weight_ema.at(float(n))  # n counts the copy below: it is 1 at the first step
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point() or average.is_complex():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    ema.update_parameters(model)  # the first update copies
    return ema
