"""Decide what a step does with a non-finite gradient: one with an element that is not finite or whose square is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from rmsprop.torch.distributed import any_rank, local_shard
from rmsprop.torch.engines.engine import Engine, StepInputs, waits


class Verdict(Enum):
    """Whether to execute a step."""

    RUN = "run"
    SKIPPED = "skipped"
    ON_DEVICE = "on device"  # a flag on a device decides: engines restore what they stepped where it is true


class Judgement(NamedTuple):
    """The verdict on a step, with flags that stay on their devices."""

    verdict: Verdict
    skip: Tensor | None = None  # with ON_DEVICE: whether to skip the step
    nonfinite: Tensor | None = None  # whether a gradient is not finite; None if not checked before the step


_RUN = Judgement(Verdict.RUN)


def judge(inputs: StepInputs, engines: Sequence[Engine]) -> Judgement:
    """Return whether to execute the step that `engines` have gathered. Collective: every rank must call it."""
    found = None
    if inputs.found_inf is not None:
        if all(engine.skips_on_device for engine in engines):
            found = (inputs.found_inf != 0).reshape(())
        elif inputs.found_inf.item():
            return Judgement(Verdict.SKIPPED)
    judgement = _RUN
    for group in inputs.groups:
        if group["nonfinite"] == "skip":
            judgement = _judge_skipping(inputs, engines)
            break
    if found is None:
        return judgement
    nonfinite = None if judgement.nonfinite is None else judgement.nonfinite & ~found.to(judgement.nonfinite.device)
    verdict = judgement.verdict if judgement.verdict is Verdict.SKIPPED else Verdict.ON_DEVICE
    return Judgement(verdict, either([found, judgement.skip]), nonfinite)


def _judge_skipping(inputs: StepInputs, engines: Sequence[Engine]) -> Judgement:
    flag = either(engine.nonfinite(inputs) for engine in reversed(engines))
    if flag is None or flag.device.type == "cpu":
        # Ranks with gradients have the flag on the parameters' device. A collective needs one kind of device.
        device = next(
            (p.device for group in inputs.groups if group["nonfinite"] == "skip" for p in group["params"]),
            torch.device("cpu"),
        )
        flag = (torch.tensor(False, device="cpu") if flag is None else flag).to(device)
    flag = any_rank(flag)
    on_device = waits(flag) or any(group["capturable"] for group in inputs.groups)
    if on_device and all(engine.skips_on_device for engine in engines):
        return Judgement(Verdict.ON_DEVICE, flag, flag)
    return Judgement(Verdict.SKIPPED if flag.item() else Verdict.RUN, None, flag)


def is_finite(g: Tensor) -> Tensor:
    """Return for every element whether it and its square are finite. A complex element needs both parts finite."""
    if g.is_complex():
        return is_finite(torch.view_as_real(g)).all(-1)
    return g.abs() < 2.0 ** (512 if g.dtype == torch.float64 else 64)  # float16: 2⁶⁴ is inf


def any_nonfinite(g: Tensor) -> Tensor:
    """Return whether an element of `g` is not finite; of a DTensor, an element of this rank's shard."""
    return ~is_finite(local_shard(g)).all()


def cleaned(g: Tensor) -> Tensor:
    """Return `g` with 0 in place of elements that are not finite."""
    if g.is_complex():
        return torch.view_as_complex(cleaned(torch.view_as_real(g)))
    return g.masked_fill(~is_finite(g), 0)


def either(flags: Iterable[Tensor | None]) -> Tensor | None:
    """Return whether a flag is true, on the device of the first flag; None without flags."""
    result = None
    for flag in flags:
        if flag is not None:
            result = flag if result is None else result | flag.to(result.device)
    return result


def add(count: Tensor | None, flag: Tensor) -> Tensor:
    """Return `count`, plus 1 if `flag` is true, without a synchronization."""
    return flag.long() if count is None else count.add_(flag.to(count.device))  # in place, for captured graphs
