"""Split a module's parameters into those with weight decay and those without: by default, biases and norms."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from rmsprop.errors import InputError, Received, check_flag, require
from rmsprop.hyperparameters import HYPERPARAMETERS
from rmsprop.names import plain_names

KINDS = ("biases", "norms", "depthwise", "vectors")
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def decay_groups(
    module: nn.Module, weight_decay: float, *, without: tuple[str, ...] = ("biases", "norms"), named: bool = False
) -> list[dict[str, Any]]:
    """Return a module's parameters in two groups: with weight decay, and without.

    Parameters
    ----------
    module
        Each parameter is taken once, in the order of `module.parameters()`. Frozen parameters are included, since they
        may be unfrozen later.
    weight_decay
        λ of the first group; the second group has 0.
    without
        The kinds of parameters without weight decay:

        - "biases": parameters with "bias" as a word of their name (bias, in_proj_bias, bias_ih_l0). The name of a
          `ParameterList` or `ParameterDict` counts for the parameters in it.
        - "norms": all parameters of torch's BatchNorm, InstanceNorm, GroupNorm, LayerNorm and RMSNorm.
        - "depthwise": the kernels of convolutions with one input channel in each group.
        - "vectors": parameters with at most one dimension.

        Parameters from which a parametrization computes a tensor (`torch.nn.utils.parametrize`, weight and spectral
        norm) are of the kinds of that tensor.
    named
        Return names with the parameters. The optimizer's groups and state dict then hold the names, without the
        prefixes of wrappers (torch.compile, FSDP, activation checkpointing, DDP).

    Returns
    -------
    list of dict
        Parameter groups for any `torch.optim.Optimizer`; an empty group is dropped. A parameter that is used twice is
        not decayed if either use is of a kind in `without`.

    Raises
    ------
    InputError
        If `module` is not a module, λ is negative or infinite, a kind is unknown, or FSDP has flattened the parameters
        into one.

    Examples
    --------
    >>> import torch
    >>> from rmsprop.torch import RMSprop, decay_groups
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    >>> optimizer = RMSprop(decay_groups(model, 1e-4), lr=1e-3, decoupled_weight_decay=True)
    >>> [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    [(0.0001, 1), (0.0, 3)]
    """
    got, allowed = Received(f"a {type(module).__name__}"), "an nn.Module, whose layers show what is decayed"
    require(isinstance(module, nn.Module), "module", allowed, got, "pass the model")
    weight_decay = HYPERPARAMETERS["weight_decay"].checked(weight_decay)
    named = check_flag("named", named)
    if isinstance(without, str) or not isinstance(without, Collection) or not all(kind in KINDS for kind in without):
        raise InputError("without", f"a tuple of {', '.join(KINDS)}", without, "() decays every parameter")
    not_decayed = {p for layer, name, p in _uses(module) if any(kind in without for kind in _kinds(layer, name, p))}
    decayed: list[Any] = []
    others: list[Any] = []
    parameters = dict(module.named_parameters())
    for name, p in zip(plain_names(parameters), parameters.values(), strict=True):
        is_flat, remedy = getattr(p, "_is_flat_param", False), "pass use_orig_params=True to FSDP, or use fully_shard"
        require(not is_flat, "the model's parameters", "not flattened by FSDP", Received("a flat one"), remedy)
        (others if p in not_decayed else decayed).append((name, p) if named else p)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


_Containers = (nn.ParameterList, nn.ParameterDict)


def _uses(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield every use of a parameter: the layer, the name in the layer, the parameter."""
    for layer in module.modules():
        if isinstance(layer, ParametrizationList) or (isinstance(layer, _Containers) and layer is not module):
            continue  # its parent yields its parameters
        for name, p in layer.named_parameters(recurse=False):
            yield layer, name, p
        for name, child in layer.named_children():
            if isinstance(child, _Containers):
                yield from ((layer, f"{name}_{key}".replace(".", "_"), p) for key, p in child.named_parameters())
        if is_parametrized(layer):
            for name, originals in layer.parametrizations.items():  # type: ignore[union-attr, operator]
                yield from ((layer, name, p) for p in originals.parameters(recurse=False))


def _kinds(layer: nn.Module, name: str, p: Tensor) -> list[str]:
    depthwise = isinstance(layer, nn.modules.conv._ConvNd) and 1 < layer.groups == layer.in_channels
    kinds = {
        "biases": "bias" in name.split("_"),
        "norms": isinstance(layer, _NORMS),
        "depthwise": depthwise and name.split("_")[0] == "weight",  # weight_v of torch's older weight norm
        "vectors": p.ndim <= 1,
    }
    return [kind for kind, is_one in kinds.items() if is_one]
