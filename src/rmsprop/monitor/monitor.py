"""`Monitor`: one line in a training loop, and every step of the optimizer is measured."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rmsprop.errors import InputError, check_count
from rmsprop.monitor import record, state_dict, torch_record
from rmsprop.monitor.gradient_history import Series, of_record, of_sums
from rmsprop.monitor.post_mortem import PostMortem, post_mortem
from rmsprop.monitor.ring import Kept, Ring
from rmsprop.monitor.statistics import describe
from rmsprop.monitor.wrappers import watchable

if TYPE_CHECKING:
    from rmsprop.monitor.findings import Finding
    from rmsprop.torch.observer import ParamKey

Record = dict[str, Any]

RECORDS = 1000  # kept in memory, and fewer where they are large:
ENTRIES = 20_000  # tensors in all of them together, some 1.5 kB each


class Monitor:
    """Measure what a `rmsprop.torch.RMSprop` does, from the next step on, until `close`.

    On step 1 and every multiple of `every` it makes a record: a plain dict with the statistics of every tensor that has
    a gradient. What they are, `rmsprop.statistics` defines. On the other steps, those tensors that the native
    kernel steps have their sums kept for `post_mortem`, which costs a few microseconds and, in the kernel, about a
    tenth of its time. With `last=0`, nothing is measured between records.

    Parameters
    ----------
    optimizer
        A `rmsprop.torch.RMSprop`, also inside of Lightning's or Accelerate's wrapper.
    model
        The module whose parameters it steps, for their names. Parameters that were given to the optimizer with names
        have those; others without a model are called "0.3", after their group's number and their own.
    every
        Steps from one record to the next.
    last
        Steps whose sums are kept for `post_mortem`, 96 bytes for each tensor; 0 keeps those of records only. Of what
        began before, records alone tell.
    sinks
        Callables that take each record, for example those of `rmsprop.monitor.sinks`. One that fails at its first
        record raises, from `optimizer.step()`. Later, when hours of training could be lost, it is warned of and called
        no more.

    Attributes
    ----------
    records
        The records so far: the first one and the newest, 1000 in all, or as many as have 20 000 tensors together.

    Raises
    ------
    InputError
        For another optimizer, for one that is watched already or whose gradients are released, for a model without
        parameters of the optimizer, and for arguments out of range.

    Notes
    -----
    A record is::

        {"kind": "statistics", "step": t,
         "groups": [{every field of the group's Rule, "state_dtype", "param_dtype", "stochastic_rounding",
                     "nonfinite"}, ...],
         "tensors": {name: {"group", "shape",
                            "dtype", "state_dtype": how it and its square_avg are stored,
                            "age": steps that it has itself made before this one,
                            what `describe` returns,
                            "gradient_cosine", "sign_flips": against the gradient one step before, by 256 elements,
                            "dead_rows", "rows": None without rows}},
         "gradient_norm", "update_norm": of all tensors together,
         "nonfinite_steps": steps so far that are known to have met a gradient that is not finite,
         "skipped_steps": of these, the ones left out as a whole, for nonfinite="skip" or by a GradScaler}

    None stands for what is not finite or cannot be said. Of a sparse gradient, the statistics are of the rows that it
    touches. With DTensors, they are of what this rank holds.

    Steps are counted as the optimizer counts them: those left out for gradients that are not finite are not, nor those
    that raise, nor those in which no parameter has a gradient. Where the optimizer loads a state, the count goes on
    from there, records of later steps are dropped, and `post_mortem` knows nothing of steps before but their records;
    with `load_state_dict` after it, those that its state holds, too. A copy of a watched optimizer is not watched.

    Where the line goes in Lightning: `on_fit_start`, with `self.optimizers()`. With Hugging Face's Trainer: in a
    `TrainerCallback`, `on_train_begin(self, args, state, control, model, optimizer, **kwargs)`, or before the Trainer
    is made. What `state_dict` returned goes back in after the optimizer's own state: in `on_train_start`, in
    `on_train_begin`; with Accelerate, `accelerator.register_for_checkpointing(monitor)` does both.

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
        sinks: Iterable[Callable[[Record], object]] = (),
    ) -> None:
        self._every = check_count("every", every, "50 measures one step in fifty, 1 every step")
        last = check_count("last", last, "0 keeps nothing, 100 the sums of the last hundred steps", least=0)
        self._sinks = [[sink, False] for sink in _callables(sinks)]  # and whether it has taken a record
        self._optimizer = watchable(optimizer)
        if model is not None:
            torch_record.check_model(self._optimizer.param_groups, model)
        self._model = model
        self.records: list[Record] = []
        self._ring = Ring(max(last, 1))
        self._usual = (1, 0) if last else (0, 0)
        self._step: int | None = None  # t; None: to be read from the optimizer, which may yet load its state
        self._attempts: dict[int, int] = {}  # by thread: the step that it is making or that has failed
        self._since = 0  # steps since the optimizer was asked for those that it has not told of
        self._lock = threading.Lock()
        self._before = torch_record.joined(0, {})  # samples of gradients
        self._names: tuple[list[int], dict[ParamKey, str]] = ([], {})  # and of how many parameters in each group
        self._elements: dict[ParamKey, int] = {}  # as of the last record; 0 where it changes
        self._skipped = 0  # steps left out
        self._left_out = 0  # of these, the last ones in a row
        self._skipped_before = 0  # and those before a state was loaded
        self._nonfinite_before = -int(self._optimizer.nonfinite_steps), 0  # the optimizer's count, and ours
        self._optimizer.watch(self)
        self._loading = self._optimizer.register_load_state_dict_post_hook(self._loaded)

    def wanted(self) -> tuple[int, int]:
        """Tell the optimizer what to measure of the next step (see `rmsprop.torch.observer.Observer`)."""
        thread = get_ident()
        with self._lock:
            if self._step is None:
                self._step = torch_record.steps_made(self._optimizer.state)
            if thread not in self._attempts:  # else it has failed, and this is the same step again
                self._step += 1
            levels = self._levels(self._step)
            if levels is not self._usual:
                self._settle()
                levels = self._levels(self._step)
            self._attempts[thread] = self._step
        return levels

    def _levels(self, step: int) -> tuple[int, int]:
        since = step % self._every
        if since == 0 or step == 1:
            return 2, 2
        return (1, 0) if since == self._every - 1 else self._usual  # above 0: gradients will be sampled

    def measured(
        self, places: Sequence[ParamKey], sums: npt.NDArray[np.float64], histograms: npt.NDArray[np.int64] | None, /
    ) -> None:
        """Take what the optimizer measured (see `rmsprop.torch.observer.Observer`)."""
        made = None
        with self._lock:
            step = self._attempts.pop(get_ident(), None)
            if step is None:  # a state was loaded in this step
                return
            self._since += 1
            if self._optimizer.step_state.unsynced_skips is None:  # else `_settle` will know whether it was left out
                self._left_out = 0
            if places:
                self._ring.put(step, places, sums)
            if histograms is not None:
                made = self._record(step, places, sums, histograms)
            elif (step + 1) % self._every == 0:
                self._before = torch_record.samples(step, self._optimizer.param_groups)
        if made is not None:
            self._give(made)

    def skipped(self, places: Sequence[ParamKey], nonfinite: list[int], /) -> None:
        """Take note that the step was left out (see `rmsprop.torch.observer.Observer`)."""
        with self._lock:
            self._step = self._made()
            self._attempts.pop(get_ident(), None)
            self._skipped += 1
            self._left_out += 1

    def _made(self) -> int:
        """Return how many steps were made; an attempt of this thread that is not known to have been is not counted."""
        if self._step is None:
            self._step = torch_record.steps_made(self._optimizer.state)
        return self._step - (get_ident() in self._attempts)

    def _settle(self) -> None:
        """Take back the steps that devices have left out, which wait to be asked; until now they counted as made."""
        shared, since = self._optimizer.step_state, self._since
        self._since = 0
        if shared.unsynced_skips is None:
            return
        unsynced_skips, shared.unsynced_skips = int(shared.unsynced_skips), None
        self._left_out = self._left_out + unsynced_skips if unsynced_skips == since else 0
        self._skipped += unsynced_skips
        if self._step is not None:
            self._step -= unsynced_skips

    def _loaded(self, _: Any) -> None:
        """Go on from the state that the optimizer has loaded."""
        with self._lock:
            self._forget(torch_record.steps_made(self._optimizer.state))

    def _forget(self, step: int) -> None:
        """Go on from `step`; forget what was known of steps, but for records up to it and how many were not finite."""
        self._settle()
        nonfinite = self._nonfinite_steps()
        self._step = step
        self.records[:] = [made for made in self.records if made["step"] <= step]
        self._ring = Ring(self._ring.last)
        self._attempts.pop(get_ident(), None)
        self._before, self._left_out = torch_record.joined(0, {}), 0
        self._elements.clear()
        self._nonfinite_before = nonfinite - int(self._optimizer.nonfinite_steps), nonfinite - self._skipped

    def _record(
        self,
        step: int,
        places: Sequence[ParamKey],
        sums: npt.NDArray[np.float64],
        histograms: npt.NDArray[np.int64] | None,
    ) -> Record:
        groups, states, names = self._optimizer.param_groups, self._optimizer.state, self._named()
        now = torch_record.samples(step, groups)
        changes, self._before = now.changes(self._before), now
        told = [torch_record.describe_group(group, states) for group in groups]
        described = {}
        for i in sorted(range(len(places)), key=places.__getitem__):
            place = index, number = places[i]
            p, rule = groups[index]["params"][number], told[index]
            elements, is_sparse = torch_record.measured_of(p)
            self._elements[place] = 0 if is_sparse else elements
            has_rows = p.dim() > 1 and not is_sparse
            histogram = None if histograms is None else histograms[i]
            described[names[place]] = {
                "group": index,
                "shape": list(p.shape),
                **torch_record.describe_state(p, states[p]),
                **describe(elements, sums[i], histogram, rule["lr"], rule["centered"]),
                **changes.get(place, record.UNKNOWN),
                "dead_rows": torch_record.dead_rows(p, states[p], int(sums[i, record.ZERO])) if has_rows else None,
                "rows": torch_record.here(p).shape[0] if has_rows else None,
            }
        skipped = self._skipped_before + self._skipped
        made = record.assemble(step, told, described, sums, self._nonfinite_steps(), skipped)
        self.records.append(made)
        allowed = min(RECORDS, max(2, ENTRIES // max(1, len(described))))
        del self.records[1 : max(1, 1 + len(self.records) - allowed)]  # what the first steps did stays
        return made

    def _named(self) -> dict[ParamKey, str]:
        groups = self._optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if sizes != self._names[0]:
            self._names = sizes, torch_record.names_of(groups, self._model)
        return self._names[1]

    def _nonfinite_steps(self) -> int:
        """Return the count of the optimizer or, where it knows less, that of what was measured and skipped."""
        theirs, ours = self._nonfinite_before
        return max(theirs + int(self._optimizer.nonfinite_steps), ours + self._ring.nonfinite_steps() + self._skipped)

    def _give(self, made: Record) -> None:
        for entry in list(self._sinks):
            sink, proven = entry
            try:
                sink(made)
            except Exception as error:
                if not proven:
                    raise
                self._sinks.remove(entry)
                what = f"the sink {sink!r} failed at step {made['step']} and gets no more records"
                warnings.warn(f"rmsprop: {what}: {type(error).__name__}: {error}", stacklevel=2)
            entry[1] = True

    def findings(self) -> list[Finding]:
        """Return what the records say, in words: see `rmsprop.monitor.findings`."""
        from rmsprop.monitor.findings import find

        return find(self.records)

    def post_mortem(self) -> PostMortem | None:
        """Return where the run diverged, or None if nothing known shows it: see `rmsprop.monitor.post_mortem`.

        Where the kernel steps, the last `last` steps are known, of others and before only those with a record. A
        divergence of before is then told by records alone, between two of them, if gradients rose by a factor of 1000
        or were not finite. Asked while it is among the last steps, one by a factor of 10 is told, with its step.
        """
        with self._lock:
            self._settle()
            now = self._made()
            return post_mortem(self._histories(now), now, self._left_out, self._ring.last if self._usual[0] else 0)

    def _histories(self, now: int) -> list[Series]:
        kept = self._ring.series()
        recorded = {name for made in self.records for name in made["tensors"]}
        return [
            self._history(place, name, now, kept.get(place, []))
            for place, name in self._named().items()
            if place in kept or name in recorded
        ]

    def _history(self, place: ParamKey, name: str, now: int, kept: list[tuple[int, Kept]]) -> Series:
        group = self._optimizer.param_groups[place[0]]
        rule, p = self._optimizer.rule(place[0]), group["params"][place[1]]
        late = now - int(self._optimizer.state.get(p, {}).get("step", 0))  # steps that this tensor has not made
        elements = self._elements[place] if place in self._elements else torch_record.measured_of(p)[0]
        first = kept[0][0] if kept else now + 1
        told = [(made["step"], made["tensors"].get(name)) for made in self.records if made["step"] < first]
        points = [of_record(rule, step - 1 - late, step, values) for step, values in told if values is not None]
        points += [of_sums(rule, step - 1 - late, step, elements, sums) for step, sums in kept]
        return Series(name, group["nonfinite"] == "propagate", points)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on as an uninterrupted one does; short lists, numbers and strings.

        It makes the same records then, and its `post_mortem` knows the last `last` steps across the interruption. The
        records so far are not in it: a sink that writes them has them, and `monitor.records[:] = ...` hands them back,
        for findings and for a post-mortem of what was before.
        """
        with self._lock:
            self._settle()
            step, samples = self._made(), self._before
            return {
                "step": step,
                "left_out": self._left_out,
                "nonfinite_steps": self._nonfinite_steps(),
                "skipped_steps": self._skipped_before + self._skipped,
                "samples": state_dict.samples_dict(samples)
                if samples.step == step > 0
                else None,  # of use to the next one
                "ring": state_dict.ring_dict(self._ring) if self._usual[0] else None,
                "elements": state_dict.elements_list(self._elements),
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, with the optimizer that has loaded its own state.

        Records of later steps, which are undone by that, are dropped.

        Raises
        ------
        InputError
            If it is something else or not whole, or of a model with other tensors; nothing has changed then.
        """
        saved = state_dict.read(state, self._optimizer.param_groups, self._named(), self._ring.last)
        with self._lock:
            self._forget(saved.step)
            self._before, self._ring, self._left_out = saved.samples, saved.ring, saved.left_out
            self._elements.update(saved.elements)
            ours = saved.nonfinite_steps - saved.ring.nonfinite_steps() - self._skipped
            self._nonfinite_before = saved.nonfinite_steps - int(self._optimizer.nonfinite_steps), ours
            self._skipped_before = saved.skipped_steps - self._skipped

    def close(self) -> None:
        """Measure no more, and close the sinks that can be closed; records, findings and post-mortem stay."""
        if self._optimizer.step_state.observer is self:
            self._optimizer.watch(None)
        self._loading.remove()
        sinks, self._sinks = self._sinks, []
        for sink, _ in sinks:
            if callable(getattr(sink, "close", None)):
                sink.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _callables(sinks: Any) -> list[Any]:
    found = list(sinks) if isinstance(sinks, Iterable) else [None]
    if all(map(callable, found)):
        return found
    remedy = "write sinks=[...], also for one; rmsprop.monitor.sinks has some, such as JSONL(path)"
    raise InputError("sinks", "callables that take a record, in a list", sinks, remedy)
