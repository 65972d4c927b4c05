"""Join the statistics of all engines for an observer, under the keys of the parameters."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rmsprop.statistics import BINS, COLUMNS
from rmsprop.torch.distributed import local_shard
from rmsprop.torch.engines.engine import Measured, StepInputs
from rmsprop.torch.engines.param_step import scaled
from rmsprop.torch.engines.sparse_rows import summed
from rmsprop.torch.nonfinite import is_finite
from rmsprop.torch.observer import ParamKey
from rmsprop.torch.state import COMPUTE, real


def param_key(index: int, offsets: list[int]) -> ParamKey:
    """Return the key of the parameter with that index among all; `offsets` are the first indices of the groups."""
    group = bisect_right(offsets, index) - 1
    return group, index - offsets[group]


class KeyCache:
    """A cache of the keys of measured parameters: steps of the same parameters get the same tuple."""

    def __init__(self) -> None:
        self._cached: tuple[bytes, list[int], tuple[ParamKey, ...]] = (b"", [], ())

    def keys(self, indices: bytes, offsets: list[int]) -> tuple[ParamKey, ...]:
        """Return the key of each of `indices` (of uint32)."""
        cached_indices, cached_offsets, keys = self._cached  # one read: another thread may replace the tuple
        if cached_indices is not indices or cached_offsets != offsets:
            keys = tuple(param_key(index, offsets) for index in np.frombuffer(indices, np.uint32).tolist())
            self._cached = indices, offsets, keys
        return keys


def joined(
    parts: Sequence[Measured], offsets: list[int], cache: KeyCache
) -> tuple[tuple[ParamKey, ...], NDArray[np.float64], NDArray[np.int64]]:
    """Return the keys, sums and histograms of all `parts`."""
    if not parts:
        return (), np.empty((0, len(COLUMNS))), np.empty((0, BINS), np.int64)
    keys = cache.keys(parts[0].indices, offsets)
    if len(parts) == 1:
        return keys, parts[0].sums, parts[0].histograms
    others = b"".join(part.indices for part in parts[1:])
    keys += tuple(param_key(index, offsets) for index in np.frombuffer(others, np.uint32).tolist())
    return keys, np.concatenate([part.sums for part in parts]), np.concatenate([part.histograms for part in parts])


def nonfinite_counts(inputs: StepInputs) -> tuple[list[ParamKey], list[int]]:
    """Return the keys of parameters with non-finite gradients, and the number of non-finite elements of each."""
    keys, counts = [], []
    for index, group in enumerate(inputs.groups):
        for i, p in enumerate(group["params"]):
            if p.grad is None:
                continue
            g = local_shard(p.grad.detach())
            if p.grad.is_sparse:
                g = summed(p.grad, COMPUTE.get(p.dtype, p.dtype))[1]
            if count := int((~is_finite(real(scaled(g, inputs.grad_scale)))).sum()):
                keys.append((index, i))
                counts.append(count)
    return keys, counts
