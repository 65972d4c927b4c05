"""How a checkpoint becomes one of another kind: which rule the target will follow, and what its buffers hold."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rmsprop.checkpoint.matching import Move, match, template
from rmsprop.checkpoint.state import AVERAGES, WEIGHTS, Checkpoint, Fields, ParameterState
from rmsprop.profiles import GROUPS, KINDS
from rmsprop.rule import Array, Rule

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Rule)}
# Keys of a group that one library alone knows: how it runs, or an option that no other has.
_LIBRARY_KEYS = {key for groups in GROUPS.values() for key in (*groups.defaults, *groups.optional)}
Change = Callable[[Array], Array]


class Plan:
    """A conversion worked out: `checkpoint`, `notes` on what moved how, and `found`, what stands in the way."""

    def __init__(
        self, source: Checkpoint, to: str, lr: float | None, like: Checkpoint | None, mapping: Mapping[str, Any] | None
    ) -> None:
        self.source, self.to, self.lr, self.like = source, to, lr, like
        self.kind = KINDS[to]
        self.rather = "; rmsprop.torch would follow it exactly" if to in ("torch", "timm", "sb3") else ""
        self.found: list[str] = []
        self.notes: list[str] = list(source.notes)
        if lr is not None and len({group.get("lr") for group in source.groups}) > 1:
            self.found.append(f"group: lr {lr:g} is one rate and the source's groups have several; leave it out")
        if any(p.weight is not None for p in source.parameters) and to in ("tf1", "optax", "rmsprop.jax"):
            self.found.append(
                f"impossible: weights go between files of Keras and PyTorch, and {to} keeps them elsewhere"
            )
        moves = match(source, to, like, mapping or {}, self.found, self.note)
        for move in moves:
            self._say_what_turns(move)
        members: dict[int, list[Move]] = {}
        for move in moves:
            members.setdefault(move.group if self.kind.states_rule else 0, []).append(move)
        # Groups stay as they are, those without parameters, too, unless `like` has its own.
        self.same_groups = like is None and self.kind.states_rule and KINDS[source.kind].states_rule
        count = len(like.groups) if like else len(source.groups) if self.same_groups else 1
        parameters: dict[str, ParameterState] = {}
        groups: list[Fields] = []
        for number in range(count):
            own = members.get(number, [])
            fields, wanted = self._group(number, own)
            change = self._change(fields, own, number) if wanted else None
            groups.append(fields)
            parameters |= {move.target: self._moved(move, number, fields, wanted, change) for move in own}
        self._say_what_differs(groups)
        extras: list[Mapping[str, Any]] = []
        for extra in source.extras if self.same_groups else ():
            extras.append({name: extra[name] for name in extra if to == source.kind or name not in _LIBRARY_KEYS})
        moved = tuple(parameters[move.target] for move in moves)
        self.checkpoint = Checkpoint(to, moved, tuple(groups), tuple(extras))
        unclear = like is None and KINDS[source.kind].ordered != self.kind.ordered and not mapping
        self.mapping = template(source, moves, unclear)

    def note(self, words: str) -> None:
        """Add a note, once."""
        if words not in self.notes:
            self.notes.append(words)

    def note_apart(self, words: str) -> None:
        """Add a note on what makes the target's rule another one."""
        self.note(f"{words}: the state is exact, but the steps after it follow another rule{self.rather}")

    def _say_what_turns(self, move: Move) -> None:
        """Note what the configuration of a Keras model told of one parameter."""
        last = KINDS[self.source.kind].channels_last
        layer = move.state.layer if last else move.wanted.layer if move.wanted else None
        if layer is None or last == self.kind.channels_last:
            return
        for side, sizes in (("inputs", move.turn.inputs), ("outputs", move.turn.outputs)):
            if sizes is not None:
                words = f"{layer}: {side} of {list(sizes)} go between (height, width, channels) and PyTorch's order"
                self.note(f"{words}, channels first")
        if layer.note:
            self.note(layer.note)

    def _group(self, number: int, own: list[Move]) -> tuple[dict[str, Any], bool]:
        """Return what the target's group `number`, which holds `own`, will follow, and whether it has buffers."""
        given = self._given(own, number)
        others = [self.source.groups[i] for i in {move.state.group for move in own}]
        apart = sorted({name for other in others for name in {*given, *other} if given.get(name) != other.get(name)})
        if apart:
            self.found.append(f"group: {', '.join(apart)} differ between parameters that group {number} would hold")
        like = self.like.groups[number] if self.like and number < len(self.like.groups) else {}
        fields = {**like, **given, **self.kind.fixed}
        if self.lr is not None:
            fields["lr"] = self.lr
        has_m = any(move.state.grad_avg is not None for move in own)
        has_b = any(move.state.momentum_buffer is not None for move in own)
        started = any(move.state.square_avg is not None for move in own)
        fields["centered"] = like.get("centered", fields.get("centered", has_m))
        if fields["centered"] and not has_m and started:
            self.found.append("impossible: the target is centered, and the source has no average gradient")
        if has_m and not fields["centered"]:
            self.note_apart("grad_avg is dropped, as the target is not centered")
        if self.to == "tf1":
            wanted = True
        elif self.like:
            there = (p for p in self.like.parameters if p.group == number)
            wanted = bool(like.get("momentum", any(p.momentum_buffer is not None for p in there)))
        else:
            wanted = bool(fields.get("momentum", has_b))
        if has_b and self.source.kind == "tf1" and "momentum" not in given:
            self.note("TensorFlow 1 keeps a momentum slot without momentum, too; say --momentum 0 if there was none")
        if has_b and not wanted:
            fields |= {"momentum": 0.0, "nesterov": False}
            self.note_apart("momentum_buffer is dropped, as the target has no momentum")
        elif wanted and not has_b and started:
            self.note("momentum_buffer starts at 0: the source has none")
            if self.to != "tf1":
                fields.pop("momentum", None)
                fields |= {"momentum": like["momentum"]} if "momentum" in like else {}
        if self.kind.states_rule:
            self._complete(fields, wanted)
        return fields, wanted

    def _given(self, own: list[Move], number: int) -> Fields:
        """Return what the source states for group `number` of the target, which holds `own`."""
        if not own and not self.same_groups:
            return {}
        return self.source.groups[own[0].state.group if own else number]

    def _complete(self, fields: dict[str, Any], wanted: bool) -> None:
        """Fill in what files of this kind have to state; what must be known and is not is a problem."""
        needed = ["lr", "decay", "eps", *(["momentum"] if wanted else [])]
        for name in needed:
            if fields.get(name) is None:
                self.found.append(f"unknown: {name}, which a file of {self.to} states; say --{name}")
        if "eps_inside_sqrt" not in fields:
            self.found.append("unknown: eps_inside_sqrt; say --eps-inside-sqrt or --no-eps-inside-sqrt")
        unused = () if fields.get("bias_correction") else ("initial_square_avg",)  # once there is a state
        unsaid = [name for name in _DEFAULTS if name not in fields and name not in (*unused, *needed)]
        if unsaid:
            words = ", ".join(f"{name}={_DEFAULTS[name]}" for name in unsaid)
            self.note(f"the source does not say, and the file states: {words}")
        fields.update({name: default for name, default in _DEFAULTS.items() if name not in fields})

    def _change(self, fields: Fields, own: list[Move], number: int) -> Change | None:
        """Return what turns the source's momentum buffer into the target's; None if it is copied."""
        buffers = [move.state.momentum_buffer for move in own if move.state.momentum_buffer is not None]
        before, after = self._given(own, number).get("lr_in_momentum"), fields.get("lr_in_momentum")
        lr = fields.get("lr")
        if before == after or not buffers:
            return None
        if before is None:
            self.found.append(
                "unknown: whether the momentum buffer gathers η·u or u; say --lr-in-momentum or the --no- form"
            )
            return None
        if lr is None:
            words = "η·u" if before else "u"
            self.found.append(
                f"unknown: lr, which turns the momentum buffer (a sum of {words}) into the target's; --lr"
            )
            return None
        if lr == 0:
            if any(buffer.any() for buffer in buffers):
                why = "cannot be divided by it" if before else "would be lost"
                self.found.append(f"impossible: at a learning rate of 0 the momentum buffer {why}; say --lr")
            return None
        self.note(
            f"momentum_buffer is {'divided' if before else 'multiplied'} by the learning rate {lr!r}, rounded once; "
            f"steps stay the same while the rate does, and differ once it changes{self.rather}"
        )
        change = operator.truediv if before else operator.mul

        def changed(buffer: Array) -> Array:
            wide = np.complex128 if np.iscomplexobj(buffer) else np.float64
            with np.errstate(over="ignore"):
                result: Array = np.asarray(change(buffer.astype(wide), lr)).astype(buffer.dtype)
            if not np.isfinite(result).all() and np.isfinite(buffer).all():
                self.found.append(f"impossible: the momentum buffer at rate {lr:g} is beyond {buffer.dtype}")
            return result

        return changed

    def _moved(self, move: Move, group: int, fields: Fields, wanted: bool, change: Change | None) -> ParameterState:
        """Return the target's state of one parameter."""
        state = move.state
        values: dict[str, Array | None] = {name: getattr(state, name) for name in (*AVERAGES, *WEIGHTS)}
        v = state.square_avg
        if v is not None:
            if np.iscomplexobj(v) and self.to not in ("torch", "rmsprop.torch"):
                words = "torch keeps the squares of real and imaginary parts apart, as no other kind does"
                self.found.append(f"impossible: {state.name} is complex; {words}")
            if not fields.get("centered"):
                values["grad_avg"] = None
            b = state.momentum_buffer
            if not wanted:
                values["momentum_buffer"] = None
            elif b is None:
                values["momentum_buffer"] = np.zeros_like(v)
            elif change is not None:
                values["momentum_buffer"] = change(b)
        for name, value in values.items():
            if value is None:
                continue
            if not np.isfinite(value).all():
                self.note(f"{name} of {state.name} holds NaN or infinity: the run had diverged")
            value = move.turn.apply(value, KINDS[self.source.kind].channels_last)
            there: Array | None = getattr(move.wanted, name if name in WEIGHTS else "square_avg", None)
            if there is not None and value.dtype != there.dtype:
                if not np.can_cast(value.dtype, there.dtype):
                    self.found.append(f"dtype: {name} of {state.name} is {value.dtype}, of {move.target} {there.dtype}")
                self.note(f"{value.dtype} becomes {there.dtype}, exactly")
                value = value.astype(there.dtype)
            values[name] = value
        layer = move.wanted.layer if move.wanted else None
        more: dict[str, Any] = {"layer": layer, "weight_name": move.weight_name, **values}
        return ParameterState(move.target, step=state.step, group=group, **more)

    def _say_what_differs(self, groups: list[Fields]) -> None:
        """Note where the target's rule is another one, and refuse where it cannot go on at all."""
        to, fixed = self.to, self.kind.fixed
        for given in self.source.groups:
            if given.get("nesterov") and not fixed.get("nesterov", True):
                self.found.append(f"impossible: {to} has no Nesterov momentum")
            if given.get("bias_correction") and not fixed.get("bias_correction", True):
                self.found.append(f"impossible: {to} has no bias correction")
            if given.get("maximize") and not fixed.get("maximize", True):
                self.found.append(f"impossible: {to} cannot maximize; negate the loss and say --no-maximize")
            if given.get("bias_correction") and given.get("initial_square_avg") and to == "optax":
                self.found.append(f"impossible: {to} corrects for a start at 0, not {given['initial_square_avg']!r}")
            if given.get("bias_correction") and self.source.step is None:
                self.found.append("impossible: bias correction needs the number of steps, which the source lacks")
            inside, there = given.get("eps_inside_sqrt"), fixed.get("eps_inside_sqrt")
            if there is not None and inside is not None and inside != there:
                place = {True: "√(v + ε)", False: "√v + ε"}
                self.note_apart(f"{self.source.kind} divides by {place[inside]}, {to} by {place[there]}")
            decoupled, there = given.get("decoupled_weight_decay"), fixed.get("decoupled_weight_decay")
            if given.get("weight_decay") and there is not None and decoupled is not None and decoupled != there:
                way = {True: "shrinks the parameters", False: "adds to the gradient"}
                self.note_apart(f"weight decay {way[decoupled]} in {self.source.kind}, {way[there]} in {to}")
        if not self.kind.states_rule:
            self._say_what_to_set(groups[0])
        steps = {state.step for state in self.source.parameters if state.square_avg is not None}
        if None in steps:
            self.note("the source has no step count")
        elif len(steps) > 1 and not self.kind.states_rule:
            self.note(f"parameters have made different numbers of steps: the largest, {self.source.step}, is written")

    def _say_what_to_set(self, fields: Fields) -> None:
        """Note the hyperparameters that the file does not take along, and those that it has from `like`."""
        like = self.like.groups[0] if self.like else {}
        keras = self.to in ("keras", "rmsprop.keras")
        if keras:
            held = {"lr"} if self.like is None or "lr" in like else set()
        else:  # those of optax.inject_hyperparams
            held = {"lr", "decay", "eps", "momentum"} & like.keys()
        unused = set() if fields.get("bias_correction") else {"initial_square_avg"}  # once there is a state
        names = [name for name in _DEFAULTS if name not in {*self.kind.fixed, *unused, *held}]
        said = ", ".join(f"{name}={fields[name]!r}" for name in names if fields.get(name) is not None)
        self.note(f"to be set in the program that goes on: {said or 'all hyperparameters'}")
        for name in names if keras else ():
            if None not in (fields.get(name), like.get(name)) and fields[name] != like[name]:
                self.note(f"the file keeps {name}={like[name]!r} of --like, the source has {fields[name]!r}: set it")
