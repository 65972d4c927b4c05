"""Gradients that are not finite, or whose square is not: found, counted as 0, or the reason to leave out a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rmsprop import native
from rmsprop.torch.distributed import any_rank, local_shard


def is_finite(g: Tensor) -> Tensor:
    """Return for every element whether it is finite and so is its square where it is computed; for complex, of both."""
    if g.is_complex():
        return is_finite(torch.view_as_real(g)).all(-1)
    return g.abs() < 2.0 ** (512 if g.dtype == torch.float64 else 64)  # in float16: below infinity


def cleaned(g: Tensor) -> Tensor:
    """Return `g` with 0 for what is not finite."""
    if g.is_complex():
        return torch.view_as_complex(cleaned(torch.view_as_real(g)))
    return g.masked_fill(~is_finite(g), 0)


def add(count: Tensor | None, flag: Tensor) -> Tensor:
    """Return the count of steps with one that is counted where `flag` is true; nothing is read from a device."""
    return flag.long() if count is None else count.add_(flag.to(count.device))  # in place, for captured graphs


def judge(groups: list[dict[str, Any]], batch: Any, work: list[Any], scale: float) -> tuple[Any, Any]:
    """Return whether to leave out the step (True, or a Tensor that only devices shall read) and whether to count it.

    The gradients are those of the kernel's `batch` and of the slots in `work`, of which those to be cleaned are. A
    step in which the kernel will clean some is not yet counted.
    """
    modes = {group["nonfinite"] for group in groups}
    skip = counted = None
    if "zero" in modes:
        for number, (group, rule, slots) in enumerate(work):
            if group["nonfinite"] == "zero":
                counted = _either(counted, *(_is_bad(slot.g) for slot in slots))
                work[number] = (group, rule, [slot._replace(g=cleaned(slot.g)) for slot in slots])
    if "skip" in modes:
        asked = [group for group in groups if group["nonfinite"] == "skip"]
        skip = _either(*(_is_bad(slot.g) for group, _, slots in work if group["nonfinite"] == "skip" for slot in slots))
        by_kernel = batch is not None and len(batch) > 0
        if by_kernel or skip is None:
            kernel = by_kernel and not batch.finite(torch.get_num_threads(), native.GRAIN, scale)
            # On the parameters' device, where ranks that have gradients have it, too.
            device = next((p.device for group in asked for p in group["params"]), torch.device("cpu"))
            skip = _either(skip, torch.tensor(kernel, device=device if skip is None else skip.device))
        skip = any_rank(skip)
        counted = _either(counted, skip)
        on_device = skip.device.type != "cpu" or any(group["capturable"] for group, _, _ in work)
        if by_kernel or not on_device:
            return True if skip.item() else None, counted
    return skip, counted


def _is_bad(g: Tensor) -> Tensor:
    """Return whether an element is not finite; of a gradient that is spread over ranks, one of this rank's."""
    return ~is_finite(local_shard(g)).all()


def _either(*flags: Tensor | None) -> Any:
    """Return whether one of the flags is true, None without flags."""
    found = None
    for flag in flags:
        if flag is not None:
            found = flag if found is None else found | flag.to(found.device)
    return found
