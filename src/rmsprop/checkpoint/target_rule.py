"""The target's rule: the fields of its groups, and how they differ from the source's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rmsprop.checkpoint.matching import Move
from rmsprop.checkpoint.state import Checkpoint, Fields, Note, Problem, Remark
from rmsprop.profiles import KINDS, Kind
from rmsprop.rule import Rule

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Rule)}


@dataclass(frozen=True)
class Request:
    """The arguments of `rmsprop.checkpoint.convert`, except the mapping."""

    source: Checkpoint
    to: str
    lr: float | None
    like: Checkpoint | None

    @property
    def origin(self) -> Kind:
        """The source's kind."""
        return KINDS[self.source.kind]

    @property
    def kind(self) -> Kind:
        """The target's kind."""
        return KINDS[self.to]

    @property
    def keeps_groups(self) -> bool:
        """Whether the target keeps the source's groups, including groups without parameters."""
        return self.like is None and self.origin.states_rule and self.kind.states_rule

    @property
    def rather(self) -> str:
        """Advice for notes that later steps differ: rmsprop.torch, if it is an alternative to the target."""
        return "; rmsprop.torch would follow it exactly" if self.to in ("torch", "timm", "sb3") else ""

    def stated(self, members: Sequence[Move], index: int) -> Fields:
        """Return the source's fields for the target's group `index`, which holds `members`."""
        if members:
            return self.source.groups[members[0].state.group]
        return self.source.groups[index] if self.keeps_groups else {}

    def other_rule(self, words: str) -> Note:
        """Return a note that the target follows another rule; `words` say why."""
        return Note(f"{words}: the state is exact, but the steps after it follow another rule{self.rather}")


class TargetGroup(NamedTuple):
    """One parameter group of the target."""

    fields: Fields
    has_buffers: bool
    from_: bool | None  # `lr_in_momentum` of the source
    to: bool | None  # `lr_in_momentum` of the target


def target_group(request: Request, index: int, members: Sequence[Move]) -> tuple[TargetGroup, list[Remark]]:
    """Return the target's group `index`, which holds `members`."""
    to, kind, source = request.to, request.kind, request.source
    stated = request.stated(members, index)
    remarks: list[Remark] = []
    others = [source.groups[i] for i in {move.state.group for move in members}]
    differ = sorted({name for other in others for name in {*stated, *other} if stated.get(name) != other.get(name)})
    if differ:
        remarks.append(Problem(f"group: {', '.join(differ)} differ between parameters that group {index} would hold"))
    like = request.like.groups[index] if request.like and index < len(request.like.groups) else {}
    fields: dict[str, Any] = {**like, **stated, **kind.fixed}
    if request.lr is not None:
        fields["lr"] = request.lr
    has_m = any(move.state.grad_avg is not None for move in members)
    has_b = any(move.state.momentum_buffer is not None for move in members)
    started = any(move.state.square_avg is not None for move in members)
    fields["centered"] = like.get("centered", fields.get("centered", has_m))
    if fields["centered"] and not has_m and started:
        remarks.append(Problem("impossible: the target is centered, and the source has no average gradient"))
    if has_m and not fields["centered"]:
        remarks.append(request.other_rule("grad_avg is dropped, as the target is not centered"))
    has_buffers = _has_buffers(request, index, like, bool(fields.get("momentum", has_b)))
    if has_b and source.kind == "tf1" and "momentum" not in stated:
        words = "TensorFlow 1 keeps a momentum slot without momentum, too; say --momentum 0 if there was none"
        remarks.append(Note(words))
    if has_b and not has_buffers:
        fields |= {"momentum": 0.0, "nesterov": False}
        remarks.append(request.other_rule("momentum_buffer is dropped, as the target has no momentum"))
    elif has_buffers and not has_b and started:
        remarks.append(Note("momentum_buffer starts at 0: the source has none"))
        if to != "tf1":
            fields.pop("momentum", None)
            fields |= {"momentum": like["momentum"]} if "momentum" in like else {}
    if kind.states_rule:
        fields, met = _completed(to, fields, has_buffers)
        remarks += met
    group = TargetGroup(fields, has_buffers, stated.get("lr_in_momentum"), fields.get("lr_in_momentum"))
    if has_buffers and has_b and fields.get("lr") and group.from_ is not None and group.from_ != group.to:
        words = (
            f"momentum_buffer is {'divided' if group.from_ else 'multiplied'} by the learning rate {fields['lr']!r}, "
            f"rounded once; steps stay the same while the rate does, and differ once it changes{request.rather}"
        )
        remarks.append(Note(words))
    return group, remarks


