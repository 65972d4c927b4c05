"""Spread a training over processes: model and state with FSDP2, or the state alone with ZeroRedundancyOptimizer.

Checkpoints hold everything in full, as those of one process: any number of processes goes on from them.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from rmsprop.errors import InputError, Received
from rmsprop.lab.data import batches, moved
from rmsprop.lab.processes import Processes
from rmsprop.lab.random_state import random_state, set_random_state
from rmsprop.lab.task import Task
from rmsprop.lab_options import TrainOptions
from rmsprop.recipes import Recipe
from rmsprop.rule import Rule
from rmsprop.torch import RMSprop
from rmsprop.torch.distributed import is_sharded

Sharding: TypeAlias = Literal["fsdp", "zero"]


def chosen_sharding(options: TrainOptions, recipe: Recipe, processes: Processes) -> Sharding | None:
    """Return the sharding of the options; None without one.

    Raises
    ------
    InputError
        If there is one process only, or an option cannot be obeyed.
    """
    name: Sharding | None = "fsdp" if options.fsdp else "zero" if options.zero else None
    if name is None:
        return None
    option = f"--{name}"
    if processes.count == 1:
        remedy = f"torchrun --nproc-per-node 2 -m rmsprop train … {option}"
        raise InputError(option, "given to several processes", Received("one"), remedy)
    if options.every != 0:
        every = Received("none") if options.every is None else options.every
        remedy = f"add --every 0, or omit {option}: a process would measure its own shard only"
        raise InputError("--every", f"0 with {option}", every, remedy)
    if name == "fsdp" and recipe.weight_ema is not None:
        raise InputError("--average", "omitted with --fsdp", Received("an average of the weights"), "use --zero")
    if name == "fsdp" and options.amp == "float16":
        remedy = "use bfloat16: torch's loss scaling does not know shards"
        raise InputError("--amp", "bfloat16 or omitted with --fsdp", options.amp, remedy)
    return name


def shard_model(model: nn.Module) -> None:
    """Shard the parameters of a model with FSDP2, in place: each element of a ModuleList by itself, then the rest.

    Every process begins with the values of rank 0.
    """
    from torch.distributed.fsdp import fully_shard

    for value in model.state_dict().values():
        distributed.broadcast(value, src=0)
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                if any(True for _ in block.parameters()):
                    fully_shard(block)
    fully_shard(model)


def check_sharded_forward(task: Task, model: nn.Module, device: torch.device) -> None:
    """Raise InputError unless the task uses a sharded model as a whole: FSDP2 gathers parameters when it is called.

    Collective: it computes the loss of one example.
    """
    before = random_state()
    try:
        with torch.no_grad():
            task.loss(*task.apply(model.eval(), moved(next(batches(task.train, 1)), device)))
    except RuntimeError as error:
        if "DTensor" not in str(error):
            raise
        found = Received("one that uses a part or a parameter of the model before it calls the model")
        raise InputError("a task for --fsdp", "one that calls its model", found, "use --zero") from error
    finally:
        set_random_state(before)
        reshard(model)


def reshard(model: nn.Module) -> None:
    """Drop the whole parameters that a forward pass without a backward pass has left in a sharded model."""
    for module in model.modules():
        if callable(free := getattr(module, "reshard", None)):
            free()


def zero_redundancy(params: Any, rule: Rule, **arguments: Any) -> Any:
    """Return an optimizer whose state is spread over the processes, as `RMSprop.from_rule`."""
    with warnings.catch_warnings():  # its import compiles other optimizers by torch.jit.script
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch.distributed.optim import ZeroRedundancyOptimizer

    def local(groups: Any, **_: Any) -> RMSprop:
        return RMSprop.from_rule(groups, rule, **arguments)

    make: Any = ZeroRedundancyOptimizer
    return make(params, local)


def gathered_state(optimizer: Optimizer, processes: Processes) -> Any:
    """Return the state of a whole optimizer on rank 0, and anything on the others. Collective."""
    consolidate = getattr(optimizer, "consolidate_state_dict", None)
    if consolidate is not None:
        consolidate(to=0)
        return optimizer.state_dict() if processes.is_first else None
    return gathered(optimizer.state_dict())


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the state of a whole optimizer into one that may be spread over processes."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(is_sharded(p) for p in params):
        optimizer.load_state_dict(state)
        return
    tensors = {
        index: {name: _like(params[index], value) for name, value in of_param.items()}
        for index, of_param in state["state"].items()
        if 0 <= index < len(params)
    }
    optimizer.load_state_dict({**state, "state": {**state["state"], **tensors}})


def load_model(model: nn.Module, state: dict[str, Any]) -> None:
    """Load the state of a whole model into one that may be sharded."""
    shards = model.state_dict()
    if not any(is_sharded(x) for x in shards.values()):
        model.load_state_dict(state)
        return
    model.load_state_dict({name: _like(shards.get(name), value) for name, value in state.items()})


def gathered(value: Any) -> Any:
    """Return a tensor or a dict with whole tensors in place of DTensors, also inside of dicts. Collective."""
    if isinstance(value, Tensor) and is_sharded(value):
        sharded: Any = value
        return sharded.full_tensor().cpu()
    if isinstance(value, dict):
        found = {name: gathered(each) for name, each in value.items()}
        same = all(found[name] is each for name, each in value.items())
        return value if same else found  # a module's state dict has more than its items
    return value


def _like(target: Any, value: Any) -> Any:
    """Return this process's shard of `value` if `target` is a DTensor of its shape, and `value` otherwise."""
    if not isinstance(value, Tensor) or not isinstance(target, Tensor) or not is_sharded(target):
        return value
    if value.shape != target.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = target
    local = value.to(sharded.device_mesh.device_type)
    return distribute_tensor(local, sharded.device_mesh, sharded.placements, src_data_rank=None)
