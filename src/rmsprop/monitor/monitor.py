"""`Monitor`: one line in a training loop measures every step of the optimizer."""

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

KEPT_RECORDS = 1000  # records in memory
KEPT_TENSORS = 20_000  # tensors in all records in memory, about 1.5 kB each


class Monitor:
    """Measure what a `rmsprop.torch.RMSprop` does, from the next step until `close`.

    The monitor makes a record on step 1 and on every multiple of `every`. A record is a plain dict with the statistics
    of every tensor that has a gradient; `rmsprop.statistics` defines them. On the other steps, the monitor keeps the
    sums of tensors that the native kernel steps, for `post_mortem`. This costs a few microseconds a step, and about a
    tenth of the kernel's time. With `last=0`, only records and the step before each record are measured.

    Parameters
    ----------
    optimizer
        A `rmsprop.torch.RMSprop`, also inside Lightning's or Accelerate's wrapper.
    model
        The module that is trained. Records take the names of its parameters. Names given to the optimizer take
        precedence. A parameter without a name is called "0.3": group 0, index 3.
    every
        Steps from one record to the next.
    last
        Number of newest steps whose sums are kept for `post_mortem`: 96 bytes for each tensor and step. Earlier steps
        are known by their records only. With 0, all steps are.
    sinks
        Callables that take each record, such as those of `rmsprop.monitor.sinks`. A sink that fails at its first record
        raises, from `optimizer.step()`. A sink that fails later is dropped with a warning: an error could lose hours of
        training.

    Attributes
    ----------
    records
        The first record and the newest ones: at most 1000, and fewer if they would hold more than 20 000 tensors.

    Raises
    ------
    InputError
        If the optimizer is of another class, has an observer or releases its gradients; if the model has none of the
        optimizer's parameters; if an argument is out of range.

    Notes
    -----
    A record is a `rmsprop.monitor.record.Record`::

        {"kind": "statistics", "step": t,
         "groups": [{every field of the group's Rule, "state_dtype", "param_dtype", "stochastic_rounding",
                     "nonfinite"}, ...],
         "tensors": {name: {"group", "shape",
                            "dtype", "state_dtype": of the tensor and of its square_avg,
                            "age": steps of this tensor before this one,
                            what `describe` returns,
                            "gradient_cosine", "sign_flips": against the gradient one step before, by 256 elements,
                            "dead_rows", "rows": None without rows}},
         "gradient_norm", "update_norm": of all tensors together,
         "nonfinite_steps": steps so far that are known to have met a non-finite gradient,
         "skipped_steps": number of nonfinite_steps that were skipped, by nonfinite="skip" or a GradScaler}

    None stands for a value that is unknown or not finite. For a sparse gradient, the touched rows are measured. For a
    DTensor, each rank measures its shard.

    Steps are counted as the optimizer counts them. Skipped steps, steps that raise and steps without any gradient do
    not count. Only one thread may step the optimizer. When the optimizer loads a state, the count continues from the
    step of that state, and records of later steps are dropped. `post_mortem` then knows earlier steps by their records
    only, unless `load_state_dict` follows. A copy of the optimizer has no observer.

    In Lightning, create the monitor in `on_fit_start`, with `self.optimizers()`. With Hugging Face's Trainer, create it
    before the Trainer, or in `on_train_begin(self, args, state, control, model, optimizer, **kwargs)` of a
    `TrainerCallback`. To resume, call `load_state_dict` after the optimizer has loaded its state: in `on_train_start`
    with Lightning, in `on_train_begin` with the Trainer. With Accelerate,
    `accelerator.register_for_checkpointing(monitor)` saves and loads the state.

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
        self._default_levels = (1, 0) if last else (0, 0)  # levels of `wanted` between records
        self._optimizer.watch(self)
        self._load_hook = self._optimizer.register_load_state_dict_post_hook(self._loaded)

    def wanted(self) -> tuple[int, int]:
        """Return what to measure in the next step (see `rmsprop.torch.observer.Observer`)."""
        levels = self._levels(self._counts.begin())
        if levels != self._default_levels:  # a record needs the exact number of its step
            self._counts.sync()
            levels = self._levels(self._counts.step)
        return levels

    def _levels(self, step: int) -> tuple[int, int]:
        since = step % self._every
        if since == 0 or step == 1:
            return 2, 2
        # 1 before a record: a skip is known before gradients are sampled.
        return (1, 0) if since == self._every - 1 else self._default_levels

    def measured(
        self, keys: Sequence[ParamKey], sums: npt.NDArray[np.float64], histograms: npt.NDArray[np.int64] | None, /
    ) -> None:
        """Take the sums and histograms of a step (see `rmsprop.torch.observer.Observer`)."""
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
        record = self._recorder.record(step, keys, sums, histograms, nonfinite_steps=nonfinite, skipped_steps=skipped)
        self.records.append(record)
        allowed = min(KEPT_RECORDS, max(2, KEPT_TENSORS // max(1, len(record["tensors"]))))
        del self.records[1 : max(1, 1 + len(self.records) - allowed)]  # the first record stays
        self._delivery.give(record)

    def skipped(self, keys: Sequence[ParamKey], nonfinite: list[int], /) -> None:
        """Count the step as skipped (see `rmsprop.torch.observer.Observer`)."""
        self._counts.skip()

    def _nonfinite_steps(self) -> int:
        return self._counts.nonfinite(self._ring.nonfinite_steps())

    def _loaded(self, _: Any) -> None:
        self._counts.sync()
        step, nonfinite = torch_record.executed_steps(self._optimizer.state), self._nonfinite_steps()
        self._restart(step, Ring(self._ring.last), nonfinite=nonfinite, skipped=self._counts.skipped)

    def _restart(self, step: int, ring: Ring, *, nonfinite: int, skipped: int) -> None:
        self.records[:] = [record for record in self.records if record["step"] <= step]
        self._recorder.forget()
        self._ring = ring
        self._counts.restart(step, nonfinite=nonfinite, measured=ring.nonfinite_steps(), skipped=skipped)

    def findings(self) -> list[Finding]:
        """Return the problems that the records show: see `rmsprop.monitor.findings`."""
        return find(self.records)

    def post_mortem(self) -> PostMortem | None:
        """Return where the run diverged, or None if no known step shows it: see `rmsprop.monitor.post_mortem`.

        For tensors that the kernel steps, the newest `last` steps are known. For other tensors and earlier steps, only
        records are known. A divergence in the newest `last` steps is found with its step, if gradients rose by a factor
        of 10. An earlier one is located between two records, if gradients rose by a factor of 1000 or were not finite.
        """
        self._counts.sync()
        now = self._counts.executed
        histories = self._recorder.histories(self.records, self._ring.series(), now)
        return post_mortem(histories, now, self._counts.skipped_last, self._ring.last if self._default_levels[0] else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue like an uninterrupted one, as short lists, numbers and strings.

        The resumed run makes the same records, and its `post_mortem` knows the newest `last` steps across the
        interruption. The state holds no records. Findings and a post-mortem of earlier steps need them: read them from
        the file of a sink, and assign them with `monitor.records[:] = ...`.
        """
        self._counts.sync()
        step, samples = self._counts.executed, self._recorder.samples
        of_use = samples.step == step > 0  # the next step is compared with them
        return {
            "step": step,
            "left_out": self._counts.skipped_last,
            "nonfinite_steps": self._nonfinite_steps(),
            "skipped_steps": self._counts.skipped,
            "samples": state_dict.samples_dict(samples) if of_use else None,
            "ring": state_dict.ring_dict(self._ring) if self._default_levels[0] else None,
            "elements": state_dict.elements_list(self._recorder.elements),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; call it after the optimizer has loaded its state.

        Records of later steps are dropped: the load has undone these steps.

        Raises
        ------
        InputError
            If `state` is something else, is truncated, or belongs to a model with other tensors. The monitor is
            unchanged then.
        """
        saved = state_dict.read(state, self._optimizer.param_groups, self._recorder.names(), self._ring.last)
        self._counts.sync()
        self._restart(saved.step, saved.ring, nonfinite=saved.nonfinite_steps, skipped=saved.skipped_steps)
        self._counts.skipped_last = saved.skipped_last
        self._recorder.samples = saved.samples
        self._recorder.elements.update(saved.elements)

    def close(self) -> None:
        """Stop measuring, and close the sinks. Records, findings and post-mortem stay available."""
        if self._optimizer.step_state.observer is self:
            self._optimizer.watch(None)
        self._load_hook.remove()
        self._delivery.close(self.records)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
