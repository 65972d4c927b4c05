"""`Monitor`: one line in a training loop, and every step of the optimizer is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rmsprop.errors import check_count
from rmsprop.monitor import state_dict, torch_record
from rmsprop.monitor.delivery import Delivery, Sink
from rmsprop.monitor.findings import Finding, find
from rmsprop.monitor.post_mortem import PostMortem, post_mortem
from rmsprop.monitor.record import Record
from rmsprop.monitor.recorder import Recorder
from rmsprop.monitor.ring import Ring
from rmsprop.monitor.step_counts import StepCounts
from rmsprop.monitor.wrappers import watchable

if TYPE_CHECKING:
    from rmsprop.torch.observer import ParamKey

KEPT_RECORDS = 1000  # in memory, and fewer where they are large:
KEPT_TENSORS = 20_000  # in all records together, about 1.5 kB each


class Monitor:
    """Measure what a `rmsprop.torch.RMSprop` does, from the next step on, until `close`.

    On step 1 and every multiple of `every` it makes a record: a plain dict with the statistics of every tensor that has
    a gradient. `rmsprop.statistics` defines them. On the other steps it keeps the sums of the tensors that the native
    kernel steps, for `post_mortem`. That costs a few microseconds a step and, in the kernel, about a tenth of its time.
    With `last=0`, nothing is measured between records.

    Parameters
    ----------
    optimizer
        A `rmsprop.torch.RMSprop`, also inside of Lightning's or Accelerate's wrapper.
    model
        The module whose parameters it steps, for their names. Names given to the optimizer come first. Without a model,
        other parameters are called "0.3", after the index of their group and their own.
    every
        Steps from one record to the next.
    last
        Steps whose sums are kept for `post_mortem`, 96 bytes for each tensor and step; 0 keeps those of records only.
        Of earlier steps, only records are known.
    sinks
        Callables that take each record, for example those of `rmsprop.monitor.sinks`. A sink that fails at its first
        record raises, from `optimizer.step()`. Later, when hours of training could be lost, a failing sink is dropped
        with a warning.

    Attributes
    ----------
    records
        The first record and the newest ones: 1000 in all, fewer where they hold more than 20 000 tensors together.

    Raises
    ------
    InputError
        For another optimizer, for one that is watched already or whose gradients are released, for a model without
        parameters of the optimizer, and for arguments out of range.

    Notes
    -----
    A record is a `rmsprop.monitor.record.Record`::

        {"kind": "statistics", "step": t,
         "groups": [{every field of the group's Rule, "state_dtype", "param_dtype", "stochastic_rounding",
                     "nonfinite"}, ...],
         "tensors": {name: {"group", "shape",
                            "dtype", "state_dtype": how it and its square_avg are stored,
                            "age": steps of this tensor before this one,
                            what `describe` returns,
                            "gradient_cosine", "sign_flips": against the gradient one step before, by 256 elements,
                            "dead_rows", "rows": None without rows}},
         "gradient_norm", "update_norm": of all tensors together,
         "nonfinite_steps": steps so far that are known to have met a gradient that is not finite,
         "skipped_steps": of these, the ones skipped as a whole, for nonfinite="skip" or by a GradScaler}

    None stands for what is not finite or not known. Of a sparse gradient, the rows that it touches are measured. With
    DTensors, each rank measures what it holds.

    Steps are counted as the optimizer counts them. Skipped steps, steps that raise and steps without any gradient do
    not count. One thread steps the optimizer. When the optimizer loads a state, the count goes on from there. Records
    of later steps are dropped, and `post_mortem` knows earlier steps by their records only, unless `load_state_dict`
    follows. A copy of a watched optimizer is not watched.

    Where the line goes in Lightning: `on_fit_start`, with `self.optimizers()`. With Hugging Face's Trainer: in a
    `TrainerCallback`, `on_train_begin(self, args, state, control, model, optimizer, **kwargs)`, or before the Trainer
    is made. Load what `state_dict` returned after the optimizer's own state: in `on_train_start`, in `on_train_begin`.
    With Accelerate, `accelerator.register_for_checkpointing(monitor)` does both.

    Examples
    --------
    >>> import torch
    >>> from rmsprop.monitor import Monitor
    >>> from rmsprop.torch import RMSprop
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = RMSprop(model.parameters(), lr=0.001)
    >>> monitor = Monitor(optimizer, model, every=10)
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(4, 2)).square().mean().backward()
    ...     optimizer.step()
    >>> [record["step"] for record in monitor.records], list(monitor.records[-1]["tensors"])
    ([1, 10, 20], ['weight', 'bias'])
    >>> monitor.post_mortem()
    >>> monitor.close()
    """

    def __init__(
        self,
        optimizer: Any,
        model: Any = None,
        *,
        every: int = 50,
        last: int = 100,
        sinks: Iterable[Sink] = (),
    ) -> None:
        self._every = check_count("every", every, "50 measures one step in fifty, 1 every step")
        last = check_count("last", last, "0 keeps nothing, 100 the sums of the last hundred steps", least=0)
        self._delivery = Delivery(sinks)
        self._optimizer = watchable(optimizer)
        if model is not None:
            torch_record.check_model(self._optimizer.param_groups, model)
        self.records: list[Record] = []
        self._recorder = Recorder(self._optimizer, model)
        self._counts = StepCounts(self._optimizer)
        self._ring = Ring(max(last, 1))
        self._usual = (1, 0) if last else (0, 0)  # what to measure between records
        self._optimizer.watch(self)
        self._loading = self._optimizer.register_load_state_dict_post_hook(self._loaded)

    def wanted(self) -> tuple[int, int]:
        """Tell the optimizer what to measure of the next step (see `rmsprop.torch.observer.Observer`)."""
        levels = self._levels(self._counts.begin())
        if levels is not self._usual:  # the record needs the exact number of its step
            self._counts.sync()
            levels = self._levels(self._counts.step)
        return levels

    def _levels(self, step: int) -> tuple[int, int]:
        since = step % self._every
        if since == 0 or step == 1:
            return 2, 2
        return (1, 0) if since == self._every - 1 else self._usual  # above 0: gradients will be sampled

    def measured(
        self, keys: Sequence[ParamKey], sums: npt.NDArray[np.float64], histograms: npt.NDArray[np.int64] | None, /
    ) -> None:
        """Take what the optimizer measured (see `rmsprop.torch.observer.Observer`)."""
        step = self._counts.end()
        if step is None:
            return
        if keys:
            self._ring.put(step, keys, sums)
        if histograms is not None:
            self._record(step, keys, sums, histograms)
        elif (step + 1) % self._every == 0:
            self._recorder.sample(step)

    def _record(
        self, step: int, keys: Sequence[ParamKey], sums: npt.NDArray[np.float64], histograms: npt.NDArray[np.int64]
    ) -> None:
        nonfinite, skipped = self._nonfinite_steps(), self._counts.skipped
        made = self._recorder.record(step, keys, sums, histograms, nonfinite_steps=nonfinite, skipped_steps=skipped)
        self.records.append(made)
        allowed = min(KEPT_RECORDS, max(2, KEPT_TENSORS // max(1, len(made["tensors"]))))
        del self.records[1 : max(1, 1 + len(self.records) - allowed)]  # the first record stays
        self._delivery.give(made)

    def skipped(self, keys: Sequence[ParamKey], nonfinite: list[int], /) -> None:
        """Take note that the step was skipped (see `rmsprop.torch.observer.Observer`)."""
        self._counts.skip()

    def _nonfinite_steps(self) -> int:
        return self._counts.nonfinite(self._ring.nonfinite_steps())

    def _loaded(self, _: Any) -> None:
        """Go on from the state that the optimizer has loaded."""
        self._counts.sync()
        step, nonfinite = torch_record.executed_steps(self._optimizer.state), self._nonfinite_steps()
        self._restart(step, Ring(self._ring.last), nonfinite=nonfinite, skipped=self._counts.skipped)

    def _restart(self, step: int, ring: Ring, *, nonfinite: int, skipped: int) -> None:
        self.records[:] = [made for made in self.records if made["step"] <= step]
        self._recorder.forget()
        self._ring = ring
        self._counts.restart(step, nonfinite=nonfinite, measured=ring.nonfinite_steps(), skipped=skipped)

    def findings(self) -> list[Finding]:
        """Return what the records say, in words: see `rmsprop.monitor.findings`."""
        return find(self.records)

    def post_mortem(self) -> PostMortem | None:
        """Return where the run diverged, or None if nothing known shows it: see `rmsprop.monitor.post_mortem`.

        The last `last` steps are known of tensors that the kernel steps. Of other tensors, and of earlier steps, only
        records are known. A divergence among the last steps is told with its step, if gradients rose by a factor of 10.
        An earlier one is told between two records, if gradients rose by a factor of 1000 or were not finite.
        """
        self._counts.sync()
        now = self._counts.executed
        histories = self._recorder.histories(self.records, self._ring.series(), now)
        return post_mortem(histories, now, self._counts.skipped_last, self._ring.last if self._usual[0] else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on as an uninterrupted one does: short lists, numbers and strings.

        The resumed run makes the same records, and its `post_mortem` knows the last `last` steps across the
        interruption. The records so far are not in the state. Read them back from a sink that wrote them, and hand them
        over with `monitor.records[:] = ...`, for findings and for a post-mortem of earlier steps.
        """
        self._counts.sync()
        step, samples = self._counts.executed, self._recorder.samples
        of_use = samples.step == step > 0  # to the next step
        return {
            "step": step,
            "left_out": self._counts.skipped_last,
            "nonfinite_steps": self._nonfinite_steps(),
            "skipped_steps": self._counts.skipped,
            "samples": state_dict.samples_dict(samples) if of_use else None,
            "ring": state_dict.ring_dict(self._ring) if self._usual[0] else None,
            "elements": state_dict.elements_list(self._recorder.elements),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, after the optimizer has loaded its own state.

        Records of later steps are dropped: the load has undone these steps.

        Raises
        ------
        InputError
            For anything else, for a state that is cut off, and for one of a model with other tensors. Nothing has
            changed then.
        """
        saved = state_dict.read(state, self._optimizer.param_groups, self._recorder.names(), self._ring.last)
        self._counts.sync()
        self._restart(saved.step, saved.ring, nonfinite=saved.nonfinite_steps, skipped=saved.skipped_steps)
        self._counts.skipped_last = saved.skipped_last
        self._recorder.samples = saved.samples
        self._recorder.elements.update(saved.elements)

    def close(self) -> None:
        """Measure no more, and close the sinks that can be closed. Records, findings and post-mortem stay."""
        if self._optimizer.step_state.observer is self:
            self._optimizer.watch(None)
        self._loading.remove()
        self._delivery.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
