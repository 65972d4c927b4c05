"""torch.distributed.checkpoint between torch's class and ours, from two processes to two and to one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rmsprop.torch import RMSprop

distributed = torch.distributed
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_available(), reason="torch was built without distributed"),
    pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="FSDP2 of this torch needs a GPU"),
]
FORMS = {"nested": False, "flat": True}
PAIRS = {
    "torch to ours": (torch.optim.RMSprop, RMSprop),
    "ours to torch": (RMSprop, torch.optim.RMSprop),
    "ours to ours": (RMSprop, RMSprop),
}


def build(which: Any, ranks: int, seed: int) -> tuple[nn.Module, Any]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    if ranks > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)))
    return model, which(model.parameters(), lr=0.1 / (1 + seed), momentum=0.5)


def train(model: nn.Module, optimizer: Any) -> None:
    for seed in range(2):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def whole(model: nn.Module) -> list[torch.Tensor]:
    return [(p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for p in model.parameters()]


def tools() -> tuple[Any, Any]:
    """Return torch's modules, which are only partly typed."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint import state_dict

    return checkpoint, state_dict


def go_on(folder: str, pair: str, form: str, ranks: int) -> None:
    """Load into another optimizer of another model, train on, and compare with the uninterrupted run."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

    checkpoint, states = tools()
    options = states.StateDictOptions(flatten_optimizer_state_dict=FORMS[form])
    model, optimizer = build(PAIRS[pair][1], ranks, seed=1)

    def load(**arguments: Any) -> None:
        state = {
            "model": states.get_model_state_dict(model),
            "optimizer": states.get_optimizer_state_dict(model, optimizer, options=options),
        }
        checkpoint.load(state, checkpoint_id=f"{folder}/{pair}-{form}", **arguments)
        states.set_model_state_dict(model, state["model"])
        states.set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)

    if pair == "torch to ours":
        with pytest.raises(checkpoint.api.CheckpointException, match=r"Missing key .*fused"):
            load()
        load(planner=DefaultLoadPlanner(allow_partial_load=True))
    else:
        load()
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == (0.1, 0.5)
    train(model, optimizer)
    expected = torch.load(f"{folder}/{pair}-{form}.pt", weights_only=True)
    for p, q in zip(whole(model), expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def on_a_rank(rank: int, folder: str) -> None:
    checkpoint, states = tools()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        for form, flat in FORMS.items():
            options = states.StateDictOptions(flatten_optimizer_state_dict=flat)
            for pair, (first, _) in PAIRS.items():
                model, optimizer = build(first, 2, seed=0)
                train(model, optimizer)
                state = {
                    "model": states.get_model_state_dict(model),
                    "optimizer": states.get_optimizer_state_dict(model, optimizer, options=options),
                }
                checkpoint.save(state, checkpoint_id=f"{folder}/{pair}-{form}")
                train(model, optimizer)
                after = whole(model)
                if rank == 0:
                    torch.save(after, f"{folder}/{pair}-{form}.pt")
                distributed.barrier()
                go_on(folder, pair, form, 2)
    finally:
        distributed.destroy_process_group()


def test_from_two_processes_to_two_and_to_one(tmp_path: Path) -> None:
    processes: Any = torch.multiprocessing
    processes.start_processes(on_a_rank, (str(tmp_path),), 2, start_method="forkserver")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/alone", rank=0, world_size=1)
    try:
        for pair in PAIRS:
            for form in FORMS:
                go_on(str(tmp_path), pair, form, 1)
    finally:
        distributed.destroy_process_group()
