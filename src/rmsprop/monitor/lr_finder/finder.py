"""A learning-rate range test that warms the optimizer's state and restores everything.

    1  warm-up: steps at a rate of 0 fill v, m and b; without them the first steps may be 1/√(1−β) times too large
    2  the rate rises by a constant factor a step; the loss after each step is recorded
    3  step 2 is repeated from the same state, with other orders of the data
    4  everything is restored bit for bit, even after an error

`rmsprop.monitor.lr_finder.curve` judges the losses. Source of the range test: Smith, arXiv:1506.01186 (2015).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmsprop.errors import InputError, Received, check_count, check_number
from rmsprop.monitor.lr_finder import curve
from rmsprop.monitor.lr_finder.curve import Beyond
from rmsprop.monitor.lr_finder.range_test import RETURN_LOSS, STOP, Batches, Steps
from rmsprop.monitor.lr_finder.snapshot import restored
from rmsprop.monitor.lr_finder.warm_start import warm_notes, warm_steps
from rmsprop.monitor.torch_record import check_model
from rmsprop.monitor.wrappers import unwrapped

Listener: TypeAlias = Callable[[int, int], None]

WARM_LIMIT = 500
_RANGE = 10 * curve.ROOM  # least highest/lowest: room on both sides of the lowest loss


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a range test; `str()` gives it as sentences.

    Parameters
    ----------
    lr
        The suggested rate of the group with the largest rate; None if the curve is unclear.
    lrs
        The suggested rates of all parameter groups, which keep the ratios of their rates.
    reason
        The reason, as a sentence.
    notes
        Limits of the test, as sentences.
    rates, losses
        The rates, and for each seed the losses after a step at each rate, until the seed ended.
    curve
        Smoothed losses (see `rmsprop.monitor.lr_finder.curve`): rates, middle, low, high.
    warm_steps
        Number of warm-up steps, at a rate of 0.
    facts
        Numbers behind the reason: the rate of the lowest loss for each seed, the fall, the scatter, the fall that this
        scatter makes by chance, the band.
    beyond
        Without a suggestion: "lower" or "higher" if a rate may lie there, outside the range.
    """

    lr: float | None
    lrs: list[float] | None
    reason: str
    notes: list[str]
    rates: list[float]
    losses: list[list[float]]
    curve: curve.Curve
    warm_steps: int
    facts: dict[str, Any]
    beyond: Beyond | None = None

    def __str__(self) -> str:
        head = "no suggestion" if self.lr is None else f"suggested lr: {self.lr:g}"
        return "\n".join([f"{head}; {self.reason}", *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "curve": {k: x.tolist() for k, x in self.curve._asdict().items()}}


def find_lr(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Batches,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    seeds: int = 3,
    warm: int | None = None,
    listen: Listener = lambda _done, _total: None,
) -> Found:
    """Suggest a learning rate for `optimizer` by a range test, and restore everything afterwards.

    Parameters
    ----------
    model
        The model, trained from its current parameters, in training mode.
    optimizer
        Any of torch's but two: LBFGS needs a closure, and Rprop uses its rate in the first step only. Its parameters,
        groups, hooks and state are used as they are. Inside Lightning's or Accelerate's wrapper, the optimizer itself
        is stepped, without the trainer's clipping, accumulation or loss scaling. To clip, use a hook:
        `optimizer.register_step_pre_hook`. Rates may be floats or Tensors. With several groups, the tested rate is the
        largest one. The other groups keep the ratio of their rates, or of `initial_lr` if a scheduler has set it.
    loss
        (model, batch) → mean loss of the batch, one element. With `maximize`, it is an objective: the test judges and
        shows its negative.
    batches
        A DataLoader or other collection, read again for every seed. Or a function: seed → batches, also a DataLoader.
    lowest, highest, steps
        The rate rises from `lowest` to `highest` in `steps` steps, each by the same factor. `highest` is at least 100
        times `lowest`. `steps` is at least 1 + 8·ln(highest/lowest)/ln 4, so that 8 steps or more raise the rate by a
        factor of 4: 81 from 1e-6 to 1. A seed ends early when its loss is not finite, or when the median of its last 5
        losses is above 4 times the lowest such median, if that is above 0.
    seeds
        Number of repetitions from the same state, with other orders of the data. The global generators, and those of a
        DataLoader, are seeded with 1, 2, …
    warm
        Number of warm-up steps, at a rate of 0. None: 2/(1−β), or 2/(1−μ) if that is more, minus the steps that the
        optimizer has executed, at most 500. With bias correction, as in Adam, only 2/(1−μ) counts, for the average of
        gradients, unless the rule is centered.
    listen
        Called after every step with the number of executed steps and the largest possible number.

    Returns
    -------
    Found
        The suggestion, or the reason for none, and the curves.

    Raises
    ------
    InputError
        If an argument is out of range; if the optimizer cannot be tested or has none of the model's parameters; if
        batches can be read only once; if the loss has no gradient, or is not finite before the rate rises; if a
        parameter has no shape yet.

    Notes
    -----
    The suggestion is for a training at a constant rate, after its start is forgotten. Two settings distort a short test
    but not such a training, so the test switches them off. `initial_square_avg`: v starts at 0, unless the optimizer
    has executed steps, or its `amsgrad` keeps v₀. `lr_in_momentum`: the buffer would hold lower rates of earlier steps.
    (Steps would be up to 2.2 times too short for a momentum of 0.9 and 100 steps.)

    For losses that are normal white noise, a test with one seed suggests a rate in at most 1 of 100 cases. With three
    seeds it hardly ever does (`rmsprop.monitor.lr_finder.curve`).

    Restored bit for bit, even after an error or Ctrl-C: parameters, buffers, gradients, and every other Tensor, array,
    number, container or random generator among the modules' attributes; training mode; the optimizer's state, groups
    and attributes; the global generators of torch (on the CPU and the devices of the parameters), NumPy and Python; the
    attributes of a DataLoader, its samplers and data sets. A note names what is not restored: positions of iterators,
    batches of your own class, and Tensors and arrays of data sets beyond 256 MiB in total. Objects of other classes,
    files, hooks, and iterators returned by a function are not searched. Schedulers are not advanced. A `Monitor` sees
    none of the steps. The copies take twice the memory of model, gradients, state and data set.

    Other finders start with an empty v, set all groups to one rate, smooth with an average that lags, run one seed and
    always give an answer; see docs/lr-finder.md.

    Examples
    --------
    >>> import torch
    >>> from rmsprop.monitor.lr_finder.finder import find_lr
    >>> from rmsprop.torch import RMSprop
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(512, 20)
    >>> data = torch.utils.data.TensorDataset(x, x.sum(dim=1).sign())
    >>> model = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    >>> optimizer = RMSprop(model.parameters(), lr=0.01, alpha=0.9)
    >>> def loss(model, batch):
    ...     inputs, target = batch
    ...     return (model(inputs).squeeze(1) - target).square().mean()
    >>> found = find_lr(model, optimizer, loss, torch.utils.data.DataLoader(data, 32, shuffle=True))
    >>> 0.001 < found.lr < 0.03
    True
    """
    optimizer = unwrapped(optimizer)
    _check_trained(model, optimizer)
    rates = _rates(lowest, highest, steps)
    ascends = _ascends(optimizer)
    if not callable(loss):
        raise InputError("loss", "a function of the model and a batch", loss, RETURN_LOSS)
    check_count("seeds", seeds, "3 is usual")
    _check_batches(batches)
    if warm is not None:
        check_count("warm", warm, "omit warm for the usual number", least=0)
    warm = min(warm_steps(optimizer)[0], WARM_LIMIT) if warm is None else warm
    notes = warm_notes(optimizer, warm)
    with restored(model, optimizer) as before:
        total = warm + seeds * (steps + 1)
        test = Steps(model, optimizer, loss, ascends, batches, before, lambda done: listen(done, total))
        test.warm(warm)
        start = test.snapshot()
        losses = []
        for seed in range(1, seeds + 1):
            start.restore()
            losses.append(test.rise(rates, seed))
    verdict = curve.suggest(rates, losses)
    notes += [*_seed_notes(rates, losses), *_use_notes(optimizer, ascends)]
    return Found(
        lr=verdict.lr,
        lrs=None if verdict.lr is None else [verdict.lr * share for share in test.shares],
        reason=verdict.reason,
        notes=[*notes, *(f"not restored: {x}" for x in before.not_restored)],
        rates=rates.tolist(),
        losses=losses,
        curve=curve.curve(rates, losses),
        warm_steps=warm,
        facts=verdict.facts,
        beyond=verdict.beyond,
    )


def _rates(lowest: float, highest: float, steps: int) -> NDArray[np.float64]:
    """Return the rates of a test, a constant factor apart. Raise InputError if they cannot be judged."""
    low = check_number("lowest", lowest, "1e-6 is usual")
    high = check_number("highest", highest, "1 is usual")
    if low == 0:
        raise InputError("lowest", "above 0", lowest, "1e-6 is usual")
    if high < _RANGE * low * (1 - 1e-9):
        raise InputError("highest", f"at least {_RANGE:g} times lowest", highest, "1e-6 to 1 is usual")
    least = curve.least_steps(low, high)
    remedy = f"take {least} or more, or a narrower range: with fewer from {low:g} to {high:g}, noise looks like a fall"
    check_count("steps", steps, remedy, least=least)
    return np.geomspace(low, high, steps)


def _check_trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise InputError unless `optimizer` trains `model`, with its rate in every step."""
    if not isinstance(model, nn.Module):
        raise InputError("model", "a torch.nn.Module", Received(f"a {type(model).__name__}"), "pass the one to train")
    if not isinstance(optimizer, torch.optim.Optimizer):
        found = Received(f"a {type(optimizer).__name__}")
        raise InputError("optimizer", "a torch.optim.Optimizer", found, "pass the one that trains the model")
    rprop = "uses its rate in the first step only"
    for refused, why in (torch.optim.LBFGS, "needs a closure"), (torch.optim.Rprop, rprop):
        if isinstance(optimizer, refused):
            found = Received(f"{refused.__name__}, which {why}")
            remedy = "use another optimizer: a range test cannot judge this one"
            raise InputError("optimizer", "one that uses its rate in every step, without a closure", found, remedy)
    lazy = [name for name, p in model.named_parameters() if torch.nn.parameter.is_lazy(p)]
    if lazy:
        raise InputError("model", "initialized", Received(f"{lazy[0]} without a shape"), "run one batch through it")
    check_model(optimizer.param_groups, model)


def _check_batches(batches: Batches) -> None:
    """Raise InputError unless `batches` can be read again, or called with a seed."""
    again = isinstance(batches, Iterable) and not isinstance(batches, Iterator)
    found = Received(f"a {type(batches).__name__}")
    if callable(batches) and not isinstance(batches, Iterable):
        again = True
        try:
            inspect.signature(batches).bind(0)
        except TypeError:
            again, found = False, Received("a function that cannot be called with one number")
        except ValueError:  # a built-in function may have no signature
            pass
    if not again:
        remedy = "pass the DataLoader itself, or lambda seed: an_iterator"
        raise InputError("batches", "a collection that can be read again, or a function of a seed", found, remedy)


def _seed_notes(rates: NDArray[np.float64], losses: curve.Losses) -> list[str]:
    notes = []
    if stopped := curve.stops(rates, losses):
        seeds = f"{len(stopped)} of {len(losses)} seeds" if len(losses) > 1 else "the seed"
        notes.append(
            f"{seeds} ended at {', '.join(f'{x:.2g}' for x in stopped)}: the loss was above "
            f"{STOP:g} times its lowest, or not finite; the curve ends at the lowest of these rates"
        )
    if len(losses) == 1:
        notes.append("one seed does not show how much seeds differ")
    elif all(own == losses[0] for own in losses[1:]):
        notes.append("all seeds gave the same losses: the order of the data makes no difference, and there is no band")
    return notes


def _ascends(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer maximizes; raise InputError if only a part of its groups does."""
    ways = {bool(group.get("maximize", False)) for group in optimizer.param_groups}
    if len(ways) > 1:
        found = Received("True in some groups and False in others")
        raise InputError("maximize", "the same in all groups", found, "test the groups one at a time")
    return True in ways


def _use_notes(optimizer: torch.optim.Optimizer, ascends: bool) -> list[str]:
    notes = []
    if ascends:
        notes.append("maximize=True: losses here are minus the objective")
    if any("initial_lr" in group for group in optimizer.param_groups):
        notes.append("a scheduler keeps the rate that it began with: set the rate, then create the scheduler again")
    return notes
