"""Find problems in a monitor's records: sentences with cause, evidence and remedy.

    from rmsprop.monitor.findings import find

    for finding in find(monitor.records):
        print(finding)

`find` is a pure function of the records of a run. The run may continue, have ended, or be read back from a file.
`KINDS` lists all kinds of findings. Thresholds are far from the values of healthy runs.

To add a finding, write a function in `gradients`, `steps`, `divisor` or `weight_decay`, and add it to `KINDS`. Then add
a run that provokes the finding to `docs/make/findings.py`: docs/monitor.md and the tests use that run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from rmsprop.errors import InputError, Received
from rmsprop.monitor.findings import divisor, gradients, steps
from rmsprop.monitor.findings.finding import Finding, counted
from rmsprop.monitor.findings.history import History
from rmsprop.monitor.findings.weight_decay import weight_decay
from rmsprop.monitor.record import Record

Check: TypeAlias = Callable[[History], Iterator[Finding]]

# Every kind of finding by name, the gravest first.
KINDS: Mapping[str, Check] = {
    "nonfinite": gradients.nonfinite,
    "spike": gradients.spike,
    "dead rows": gradients.dead_rows,
    "first step": steps.first_step,
    "long steps": steps.long_steps,
    "oscillation": gradients.oscillation,
    "eps": divisor.eps,
    "start": divisor.start,
    "variance floor": divisor.variance_floor,
    "stall": steps.stall,
    "state stall": divisor.state_stall,
    "effective lr": steps.effective_lr,
    "short steps": steps.short_steps,
    "weight decay": weight_decay,
    "clipping": gradients.clipping,
}

_REQUIRED_KEYS = ("step", "groups", "tensors", "gradient_norm")  # keys of every record, old ones included
_MAX_SEPARATE = 3  # findings of one kind that are listed one by one; more are joined


def find(records: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Find the problems in the records of a run: the gravest kind first, each tensor at most once for each kind.

    Parameters
    ----------
    records
        Records of `rmsprop.monitor.Monitor`, `from_optax` or `from_keras`, in the order of their steps. They may be
        read back from JSON. Records of other kinds than "statistics" are ignored.

    Returns
    -------
    list of Finding
        Each has a sentence, its cause, the numbers, the threshold that they passed, and remedies, the surest first. No
        remedy undoes that of a graver finding. If more than three tensors share a kind, one finding describes the worst
        tensor and names others. Empty without problems or records.

    Raises
    ------
    InputError
        If `records` is not a list of records.

    Examples
    --------
    >>> import torch
    >>> from rmsprop.monitor import Monitor
    >>> from rmsprop.torch import RMSprop
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = RMSprop(model.parameters(), eps=1.0)
    >>> monitor = Monitor(optimizer, model, every=1)
    >>> for _ in range(3):
    ...     model(torch.ones(1, 3)).square().sum().mul(1e-3).backward()
    ...     optimizer.step()
    >>> print(find(monitor.records)[0].sentence)
    ε governs 100 % of the elements of weight that have a gradient: you are running SGD there, with rate η/ε = 0.01.
    """
    history = History(_checked(records))
    found = [finding for check in KINDS.values() for finding in _joined(list(check(history)))]
    return consistent(found, cast("Mapping[str, Any]", history.records[0]["groups"][0])) if found else []


def consistent(findings: Sequence[Finding], options: Mapping[str, Any]) -> list[Finding]:
    """Drop changes that undo those of a graver finding; drop a finding that loses all its changes.

    Parameters
    ----------
    findings
        The gravest first.
    options
        Current values, such as the learning rate: they tell whether a change raises or lowers an option.
    """
    raises: dict[str, bool] = {}  # option → whether the gravest finding that changes it raises it
    kept = []
    for finding in findings:
        changes = []
        for change in finding.changes:
            ways = _ways(change, options)
            if all(raises.get(name, way) == way for name, way in ways.items()):
                changes.append(change)
        for change in changes:
            raises = _ways(change, options) | raises
        if changes or not finding.changes:
            kept.append(dataclasses.replace(finding, changes=tuple(changes)))
    return kept


def _ways(change: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether a change raises each numeric option that it sets for all tensors."""
    if "group" in change:
        return {}
    known = {k: x for k in change if isinstance(x := options.get(k), int | float) and x != change[k]}
    return {k: change[k] > x for k, x in known.items()}


def _checked(records: Any) -> list[Record]:
    allowed, remedy = "a list of records", "pass monitor.records, or those read back from JSON"
    if isinstance(records, str | Mapping) or not isinstance(records, Iterable):
        found = Received("a dict") if isinstance(records, Mapping) else records
        raise InputError("records", allowed, found, remedy)
    checked = list(records)
    for record in checked:
        if not isinstance(record, Mapping):
            raise InputError("records", allowed, Received(f"{record!r} among them"), remedy)
        missing = [key for key in _REQUIRED_KEYS if key not in record] if record.get("kind") == "statistics" else []
        if missing:
            raise InputError("records", allowed, Received(f"one without {missing[0]!r}"), remedy)
    return cast("list[Record]", checked)


def _joined(found: list[Finding]) -> list[Finding]:
    """Join findings of one kind, the worst first, into one if there are more than _MAX_SEPARATE."""
    if len(found) <= _MAX_SEPARATE:
        return found
    worst, (second, third), more = found[0], found[1:3], found[3:]
    others = f" The same holds for {second.tensor}, {third.tensor} and {counted(len(more), 'more tensor')}."
    evidence = {**worst.evidence, "also": [f.tensor for f in found[1:]]}
    return [dataclasses.replace(worst, sentence=worst.sentence + others, evidence=evidence)]
