"""States of JAX optimizers as trees: the chains of optax.rmsprop and optax.adam, and RMSpropState of rmsprop.jax.

optax        …/nu; …/mu if centered; …/count with bias correction; …/trace = −M with momentum
optax-adam   …/count, …/mu, …/nu; …/nu_max = max v̂ with amsgrad
rmsprop.jax  …/step, …/square_avg, …/grad_avg, …/momentum_buffer
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.checkpoint.formats.checkpoint_file import CheckpointFile
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.step_count import read_step, step_array
from rmsprop.checkpoint.formats.trees import Tree, read_tree, tree_bytes
from rmsprop.checkpoint.state import Checkpoint, Fields, ParameterState, agreed_fields
from rmsprop.checkpoint.tree_paths import Keys, keys_of, name_of
from rmsprop.errors import InputError, Received
from rmsprop.files import write_atomically
from rmsprop.hyperparameters import HYPERPARAMETERS
from rmsprop.profiles import KINDS
from rmsprop.rule import AVERAGES, Array

# {average: the node that holds it}; then the node that holds t.
_NODES = {
    "optax": {"square_avg": "nu", "grad_avg": "mu", "momentum_buffer": "trace"},
    "optax-adam": {"square_avg": "nu", "momentum_buffer": "mu", "max_square_avg": "nu_max"},
    "rmsprop.jax": {name: name for name in AVERAGES},
}
_COUNT = {"optax": "count", "optax-adam": "count", "rmsprop.jax": "step"}
_FOREIGN = {"optax": "nu_max", "optax-adam": "trace"}  # nodes of other optimizers that share the rest
# What files do not state: optax's own default.
_DEFAULTS: dict[str, Fields] = {
    "optax": {"eps_inside_sqrt": True, "nesterov": False},
    "optax-adam": {"nesterov": False, "decoupled_weight_decay": True},
    "rmsprop.jax": {},
}
_STATE = {node for nodes in _NODES.values() for node in nodes.values()}
# The chain of optax.rmsprop: 0 scaling, 1 learning rate (no state), 2 trace (no state without momentum).
# That of optax.adam: 0 scaling, then weight decay, if any, and learning rate (both without state).
_CHAIN: dict[str, Keys] = {
    **{node: ("0", node) for node in ("nu", "mu", "nu_max", "count")}, "trace": ("2", "trace"),
}  # fmt: skip
_INJECTED = {
    "learning_rate": "lr",
    **{name: name for name in ("decay", "eps", "momentum", "weight_decay", "initial_square_avg")},
}


class TreeFile(CheckpointFile):
    """A file with a tree of arrays."""

    endings = (".npz", ".msgpack", ".safetensors")

    def __init__(self, path: Path, budget: ReadBudget) -> None:
        super().__init__(path, budget)
        self._tree = read_tree(path, budget)

    def state(self, kind: str | None, given: Fields) -> Checkpoint:
        """Return the state of the one RMSprop or Adam in the tree."""
        path, tree = self.path, self._tree
        nodes = {"rmsprop.jax": "square_avg", "optax-adam": "nu_max", "optax": "nu"}
        kind = kind or next((kind for kind, node in nodes.items() if _prefixes(tree, node)), None)
        if kind is None:
            received = Received(f"one with {', '.join('/'.join(keys) for keys in list(tree)[:4])}")
            raise InputError(str(path), "a tree with nu (optax) or square_avg (rmsprop.jax)", received, "save it")
        averages = {name: leaves for name, node in _NODES[kind].items() if (leaves := _leaves(path, tree, node))}
        v = averages.get("square_avg", {})
        if not v or any(leaves.keys() != v.keys() for leaves in averages.values()):
            received = Received("a tree whose averages have different parameters, or none")
            raise InputError(str(path), f"the state of {KINDS[kind].title}", received, "check --from")
        counts = self._counts(kind, averages.keys())
        found = {each.name: each.average in averages for each in HYPERPARAMETERS.values() if each.average}
        stated = {**found, "momentum": None if found["momentum"] else 0.0}
        stated |= {**KINDS[kind].fixed, **self._injected_values(kind)}
        if kind == "optax":
            stated["bias_correction"] = bool(counts)
            if counts:
                stated["initial_square_avg"] = 0.0  # assumed by its correction, whatever initial_scale was
        fields = {**_DEFAULTS[kind], **agreed_fields(path, stated, given)}
        counts = counts or _counts(tree, kind)
        step = max((read_step(name_of(keys), tree[keys]) for keys in counts), default=None)
        if kind == "optax":
            averages |= {"momentum_buffer": {keys: -b for keys, b in averages.get("momentum_buffer", {}).items()}}
        parameters = []
        for keys in v:
            arrays: dict[str, Any] = {name: leaves[keys] for name, leaves in averages.items() if leaves}
            parameters.append(ParameterState(name_of(keys), step=step, **arrays))
        return Checkpoint(kind, tuple(parameters), (fields,))

    def _counts(self, kind: str, averages: Collection[str]) -> list[Keys]:
        """Return the keys of the counts beside v; raise InputError for the state of an optimizer that is not `kind`."""
        scalings = _prefixes(self._tree, _NODES[kind]["square_avg"])
        counts = [keys for prefix in scalings if (keys := (*prefix, _COUNT[kind])) in self._tree]
        foreign = kind in _FOREIGN and _prefixes(self._tree, _FOREIGN[kind])
        lacking = kind == "optax-adam" and not ("momentum_buffer" in averages and len(counts) == len(scalings))
        if foreign or lacking:
            nodes = sorted(node for node in _STATE if _prefixes(self._tree, node))
            received = Received(f"another optimizer's, of {', '.join(nodes)}")
            raise InputError(str(self.path), f"the state of {KINDS[kind].title}", received, "check --from")
        return counts

    def write_changed(self, checkpoint: Checkpoint, target: Path) -> None:
        """Write the tree with other RMSprop state."""
        kind, fields, tree = checkpoint.kind, checkpoint.groups[0], dict(self._tree)
        states = {p.name: p for p in checkpoint.parameters}
        for field, node in _NODES[kind].items():
            for prefix in _prefixes(tree, node):
                for keys in _below(tree, (*prefix, node)):
                    state = states[name_of(keys[len(prefix) + 1 :])] if isinstance(tree[keys], np.ndarray) else None
                    if state is not None and getattr(state, field) is not None:
                        tree[keys] = _leaf(kind, field, getattr(state, field))
        if checkpoint.step is not None:
            tree |= {keys: step_array(checkpoint.step, tree[keys].dtype, kind) for keys in _counts(tree, kind)}
        for keys, field in _injected(tree, kind).items():
            if fields.get(field) is not None:
                tree[keys] = np.asarray(fields[field], tree[keys].dtype)
        write_atomically(target, tree_bytes(tree, target.suffix))

    @classmethod
    def write_new(cls, checkpoint: Checkpoint, target: Path) -> None:
        """Write the optimizer's tree alone, in the form that its `init` returns."""
        kind, fields = checkpoint.kind, checkpoint.groups[0]
        tree: Tree = {}
        if kind == "rmsprop.jax":
            tree["step",] = step_array(checkpoint.step or 0, np.int32, kind)
        elif fields.get("bias_correction"):
            tree[_CHAIN["count"]] = step_array(checkpoint.step or 0, np.int32, kind)
        for field, node in _NODES[kind].items():
            root = (node,) if kind == "rmsprop.jax" else _CHAIN[node]
            arrays = {p.name: getattr(p, field) for p in checkpoint.parameters if getattr(p, field) is not None}
            tree |= {(*root, *keys_of(name)): _leaf(kind, field, array) for name, array in arrays.items()}
            if kind == "rmsprop.jax" and not arrays:
                tree[root] = None
        decays = fields.get("weight_decay") and fields.get("decoupled_weight_decay")
        stages = {"optax": "12", "optax-adam": "12" if decays else "1"}.get(kind, "")
        tree |= {(key,): {} for key in stages if not any(keys[0] == key for keys in tree)}
        write_atomically(target, tree_bytes(tree, target.suffix))

    def _injected_values(self, kind: str) -> dict[str, float]:
        """Return the hyperparameters of optax.inject_hyperparams, as fields of `Rule`."""
        values: dict[str, float] = {}
        for keys in _scalars(self._tree):
            if keys[-2:] == ("hyperparams", "eps_root") and self._tree[keys] != 0:
                name = f"eps_root in {self.path}"
                remedy = "the run cannot continue here: no rule has ε inside the root and outside"
                raise InputError(name, "0", float(self._tree[keys]), remedy)
        for keys, field in _injected(self._tree, kind).items():
            value = float(self._tree[keys])
            if values.setdefault(field, value) != value:
                received = Received(f"{field}={values[field]} and {field}={value}")
                remedy = "save its part of the state alone"
                raise InputError(str(self.path), "a tree with one RMSprop", received, remedy)
        return values


