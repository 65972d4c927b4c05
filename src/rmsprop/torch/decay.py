"""Which of a module's parameters weight decay reaches: all but biases and norms, or as a recipe says."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from rmsprop.errors import InputError, Received, check_flag, check_number
from rmsprop.names import plain_names

KINDS = ("biases", "norms", "depthwise", "vectors")
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def decay_groups(
    module: nn.Module, weight_decay: float, *, without: tuple[str, ...] = ("biases", "norms"), named: bool = False
) -> list[dict[str, Any]]:
    """Return a module's parameters in two groups: those that weight decay reaches, and the others.

    Parameters
    ----------
    module
        Its parameters are taken once each, in the order of `module.parameters()`; frozen ones, too, so that they can
        be unfrozen later.
    weight_decay
        λ of the first group; that of the second is 0.
    without
        What decay leaves out. "biases": parameters with bias as a word of their name (bias, in_proj_bias, bias_ih_l0),
        or of that of the `ParameterList` or `ParameterDict` that holds them.
        "norms": all of torch's BatchNorm, InstanceNorm, GroupNorm, LayerNorm and RMSNorm. "depthwise": the kernels of
        convolutions with one input channel in each group. "vectors": what has at most one dimension. What a
        parametrization computes a tensor from (`torch.nn.utils.parametrize`, weight and spectral norm) is what that
        tensor is.
    named
        Give names with the parameters, which then stand in the optimizer's groups and in its state dict, without what
        wrappers (torch.compile, FSDP, activation checkpointing, DDP) put into them.

    Returns
    -------
    list of dict
        Parameter groups for any `torch.optim.Optimizer`; a group without parameters is left out. A parameter that is
        used in two places is left out of decay if one of them is.

    Raises
    ------
    InputError
        For something else than a module, a negative or infinite λ, an unknown kind, and a module whose parameters FSDP
        has put into one.

    Examples
    --------
    >>> import torch
    >>> from rmsprop.torch import RMSprop, decay_groups
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    >>> optimizer = RMSprop(decay_groups(model, 1e-4), lr=1e-3, decoupled_weight_decay=True)
    >>> [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    [(0.0001, 1), (0.0, 3)]
    """
    if not isinstance(module, nn.Module):
        found = Received(f"a {type(module).__name__}")
        raise InputError("module", "an nn.Module, whose layers tell what is decayed", found, "pass the model")
    weight_decay = check_number("weight_decay", weight_decay, "1e-5 to 1e-2 is usual")
    named = check_flag("named", named)
    if isinstance(without, str) or not isinstance(without, Collection) or not all(kind in KINDS for kind in without):
        raise InputError("without", f"a tuple of {', '.join(KINDS)}", without, "() decays every parameter")
    left_out = {p for layer, name, p in _roles(module) if any(kind in without for kind in _kinds(layer, name, p))}
    decayed: list[Any] = []
    others: list[Any] = []
    parameters = dict(module.named_parameters())
    for name, p in zip(plain_names(parameters), parameters.values(), strict=True):
        if getattr(p, "_is_flat_param", False):
            found, remedy = Received("one of FSDP's"), "pass use_orig_params=True to FSDP, or use fully_shard"
            raise InputError("the model's parameters", "its own", found, remedy)
        (others if p in left_out else decayed).append((name, p) if named else p)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


_Holders = (nn.ParameterList, nn.ParameterDict)


def _roles(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Return every parameter with the layers that it belongs to and its name there, as what it serves."""
    for layer in module.modules():
        if isinstance(layer, ParametrizationList) or (isinstance(layer, _Holders) and layer is not module):
            continue  # their owner tells
        for name, p in layer.named_parameters(recurse=False):
            yield layer, name, p
        for name, child in layer.named_children():
            if isinstance(child, _Holders):
                yield from ((layer, f"{name}_{key}".replace(".", "_"), p) for key, p in child.named_parameters())
        if is_parametrized(layer):
            for name, originals in layer.parametrizations.items():  # type: ignore[union-attr, operator]
                yield from ((layer, name, p) for p in originals.parameters(recurse=False))


def _kinds(layer: nn.Module, name: str, p: Tensor) -> list[str]:
    """Return what a parameter of `layer` itself is, of `KINDS`."""
    depthwise = isinstance(layer, nn.modules.conv._ConvNd) and 1 < layer.groups == layer.in_channels
    told = {
        "biases": "bias" in name.split("_"),
        "norms": isinstance(layer, _NORMS),
        "depthwise": depthwise and name.split("_")[0] == "weight",  # weight_v: of torch's first weight norm
        "vectors": p.ndim <= 1,
    }
    return [kind for kind, so in told.items() if so]
