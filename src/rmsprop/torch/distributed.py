"""Read the local shards of DTensors, and combine flags of all ranks.

A rank is one process of torch.distributed. A DTensor (FSDP2, tensor parallelism) is spread over ranks: each rank holds
its local shard.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_sharded(x: Tensor) -> bool:
    """Return whether `x` is a DTensor."""
    return hasattr(x, "to_local")


def local_shard(x: Tensor) -> Tensor:
    """Return this rank's shard of a DTensor, or any other tensor unchanged."""
    shard: Tensor = x.to_local() if hasattr(x, "to_local") else x
    return shard


def placements(x: Tensor) -> Any:
    """Return the placements of a DTensor; None for any other tensor."""
    return getattr(x, "placements", None)


def world_size() -> int:
    """Return the number of ranks; 1 without torch.distributed."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def any_rank(flag: Tensor) -> Tensor:
    """Return whether `flag` is true on any rank. Collective: every rank must call it."""
    if world_size() == 1:
        return flag
    value = flag.float()
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return value > 0
