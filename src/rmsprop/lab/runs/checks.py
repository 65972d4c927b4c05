"""Check the contents of a run's files against their types.

Code that reads a run relies on the checks. Fields without a type are accepted: they are only shown, or another version
wrote them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from rmsprop.errors import InputError, Received
from rmsprop.lab.runs.schema import (
    CompareConfig,
    CompareSummary,
    Count,
    EpochRecord,
    FinalRow,
    LossRecord,
    Size,
    TrainConfig,
    TrainedRule,
    TrainSummary,
    TrialRow,
    TuneConfig,
    TuneSummary,
)
from rmsprop.lab.runs.typed_json import NOT_EMPTY, checker
from rmsprop.rule import Rule

_FIELDS = {field.name for field in dataclasses.fields(Rule)}


class _Rates(TypedDict):
    lr: Size
    first: int
    counts: Annotated[list[Count], NOT_EMPTY]


class _Tensor(TypedDict):
    group: Count
    shape: list[Count]
    elements: Count
    gradient_rms: Size | None
    update_rms: Size | None
    parameter_rms: Size | None
    update_ratio: Size | None
    history_rms: NotRequired[Size | None]
    largest_update: NotRequired[Size | None]
    eps_share: Size | None
    floor_share: NotRequired[Size | None]
    nonfinite: Count
    zero_gradient_share: Size | None
    unchanged_share: NotRequired[Size | None]
    signal_to_noise: NotRequired[float | None]
    effective_lr: _Rates | None
    effective_lr_median: Size | None
    gradient_cosine: NotRequired[float | None]
    sign_flips: NotRequired[Size | None]
    dead_rows: NotRequired[Count | None]
    rows: NotRequired[Count | None]
    age: NotRequired[Count | None]
    dtype: NotRequired[str]
    state_dtype: NotRequired[str]


class _Group(TrainedRule):
    state_dtype: NotRequired[str]
    param_dtype: str
    stochastic_rounding: bool
    nonfinite: NotRequired[str]


class _Statistics(TypedDict):
    kind: Literal["statistics"]
    step: Count
    groups: Annotated[list[_Group], NOT_EMPTY]
    tensors: dict[str, _Tensor]
    gradient_norm: Size | None
    update_norm: NotRequired[Size | None]
    nonfinite_steps: NotRequired[Count]
    skipped_steps: NotRequired[Count]


_CONFIGS = {"train": checker(TrainConfig), "compare": checker(CompareConfig), "tune": checker(TuneConfig)}
_SUMMARIES = {"train": checker(TrainSummary), "compare": checker(CompareSummary), "tune": checker(TuneSummary)}
_RECORDS = {
    ("train", "kind"): {"loss": checker(LossRecord), "epoch": checker(EpochRecord)},
    ("compare", "stage"): {"tune": checker(TrialRow), "final": checker(FinalRow)},
}
_STATISTICS = checker(_Statistics)


def check_config(value: dict[str, Any], where: str) -> None:
    """Raise InputError unless `value` is a valid run.json."""
    _of_kind(_CONFIGS, value, "kind", where)
    _check_rule(value["rule"], "rule", where)
    unknown = sorted(set(value["rule"]) - _FIELDS)
    if unknown:
        _refuse(where, f"rule.{unknown[0]}", "omitted", value["rule"][unknown[0]])


def check_summary(value: dict[str, Any], kind: str, where: str) -> None:
    """Raise InputError unless `value` is a valid summary.json of a run of `kind`."""
    _SUMMARIES[kind](value, where)
    if kind == "compare" and "RMSprop" not in [score["optimizer"] for score in value["scores"]]:
        _refuse(where, "scores", "a list with RMSprop's", Received("one without"))
    if value.get("reason") == "validation not finite" and "lost_epoch" not in value:
        _refuse(where, "lost_epoch", "given with this reason", Received("none"))
    for number, score in enumerate(value.get("scores", [])):
        if score["interval"] is not None and score["difference"] is None:
            _refuse(where, f"scores.{number}.difference", "a number beside its interval", None)


def check_record(value: dict[str, Any], kind: str, where: str) -> None:
    """Raise InputError unless `value` is a valid line of records.jsonl of a run of `kind`."""
    field = "kind" if kind == "train" else "stage"
    _of_kind(_RECORDS[kind, field], value, field, where)
    if kind == "compare" and not value["diverged"]:
        for name in ("validation_loss", "validation_metric", "test_metric", "loss_curve", "validation_curve"):
            lost = name in value and value[name] in (None, [])
            if lost or any(None in point for point in _points(value.get(name))):
                _refuse(where, name, "present and without null if diverged is false", Received("null or nothing"))


def _points(value: Any) -> list[list[float | None]]:
    return value if isinstance(value, list) else []


def check_statistics(value: dict[str, Any], where: str) -> None:
    """Raise InputError unless `value` is a valid line of statistics.jsonl."""
    _STATISTICS(value, where)
    for number, group in enumerate(value["groups"]):
        _check_rule(group, f"groups.{number}", where)
    for name, tensor in value["tensors"].items():
        if tensor["group"] >= len(value["groups"]):
            _refuse(where, f"tensors.{name}.group", f"below {len(value['groups'])}", tensor["group"])


def _check_rule(values: dict[str, Any], field: str, where: str) -> None:
    try:
        Rule(**{name: value for name, value in values.items() if name in _FIELDS})
    except InputError as error:
        _refuse(where, f"{field}.{error.name}", error.allowed, error.value)


def _of_kind(kinds: dict[str, Callable[[Any, str], None]], value: dict[str, Any], field: str, where: str) -> None:
    kind = value.get(field, Received("none"))
    if not isinstance(kind, str) or kind not in kinds:
        _refuse(where, field, f"one of {', '.join(kinds)}", kind)
    kinds[kind](value, where)


def _refuse(where: str, field: str, allowed: str, value: object) -> None:
    raise InputError(f"{field} in {where}", allowed, value, "restore the file from a copy, or start a new run")
