"""The target's rule: the fields of its groups, and how they differ from the source's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rmsprop.checkpoint.bias_correction import differences
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
    def source_kind(self) -> Kind:
        """The source's kind."""
        return KINDS[self.source.kind]

    @property
    def target_kind(self) -> Kind:
        """The target's kind."""
        return KINDS[self.to]

    @property
    def keeps_groups(self) -> bool:
        """Whether the target keeps the source's groups, including groups without parameters."""
        return self.like is None and self.source_kind.states_rule and self.target_kind.states_rule

    @property
    def exact_alternative(self) -> str:
        """Advice for notes that later steps differ: rmsprop.torch, if it is an alternative to the target."""
        if self.to not in ("torch", "timm", "sb3"):
            return ""
        differ = any(differences(self.source, "rmsprop.torch", group) for group in self.source.groups)
        return "" if differ else "; --to rmsprop.torch follows it exactly"

    @property
    def always_buffers(self) -> bool:
        """Whether the target keeps a momentum buffer without momentum, too."""
        return self.to == "tf1" or bool(self.target_kind.fixed.get("first_moment"))

    def stated(self, members: Sequence[Move], index: int) -> Fields:
        """Return the source's fields for the target's group `index`, which holds `members`."""
        if members:
            return self.source.groups[members[0].state.group]
        return self.source.groups[index] if self.keeps_groups else {}

    def other_rule(self, words: str) -> Note:
        """Return a note that the target follows another rule; `words` say why."""
        return Note(f"{words}: the state is exact, but the steps after it follow another rule{self.exact_alternative}")


class TargetGroup(NamedTuple):
    """One parameter group of the target."""

    fields: Fields
    has_buffers: bool
    same_momentum: bool  # whether source and target agree on first_moment
    from_: bool | None  # `lr_in_momentum` of the source
    to: bool | None  # `lr_in_momentum` of the target


def target_group(request: Request, index: int, members: Sequence[Move]) -> tuple[TargetGroup, list[Remark]]:
    """Return the target's group `index`, which holds `members`."""
    to, kind, source = request.to, request.target_kind, request.source
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
    unused = bool(stated.get("first_moment")) and stated.get("momentum") == 0  # no step depends on the buffer
    has_b = any(move.state.momentum_buffer is not None for move in members) and not unused
    started = any(move.state.square_avg is not None for move in members)
    fields["centered"] = like.get("centered", fields.get("centered", has_m))
    if fields["centered"] and not has_m and started:
        remarks.append(Problem("impossible: the target is centered, and the source has no average gradient"))
    if has_m and not fields["centered"]:
        remarks.append(request.other_rule("grad_avg is dropped, as the target is not centered"))
    same_momentum = bool(stated.get("first_moment")) == bool(fields.get("first_moment"))
    if has_b and not same_momentum:
        averaged = "averages gradients" if stated.get("first_moment") else "sums updates"
        remarks.append(request.other_rule(f"momentum_buffer is dropped, as it {averaged}"))
        has_b = False
        # β₁ of Adam is no momentum of RMSprop, nor the other way.
        fields |= {"momentum": like.get("momentum", 0.0), "nesterov": like.get("nesterov", False), **kind.fixed}
    if fields.get("amsgrad") and not stated.get("amsgrad") and started:
        remarks.append(Note("max_square_avg starts at square_avg: the source has none"))
    if stated.get("amsgrad") and not fields.get("amsgrad"):
        remarks.append(request.other_rule("max_square_avg is dropped, as the target divides by square_avg"))
    has_buffers = _has_buffers(request, index, like, bool(fields.get("momentum", has_b)))
    if has_b and source.kind == "tf1" and "momentum" not in stated:
        words = "TensorFlow 1 keeps a momentum slot without momentum, too; pass --momentum 0 if there was none"
        remarks.append(Note(words))
    if has_b and not has_buffers:
        fields |= {"momentum": 0.0, "nesterov": False}
        remarks.append(request.other_rule("momentum_buffer is dropped, as the target has no momentum"))
    elif has_buffers and not has_b and started and not unused:
        remarks.append(Note("momentum_buffer starts at 0: the source has none"))
        if not request.always_buffers:
            fields.pop("momentum", None)
            fields |= {"momentum": like["momentum"]} if "momentum" in like else {}
    if kind.states_rule:
        fields, rule_notes = _completed(to, fields, has_buffers)
        remarks += rule_notes
    group = TargetGroup(fields, has_buffers, same_momentum, stated.get("lr_in_momentum"), fields.get("lr_in_momentum"))
    if has_buffers and has_b and fields.get("lr") and group.from_ is not None and group.from_ != group.to:
        words = (
            f"momentum_buffer is {'divided' if group.from_ else 'multiplied'} by the learning rate {fields['lr']!r}, "
            f"rounded once; steps are the same while the rate is constant{request.exact_alternative}"
        )
        remarks.append(Note(words))
    return group, remarks


