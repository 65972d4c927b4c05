"""Report which engine steps which parameters, and why earlier engines do not: text of `RMSprop.implementation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from rmsprop.torch.engines.engine import Engine, Remaining
from rmsprop.torch.state import ParamGroup

# For each engine asked: the engine, how many parameters it took, and the parameters left to the next engine.
Report: TypeAlias = list[tuple[Engine, int, list[Remaining]]]


def expected(engines: Sequence[Engine], groups: list[ParamGroup]) -> Report:
    """Predict the report of a step from groups and parameters alone, before there are gradients and state."""
    remaining = [Remaining(index, list(range(len(group["params"]))), "") for index, group in enumerate(groups)]
    report: Report = []
    for engine in engines:
        left = []
        for part in remaining:
            group, indices = groups[part.group_index], part.indices or []
            if reason := engine.group_refusal(group):
                left.append(part._replace(reason=reason))
                continue
            reasons = [(i, engine.param_refusal(group["params"][i])) for i in indices]
            left += [Remaining(part.group_index, [i], reason) for i, reason in reasons if reason]
        taken = sum(map(_size, remaining)) - sum(map(_size, left))
        report.append((engine, taken, left))
        remaining = left
        if not remaining:
            break
    return report


def _size(part: Remaining) -> int:
    return len(part.indices or ())


def describe(report: Report, groups: list[ParamGroup]) -> str:
    """Return a report as text: "A", "B (why not A)", or "A, but B for some (why not A)"."""
    asked: list[Remaining] = []
    words: list[str] = []
    for position, (engine, taken, left) in enumerate(report):
        left = [part for part in left if part.indices is not None or groups[part.group_index]["params"]]
        if taken or not left:
            reasons = _reasons(asked, whole=not words)
            words.append(f"{engine.name}{' for some' if words else ''}{f' ({reasons})' if position else ''}")
        if not left:
            break
        asked = left
    return ", but ".join(words)


def _reasons(parts: list[Remaining], *, whole: bool) -> str:
    """Return the reasons of `parts`, each after its first place. With `whole`, a single reason stands alone."""
    where: dict[str, list[str]] = {}
    for part in parts:
        where.setdefault(part.reason, []).append(part.where)
    if whole and len(where) == 1:
        return next(iter(where))
    return "; ".join(
        f"{places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''}: {reason}"
        for reason, places in where.items()
    )
