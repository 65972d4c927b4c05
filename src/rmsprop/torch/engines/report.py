"""Report which engine steps which parameters, and why earlier engines do not: text of `RMSprop.implementation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from rmsprop.torch.engines.engine import NOT_ON_CPU, NOT_ON_GPU, Engine, Remaining
from rmsprop.torch.state import ParamGroup

_DEVICES = (NOT_ON_CPU, NOT_ON_GPU)  # reasons of engines that step other devices
# For each engine asked: the engine, how many parameters it took, and the parameters left to the next engine.
Report: TypeAlias = list[tuple[Engine, int, list[Remaining]]]


def expected(engines: Sequence[Engine], groups: list[ParamGroup]) -> Report:
    """Predict the report of a step from groups and parameters alone, before there are gradients and state."""
    remaining = [Remaining(index, list(range(len(group["params"]))), "") for index, group in enumerate(groups)]
    report: Report = []
    for engine in engines:
        left = [each for part in remaining for each in _refused(engine, groups[part.group_index], part)]
        taken = sum(map(_size, remaining)) - sum(map(_size, left))
        report.append((engine, taken, left))
        remaining = left
        if not remaining:
            break
    return report


def _refused(engine: Engine, group: ParamGroup, part: Remaining) -> list[Remaining]:
    """Return the parameters of `part` that an engine refuses, with its reasons."""
    reasons = {i: engine.param_refusal(group["params"][i]) for i in part.indices or ()}
    elsewhere = [i for i, reason in reasons.items() if reason in _DEVICES]
    left = [Remaining(part.group_index, [i], str(reasons[i])) for i in elsewhere]
    if part.reason and elsewhere:  # of an engine before, for all of them
        left = [part._replace(indices=elsewhere)]
    here = [i for i in reasons if i not in elsewhere]
    if (here or not reasons) and (reason := engine.group_refusal(group)):
        return [*left, part._replace(indices=here, reason=reason)]
    return left + [Remaining(part.group_index, [i], reason) for i in here if (reason := reasons[i])]


def _size(part: Remaining) -> int:
    return len(part.indices or ())


def describe(report: Report, groups: list[ParamGroup]) -> str:
    """Return a report as text: "A", "B (why not A)", or "A, but B for some (why not A)".

    If several engines refuse before the next one steps, the reasons that all of them have come first, and each other
    reason follows its engine: "C (group 0: …; not A: …; not B: …)". "It is not on the CPU" is left out where another
    engine has a reason.
    """
    refusals: dict[str, list[Remaining]] = {}  # by engines since the last one that stepped
    texts: list[str] = []
    for engine, taken, left in report:
        left = [part for part in left if part.indices is not None or groups[part.group_index]["params"]]
        if taken or not left:
            text = _why(_remarkable(refusals), whole=not texts)
            texts.append(f"{engine.name}{' for some' if texts else ''}{f' ({text})' if text else ''}")
            refusals = {}
        if not left:
            break
        refusals[engine.name] = left
    return ", but ".join(texts)


def _remarkable(refusals: dict[str, list[Remaining]]) -> dict[str, list[Remaining]]:
    """Return refusals without those for the device alone, of parameters that another engine refuses for a reason."""
    explained = {
        key for parts in refusals.values() for part in parts if part.reason not in _DEVICES for key in _keys(part)
    }
    kept = {
        name: [part for part in parts if part.reason not in _DEVICES or explained.isdisjoint(_keys(part))]
        for name, parts in refusals.items()
    }
    return {name: parts for name, parts in kept.items() if parts}


def _keys(part: Remaining) -> list[tuple[int, int | None]]:
    return [(part.group_index, i) for i in part.indices or (None,)]


def _why(refusals: dict[str, list[Remaining]], *, whole: bool) -> str:
    """Return why the engines refuse: the reasons of all engines, then those of each."""
    first, *others = refusals.values() or [[]]
    shared = [part for part in first if all(part in parts for parts in others)]
    own = {name: [part for part in parts if part not in shared] for name, parts in refusals.items()}
    whole = whole and not (shared and any(own.values()))
    named = [f"not {name}: {_reasons(parts, whole=whole)}" for name, parts in own.items() if parts]
    return "; ".join([*([_reasons(shared, whole=whole)] if shared else []), *named])


def _reasons(parts: list[Remaining], *, whole: bool) -> str:
    """Return the reasons of `parts`, each after its first parameter. With `whole`, a single reason stands alone."""
    wheres: dict[str, list[str]] = {}
    for part in parts:
        wheres.setdefault(part.reason, []).append(part.where)
    if whole and len(wheres) == 1:
        return next(iter(wheres))
    return "; ".join(
        f"{where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {reason}"
        for reason, where in wheres.items()
    )