def _has_buffers(request: Request, index: int, like: Fields, momentum: bool) -> bool:
    if request.to == "tf1":
        return True
    if request.like is None:
        return momentum
    counterparts = (p for p in request.like.parameters if p.group == index)
    return bool(like.get("momentum", any(p.momentum_buffer is not None for p in counterparts)))


def _completed(to: str, fields: dict[str, Any], has_buffers: bool) -> tuple[dict[str, Any], list[Remark]]:
    """Fill a group's fields with `Rule`'s defaults where the source does not state them."""
    remarks: list[Remark] = []
    needed = ["lr", "decay", "eps", *(["momentum"] if has_buffers else [])]
    for name in needed:
        if fields.get(name) is None:
            remarks.append(Problem(f"unknown: {name}, which a file of {to} states; say --{name}"))
    if "eps_inside_sqrt" not in fields:
        remarks.append(Problem("unknown: eps_inside_sqrt; say --eps-inside-sqrt or --no-eps-inside-sqrt"))
    unused = () if fields.get("bias_correction") else ("initial_square_avg",)  # no later step depends on it
    unstated = [name for name in _DEFAULTS if name not in fields and name not in (*unused, *needed)]
    if unstated:
        words = ", ".join(f"{name}={_DEFAULTS[name]}" for name in unstated)
        remarks.append(Note(f"the source does not say, and the file states: {words}"))
    return {**_DEFAULTS, **fields}, remarks


def rule_remarks(request: Request, target: Fields) -> Iterator[Remark]:
    """Yield differences between the source's rule and the target's. `target` is the target's first group."""
    source, kind = request.source, request.kind
    for group in source.groups:
        yield from _trait_remarks(request, group)
    if not kind.states_rule:
        yield from _unwritten(request, target)
    steps = {state.step for state in source.parameters if state.square_avg is not None}
    if None in steps:
        yield Note("the source has no step count")
    elif len(steps) > 1 and not kind.states_rule:
        yield Note(f"parameters have made different numbers of steps: the largest, {source.step}, is written")


def _trait_remarks(request: Request, group: Fields) -> Iterator[Remark]:
    """Yield options of a source group that the target lacks or fixes to another value."""
    source, to, fixed = request.source, request.to, request.kind.fixed
    if group.get("nesterov") and not fixed.get("nesterov", True):
        yield Problem(f"impossible: {to} has no Nesterov momentum")
    if group.get("maximize") and not fixed.get("maximize", True):
        yield Problem(f"impossible: {to} cannot maximize; negate the loss and say --no-maximize")
    if group.get("bias_correction"):
        if not fixed.get("bias_correction", True):
            yield Problem(f"impossible: {to} has no bias correction")
        if group.get("initial_square_avg") and to == "optax":
            yield Problem(f"impossible: {to} corrects for a start at 0, not {group['initial_square_avg']!r}")
        if source.step is None:
            yield Problem("impossible: bias correction needs the number of steps, which the source lacks")
    inside, there = group.get("eps_inside_sqrt"), fixed.get("eps_inside_sqrt")
    if None not in (inside, there) and inside != there:
        form = {True: "√(v + ε)", False: "√v + ε"}
        yield request.other_rule(f"{source.kind} divides by {form[bool(inside)]}, {to} by {form[bool(there)]}")
    decoupled, there = group.get("decoupled_weight_decay"), fixed.get("decoupled_weight_decay")
    if group.get("weight_decay") and None not in (decoupled, there) and decoupled != there:
        way = {True: "shrinks the parameters", False: "adds to the gradient"}
        yield request.other_rule(f"weight decay {way[bool(decoupled)]} in {source.kind}, {way[bool(there)]} in {to}")


def _unwritten(request: Request, fields: Fields) -> Iterator[Note]:
    """Yield notes on hyperparameters that the target's file does not hold or keeps from `like`."""
    like = request.like.groups[0] if request.like else {}
    keras = request.kind.format == "keras"
    if keras:
        held = {"lr"} if request.like is None or "lr" in like else set()
    else:  # a tree holds only those of optax.inject_hyperparams
        held = {"lr", "decay", "eps", "momentum"} & like.keys()
    unused = set() if fields.get("bias_correction") else {"initial_square_avg"}  # no later step depends on it
    names = [name for name in _DEFAULTS if name not in {*request.kind.fixed, *unused, *held}]
    values = ", ".join(f"{name}={fields[name]!r}" for name in names if fields.get(name) is not None)
    yield Note(f"to be set in the program that goes on: {values or 'all hyperparameters'}")
    for name in names if keras else ():
        if None not in (fields.get(name), like.get(name)) and fields[name] != like[name]:
            yield Note(f"the file keeps {name}={like[name]!r} of --like, the source has {fields[name]!r}: set it")