def _leaf(kind: str, field: str, array: Array) -> Array:
    """Return an average with the sign that `kind` stores: optax's trace is −M."""
    return np.asarray(-array) if kind == "optax" and field == "momentum_buffer" else array


def _prefixes(tree: Tree, node: str) -> list[Keys]:
    """Return the keys above each `node`, but not within another node of a state: parameters may have any name."""
    prefixes: dict[Keys, None] = {}
    for keys in tree:
        depth = next((i for i, key in enumerate(keys) if key in _STATE), None)
        if depth is not None and keys[depth] == node:
            prefixes[keys[:depth]] = None
    return list(prefixes)


def _below(tree: Tree, prefix: Keys) -> list[Keys]:
    return [keys for keys in tree if keys[: len(prefix)] == prefix]


def _leaves(path: Path, tree: Tree, node: str) -> dict[Keys, Array]:
    """Return the arrays below `node`, by their keys relative to it."""
    prefixes = _prefixes(tree, node)
    leaves: dict[Keys, Array] = {}
    for keys, value in tree.items():
        for prefix in prefixes:
            size = len(prefix) + 1
            if keys[:size] == (*prefix, node) and value is not None and not isinstance(value, dict):
                if keys[size:] in leaves:
                    received = Received(f"{len(prefixes)} nodes {node}")
                    raise InputError(str(path), "a tree with one RMSprop", received, "save its part of the state alone")
                if value.dtype.kind == "c":
                    received = Received(f"complex {'/'.join(keys)}")
                    raise InputError(str(path), "state of real parameters", received, "optax keeps |g|², no other does")
                leaves[keys[size:]] = value
    return leaves


def _counts(tree: Tree, kind: str) -> list[Keys]:
    """Return the keys of step counts: that of the scaling, and those of schedules."""
    return [keys for keys in _scalars(tree) if keys[-1] == _COUNT[kind]]


def _injected(tree: Tree, kind: str) -> dict[Keys, str]:
    """Return {keys: field of Rule} of the hyperparameters of optax.inject_hyperparams."""
    names = {**_INJECTED, **KINDS[kind].names}
    injected = [keys for keys in _scalars(tree) if keys[-2:-1] == ("hyperparams",)]
    return {keys: names[keys[-1]] for keys in injected if keys[-1] in names}


def _scalars(tree: Tree) -> list[Keys]:
    """Return the keys of scalars outside the averages: parameters may have any name."""
    return [
        keys for keys, value in tree.items()
        if keys and isinstance(value, np.ndarray) and value.ndim == 0 and not _STATE & set(keys[:-1])
    ]  # fmt: skip
