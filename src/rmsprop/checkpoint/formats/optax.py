"""States of JAX optimizers as trees: optax.rmsprop's chain, and rmsprop.jax's RMSpropState.

optax        …/nu, centered also …/mu, with a count under bias correction; …/trace = −M with momentum
rmsprop.jax  …/step, …/square_avg, …/grad_avg, …/momentum_buffer
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.step_count import read_step, step_array
from rmsprop.checkpoint.formats.trees import Tree, read_tree, tree_bytes
from rmsprop.checkpoint.state import Checkpoint, ParameterState, agreed_fields
from rmsprop.checkpoint.tree_paths import Keys, keys_of, name_of
from rmsprop.errors import InputError, Received
from rmsprop.files import write_atomically
from rmsprop.profiles import KINDS
from rmsprop.rule import Array

# The nodes of v, m, b and t.
_NODES = {
    "optax": ("nu", "mu", "trace", "count"),
    "rmsprop.jax": ("square_avg", "grad_avg", "momentum_buffer", "step"),
}
_STATE = {node for nodes in _NODES.values() for node in nodes[:3]}
# The chain of optax.rmsprop: the scaling, the learning rate, which keeps nothing, the trace, or nothing again.
_CHAIN: dict[str, Keys] = {"nu": ("0", "nu"), "mu": ("0", "mu"), "count": ("0", "count"), "trace": ("2", "trace")}
_INJECTED = {
    "learning_rate": "lr",
    **{name: name for name in ("decay", "eps", "momentum", "weight_decay", "initial_square_avg")},
}


def read(path: Path, kind: str | None, known: dict[str, Any], budget: ReadBudget) -> Checkpoint:
    """Return the state in a tree."""
    tree = read_tree(path, budget)
    kind = kind or next((kind for kind in ("rmsprop.jax", "optax") if _find(tree, _NODES[kind][0])), None)
    if kind is None:
        found = Received(f"one with {', '.join('/'.join(keys) for keys in list(tree)[:4])}")
        raise InputError(str(path), "a tree with nu (optax) or square_avg (rmsprop.jax)", found, "check it")
    v, m, b = (_leaves(path, tree, name) for name in _NODES[kind][:3])
    if not v or any(part and part.keys() != v.keys() for part in (m, b)):
        found = Received("a tree whose averages have different parameters, or none")
        raise InputError(str(path), f"the state of {KINDS[kind].title}", found, "check --from")
    stated: dict[str, Any] = {"centered": bool(m), "momentum": None if b else 0.0, **KINDS[kind].fixed}
    injected: dict[str, float] = {}
    for keys, field in _injected(tree).items():
        value = float(tree[keys])
        if injected.setdefault(field, value) != value:
            found = Received(f"{field}={injected[field]} and {field}={value}")
            raise InputError(str(path), "a tree with one RMSprop", found, "save its part of the state alone")
    stated |= injected
    counts = _counts(tree, kind)
    beside_v = _find(tree, _NODES[kind][0])
    if kind == "optax":
        stated["bias_correction"] = any((*keys, "count") in tree for keys in beside_v)
        if stated["bias_correction"]:
            stated["initial_square_avg"] = 0.0  # what its correction supposes, whatever initial_scale was
    fields = agreed_fields(path, stated, known)
    if kind == "optax":  # its defaults, which its files do not tell from others
        fields = {"eps_inside_sqrt": True, "nesterov": False, **fields}
    step = max((read_step(name_of(keys), tree[keys]) for keys in counts), default=None)
    sign = -1 if kind == "optax" else 1
    parameters = tuple(
        ParameterState(
            name_of(keys), v[keys], m[keys] if m else None, sign * b[keys] if b else None, step
        )
        for keys in v
    )  # fmt: skip
    return Checkpoint(kind, parameters, (fields,))


def write(checkpoint: Checkpoint, path: Path, like: Path | None) -> None:
    """Write the state as a tree: that of `like` with other leaves, else as `init` of the optimizer alone makes it."""
    kind, sign = checkpoint.kind, -1 if checkpoint.kind == "optax" else 1
    named = {p.name: p for p in checkpoint.parameters}
    parts = dict(zip(_NODES[kind], ("square_avg", "grad_avg", "momentum_buffer"), strict=False))
    tree: Tree = {}
    if like is not None:
        tree = read_tree(like, ReadBudget(like))
        for node, field in parts.items():
            for prefix in _find(tree, node):
                for keys in [keys for keys in tree if keys[: len(prefix) + 1] == (*prefix, node)]:
                    state = named[name_of(keys[len(prefix) + 1 :])] if isinstance(tree[keys], np.ndarray) else None
                    value = getattr(state, field, None)
                    if value is not None:
                        tree[keys] = np.asarray(sign * value) if field == "momentum_buffer" else value
        if checkpoint.step is not None:
            tree |= {keys: step_array(checkpoint.step, tree[keys].dtype, kind) for keys in _counts(tree, kind)}
        for keys, field in _injected(tree).items():
            if checkpoint.groups[0].get(field) is not None:
                tree[keys] = np.asarray(checkpoint.groups[0][field], tree[keys].dtype)
    else:
        roots: dict[str, Keys] = _CHAIN if kind == "optax" else {node: (node,) for node in _NODES[kind]}
        if kind == "rmsprop.jax" or checkpoint.groups[0].get("bias_correction"):
            tree[roots[_NODES[kind][3]]] = step_array(checkpoint.step or 0, np.int32, kind)
        for node, field in parts.items():
            for name, state in named.items():
                value = getattr(state, field)
                if value is not None:
                    tree[*roots[node], *keys_of(name)] = np.asarray(-value) if node == "trace" else value
            if kind == "rmsprop.jax" and not any(keys[0] == node for keys in tree):
                tree[roots[node]] = None
        if kind == "optax":
            tree |= {(place,): {} for place in "12" if not any(keys[0] == place for keys in tree)}
    write_atomically(path, tree_bytes(tree, path.suffix))


def _find(tree: Tree, node: str) -> list[Keys]:
    """Return the prefixes under which `node` stands, outermost first; nothing below another such node counts."""
    found: dict[Keys, None] = {}
    for keys in tree:
        place = next((i for i, key in enumerate(keys) if key in _STATE), None)
        if place is not None and keys[place] == node:
            found[keys[:place]] = None
    return list(found)


def _leaves(path: Path, tree: Tree, node: str) -> dict[Keys, Array]:
    """Return the arrays below `node`, by their keys there."""
    prefixes = _find(tree, node)
    leaves = {}
    for keys, value in tree.items():
        for prefix in prefixes:
            size = len(prefix) + 1
            if keys[:size] == (*prefix, node) and value is not None and not isinstance(value, dict):
                if keys[size:] in leaves:
                    found = Received(f"{len(prefixes)} nodes {node}")
                    raise InputError(str(path), "a tree with one RMSprop", found, "save its part of the state alone")
                if value.dtype.kind == "c":
                    found = Received(f"complex {'/'.join(keys)}")
                    raise InputError(str(path), "state of real parameters", found, "optax keeps |g|², no other does")
                leaves[keys[size:]] = value
    return leaves


def _counts(tree: Tree, kind: str) -> list[Keys]:
    """Return where the number of steps stands: in the scaling, and in schedules."""
    return [keys for keys in _scalars(tree) if keys[-1] == _NODES[kind][3]]


def _injected(tree: Tree) -> dict[Keys, str]:
    """Return where the hyperparameters of optax.inject_hyperparams stand, and which fields of Rule they are."""
    places = [keys for keys in _scalars(tree) if keys[-2:-1] == ("hyperparams",)]
    return {keys: _INJECTED[keys[-1]] for keys in places if keys[-1] in _INJECTED}


def _scalars(tree: Tree) -> list[Keys]:
    """Return where there are scalars that are not a parameter's, whatever the parameter is called."""
    return [
        keys for keys, value in tree.items()
        if keys and isinstance(value, np.ndarray) and value.ndim == 0 and not _STATE & set(keys[:-1])
    ]  # fmt: skip