def _has_buffers(request: Request, index: int, like: Fields, momentum: bool) -> bool:
    if request.always_buffers:
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
            remarks.append(Problem(f"unknown: {name}, which a file of {to} states; pass --{name}"))
    if "eps_inside_sqrt" not in fields:
        remarks.append(Problem("unknown: eps_inside_sqrt; pass --eps-inside-sqrt or --no-eps-inside-sqrt"))
    unused = () if fields.get("bias_correction") else ("initial_square_avg",)  # no later step depends on it
    unstated = [name for name in _DEFAULTS if name not in fields and name not in (*unused, *needed)]
    if unstated:
        words = ", ".join(f"{name}={_DEFAULTS[name]}" for name in unstated)
        remarks.append(Note(f"the source does not say, and the file states: {words}"))
    return {**_DEFAULTS, **fields}, remarks


def rule_remarks(request: Request, target: Fields) -> Iterator[Remark]:
    """Yield differences between the source's rule and the target's. `target` is the target's first group."""
    source, kind = request.source, request.target_kind
    for group in source.groups:
        yield from _trait_remarks(request, group)
    if not kind.states_rule:
        yield from _hyperparameter_notes(request, target)
    steps = {state.step for state in source.parameters if state.square_avg is not None}
    if None in steps:
        yield Note("the source has no step count")
    elif len(steps) > 1 and not kind.states_rule:
        yield Note(f"parameters have different step counts: the largest, {source.step}, is written")


def _trait_remarks(request: Request, group: Fields) -> Iterator[Remark]:
    """Yield options of a source group that the target lacks or fixes to another value."""
    source, to, fixed = request.source, request.to, request.target_kind.fixed
    drops_momentum = bool(group.get("first_moment")) and not fixed.get("first_moment", True)
    decay, there = group.get("momentum_decay"), fixed.get("momentum_decay")
    if decay and there == 0 and not drops_momentum:
        yield Problem(f"impossible: {to} has no schedule of momentum")
    if there and group.get("first_moment") and decay not in (None, there):
        yield Problem(f"impossible: {to} has momentum_decay={there!r}, not {decay!r}")
    if to == "nadam" and not group.get("momentum_decay"):
        yield Problem("impossible: torch.optim.NAdam halves a momentum without schedule")
    if group.get("nesterov") and not drops_momentum and not fixed.get("nesterov", True):
        yield Problem(f"impossible: {to} has no Nesterov momentum")
    if group.get("maximize") and not fixed.get("maximize", True):
        yield Problem(f"impossible: {to} cannot maximize; negate the loss and pass --no-maximize")
    if group.get("bias_correction"):
        if not fixed.get("bias_correction", True):
            yield (
                _without_bias_correction(request, group)
                if drops_momentum
                else Problem(f"impossible: {to} has no bias correction")
            )
        if group.get("initial_square_avg") and (to == "optax" or fixed.get("first_moment")):
            yield Problem(f"impossible: {to} corrects for a start at 0, not {group['initial_square_avg']!r}")
        if source.step is None:
            yield Problem("impossible: bias correction needs the number of steps, which the source lacks")
        yield from map(request.other_rule, differences(source, to, group))
    elif group.get("bias_correction") is False and fixed.get("bias_correction"):
        yield request.other_rule(f"{to} has bias correction, {source.kind} none")
    inside, there = group.get("eps_inside_sqrt"), fixed.get("eps_inside_sqrt")
    if None not in (inside, there) and inside != there:
        form = {True: "√(v + ε)", False: "√v + ε"}
        yield request.other_rule(f"{source.kind} divides by {form[bool(inside)]}, {to} by {form[bool(there)]}")
    decoupled, there = group.get("decoupled_weight_decay"), fixed.get("decoupled_weight_decay")
    if group.get("weight_decay") and None not in (decoupled, there) and decoupled != there:
        way = {True: "shrinks the parameters", False: "adds to the gradient"}
        yield request.other_rule(f"weight decay {way[bool(decoupled)]} in {source.kind}, {way[bool(there)]} in {to}")


def _without_bias_correction(request: Request, group: Fields) -> Remark:
    """Return what changes when v is read as it is, and not divided by 1 − βᵗ."""
    if not request.source.step:
        return Problem(f"impossible: {request.to} has no bias correction, and the source no step count")
    factor = (1 - group["decay"] ** request.source.step) ** 0.5
    return request.other_rule(f"{request.to} has no bias correction: √v is {factor:.4g} times as large as √v̂")


def _hyperparameter_notes(request: Request, fields: Fields) -> Iterator[Note]:
    """Yield notes on hyperparameters that the target's file does not hold or keeps from `like`."""
    like = request.like.groups[0] if request.like else {}
    keras = request.target_kind.format == "keras"
    if keras:
        held = {"lr"} if request.like is None or "lr" in like else set()
    else:  # a tree holds only those of optax.inject_hyperparams
        held = {"lr", "decay", "eps", "momentum"} & like.keys()
    unused = set() if fields.get("bias_correction") else {"initial_square_avg"}  # no later step depends on it
    names = [name for name in _DEFAULTS if name not in {*request.target_kind.fixed, *unused, *held}]
    values = ", ".join(f"{name}={fields[name]!r}" for name in names if fields.get(name) is not None)
    yield Note(f"to be set in the program that continues: {values or 'all hyperparameters'}")
    for name in names if keras else ():
        if None not in (fields.get(name), like.get(name)) and fields[name] != like[name]:
            yield Note(f"the file keeps {name}={like[name]!r} of --like, the source has {fields[name]!r}: set it")
