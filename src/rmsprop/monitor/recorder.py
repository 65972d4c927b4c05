"""Make the records of a PyTorch optimizer's steps, and the history of each tensor for a post-mortem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rmsprop.monitor import record, torch_record
from rmsprop.monitor.gradient_history import GradientHistory, of_record, of_sums
from rmsprop.monitor.record import Record, TensorRecord
from rmsprop.monitor.ring import Kept
from rmsprop.monitor.statistics import describe

if TYPE_CHECKING:
    from rmsprop.torch import RMSprop
    from rmsprop.torch.observer import ParamKey


class Recorder:
    """Turns what an optimizer measured into records.

    Attributes
    ----------
    samples
        Elements of the newest sampled gradients, to be compared with the step after.
    elements
        Number of elements of each tensor in the newest record; 0 if the number varies, as for sparse gradients.
    """

    def __init__(self, optimizer: RMSprop, model: Any) -> None:
        self._optimizer, self._model = optimizer, model
        self.samples = torch_record.joined(0, {})
        self.elements: dict[ParamKey, int] = {}
        self._names: tuple[list[int], dict[ParamKey, str]] = ([], {})  # sizes of the groups, and the names for them

    def forget(self) -> None:
        """Drop samples and element counts: the optimizer has loaded another state."""
        self.samples = torch_record.joined(0, {})
        self.elements.clear()

    def sample(self, step: int) -> None:
        """Keep samples of the gradients of `step`."""
        self.samples = torch_record.samples(step, self._optimizer.param_groups)

    def names(self) -> dict[ParamKey, str]:
        """Return the name of each parameter."""
        groups = self._optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if sizes != self._names[0]:
            self._names = sizes, torch_record.names_of(groups, self._model)
        return self._names[1]

    def record(
        self,
        step: int,
        keys: Sequence[ParamKey],
        sums: npt.NDArray[np.float64],
        histograms: npt.NDArray[np.int64],
        *,
        nonfinite_steps: int,
        skipped_steps: int,
    ) -> Record:
        """Build the record of a step, and keep samples of its gradients."""
        groups, states, names = self._optimizer.param_groups, self._optimizer.state, self.names()
        before = self.samples
        self.sample(step)
        changes = self.samples.changes(before)
        described = [torch_record.describe_group(group, states) for group in groups]
        tensors: dict[str, TensorRecord] = {}
        for i in sorted(range(len(keys)), key=keys.__getitem__):
            key = group, index = keys[i]
            p, rule = groups[group]["params"][index], described[group]
            elements, is_sparse = torch_record.measured_of(p)
            self.elements[key] = 0 if is_sparse else elements
            has_rows = p.dim() > 1 and not is_sparse
            tensors[names[key]] = {
                "group": group,
                "shape": list(p.shape),
                **torch_record.describe_state(p, states[p]),
                **describe(elements, sums[i], histograms[i], rule["lr"], rule["centered"]),
                **changes.get(key, record.UNKNOWN),
                "dead_rows": torch_record.dead_rows(p, states[p], int(sums[i, record.ZERO])) if has_rows else None,
                "rows": torch_record.local(p).shape[0] if has_rows else None,
            }
        return record.assemble(step, described, tensors, sums, nonfinite_steps, skipped_steps)

    def histories(
        self, records: Sequence[Record], kept: dict[ParamKey, list[tuple[int, Kept]]], now: int
    ) -> list[GradientHistory]:
        """Return the history of each tensor up to step `now`: records first, then the newer sums in `kept`."""
        recorded = {name for record in records for name in record["tensors"]}
        return [
            self._history(key, name, records, kept.get(key, []), now)
            for key, name in self.names().items()
            if key in kept or name in recorded
        ]

    def _history(
        self, key: ParamKey, name: str, records: Sequence[Record], kept: list[tuple[int, Kept]], now: int
    ) -> GradientHistory:
        group = self._optimizer.param_groups[key[0]]
        rule, p = self._optimizer.rule(key[0]), group["params"][key[1]]
        late = now - int(self._optimizer.state.get(p, {}).get("step", 0))  # steps of the run without this tensor
        elements = self.elements[key] if key in self.elements else torch_record.measured_of(p)[0]
        first = kept[0][0] if kept else now + 1
        earlier = [(r["step"], r["tensors"].get(name)) for r in records if r["step"] < first]
        points = [of_record(rule, step - 1 - late, step, tensor) for step, tensor in earlier if tensor is not None]
        points += [of_sums(rule, step - 1 - late, step, elements, sums) for step, sums in kept]
        return GradientHistory(name, group["nonfinite"] == "propagate", points)
