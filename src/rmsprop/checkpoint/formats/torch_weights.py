"""The weights of a PyTorch model, from the state dict saved beside the optimizer's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmsprop.checkpoint.formats.pickled_values import search
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.state import ParameterState
from rmsprop.errors import InputError, Received

_MODELS = ("['model']", "['state_dict']", "['model_state_dict']", "['module']", "['net']")
_STATISTICS = {"running_mean": "running_mean", "running_var": "running_var"}
_COUNT = "num_batches_tracked"
_REMEDY = "save {'model': model.state_dict(), 'optimizer': optimizer.state_dict()} of all model.parameters() in order"


def read(
    path: Path, value: Any, parameters: Sequence[ParameterState], several: bool, budget: ReadBudget
) -> tuple[ParameterState, ...]:
    """Return the parameters with their weights. A batch normalization's weight also gets its statistics."""
    model = find(path, value, budget)
    names = names_of(path, model, parameters, several)
    filled = []
    for parameter, name in zip(parameters, names, strict=True):
        stem = name.removesuffix("weight")
        statistics = {
            field: model[stem + key].array()
            for field, key in _STATISTICS.items()
            if name != stem and stem + key in model
        }
        filled.append(replace(parameter, weight=model[name].array(), weight_name=name, **statistics))
    return tuple(filled)


def fill(model: dict[str, Any], parameters: Sequence[ParameterState], tensor: Any) -> None:
    """Write the weights and statistics of `parameters` into a model's state dict, in place."""
    for parameter in parameters:
        name = parameter.weight_name or parameter.name
        model[name] = tensor(parameter.weight)
        for field, key in _STATISTICS.items():
            value = getattr(parameter, field)
            if value is not None:
                stem, _, _ = name.rpartition(".")
                model[f"{stem}.{key}" if stem else key] = tensor(value)


def _is_model(value: Any) -> bool | None:
    """Return whether a value is a model's state dict; None for an optimizer's, to skip it."""
    if not isinstance(value, dict) or not value:
        return False
    if "param_groups" in value:
        return None
    return all(isinstance(k, str) and hasattr(v, "shape") for k, v in value.items())


def find(path: Path, value: Any, budget: ReadBudget) -> dict[str, Any]:
    """Return the only model state dict in `value`. If there are more, the usual keys such as "model" decide."""
    matches = search(value, budget, _is_model, depth=4)
    usual = [each for each in matches if each[0] in _MODELS]
    chosen = usual if len(usual) == 1 else matches
    if len(chosen) != 1:
        names = ", ".join(where for where, _ in matches[:4]) or "none"
        raise InputError(str(path), "a file with one model's state_dict()", Received(names), _REMEDY)
    return chosen[0][1]


def names_of(path: Path, model: dict[str, Any], parameters: Sequence[ParameterState], several: bool) -> list[str]:
    """Return each parameter's name in the model's state dict: matched by name, or by order without names."""
    names = [name for name in model if name.rpartition(".")[2] not in (*_STATISTICS, _COUNT)]
    own_names = [parameter.name for parameter in parameters]
    if not all(name.isdecimal() for name in own_names):
        by_plain_name = {name.removeprefix("module.").removeprefix("_orig_mod."): name for name in names}
        chosen = [by_plain_name.get(name.removeprefix("module.").removeprefix("_orig_mod."), "") for name in own_names]
    elif several and len(names) > 1:
        remedy = "give the optimizer names, as in RMSprop(model.named_parameters()), and save it again"
        raise InputError(str(path), "one whose optimizer has names, or one group", Received("several groups"), remedy)
    else:
        chosen = names
    shapes = [None if p.square_avg is None else p.square_avg.shape for p in parameters]
    fits = len(chosen) == len(own_names) and "" not in chosen and set(chosen) == set(names)
    if not fits or any(s is not None and tuple(model[n].shape) != s for n, s in zip(chosen, shapes, strict=True)):
        what = Received(f"a model of {len(names)} weights and an optimizer of {len(own_names)}, or of other shapes")
        raise InputError(str(path), "a model whose weights are the optimizer's parameters", what, _REMEDY)
    return chosen
