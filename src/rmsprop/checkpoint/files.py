"""The files that optimizers' states are kept in: which library's one is, and its reading and writing.

A module per family has `read(path, kind, known)` and `write(checkpoint, path, like)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from rmsprop.checkpoint.formats import keras, optax, tf1, torch
from rmsprop.checkpoint.formats.archives import read_json
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.state import AVERAGES, Checkpoint, Fields
from rmsprop.errors import InputError, Received
from rmsprop.profiles import KINDS, canonical
from rmsprop.rule import Rule

_FAMILIES: Mapping[str, ModuleType] = {
    **dict.fromkeys(("torch", "rmsprop.torch", "timm", "sb3", "bitsandbytes"), torch),
    **dict.fromkeys(("keras", "rmsprop.keras"), keras),
    **dict.fromkeys(("optax", "rmsprop.jax"), optax),
    "tf1": tf1,
}
_ENDINGS: Mapping[ModuleType, tuple[str, ...]] = {
    torch: (".pt", ".pth", ".ckpt", ".bin", ".tar", ".zip", ".safetensors"),
    keras: (".keras", ".h5"),
    optax: (".npz", ".msgpack", ".safetensors"),
    tf1: (".index",),
}


def read_file(path: Path, kind: str | None, known: dict[str, Any], weights: bool = False) -> Checkpoint:
    """See `rmsprop.checkpoint.read`."""
    if kind is not None and kind not in KINDS:
        raise InputError("kind", f"one of {', '.join(KINDS)}", kind, "leave it out to tell by the file")
    said = canonical(known)
    _check_rule("", said)
    family = _FAMILIES[kind] if kind else _family(path)
    if path.is_dir():
        _refuse_folder(path)
    if not path.is_file() and not (family is tf1 and tf1.index(path).is_file()):
        raise FileNotFoundError(2, "No such file", str(path))
    try:
        budget = ReadBudget(path, None if path.is_file() else tf1.size(path))
        checkpoint: Checkpoint = family.read(path, kind, said, budget)
        if weights:
            if family not in (keras, torch):
                raise InputError("--weights", "used with files of Keras and PyTorch", str(path), "leave it out")
            checkpoint = family.with_weights(path, checkpoint, budget)
    except (InputError, ModuleNotFoundError):
        raise
    except MemoryError:
        raise InputError(
            str(path), "a file that fits into memory", Received("a larger one"), "close other programs"
        ) from None
    except Exception as error:  # whatever a damaged or foreign file makes its reader raise
        found = Received(f"one that fails with {type(error).__name__}: {_first_sentence(error)}")
        raise InputError(
            str(path), f"an undamaged checkpoint of {kind or 'its kind'}", found, "save or copy it again"
        ) from error
    if not checkpoint.parameters:
        remedy = "save it after a step, for Keras after optimizer.build or a step"
        raise InputError(str(path), "the state of an optimizer", Received("none"), remedy)
    for group in checkpoint.groups:
        _check_rule(f"in {path}", group)
    return checkpoint


def _refuse_folder(path: Path) -> None:
    """Raise an error that says what to do with the folder."""
    if (path / ".metadata").is_file():
        remedy = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} one.pt, if you trust it"
        raise InputError(str(path), "a file", Received("a folder of torch.distributed.checkpoint"), remedy)
    raise IsADirectoryError(21, "Is a directory, not a checkpoint", str(path))


def write_file(checkpoint: Checkpoint, path: Path, like: Path | None) -> None:
    """See `rmsprop.checkpoint.write`."""
    check_written(checkpoint.kind)
    family = _FAMILIES[checkpoint.kind]
    if path.exists() or (family is tf1 and tf1.exists(path)):
        raise InputError("the target", "a new file", str(path), "choose another name, or remove it first")
    endings = _ENDINGS[family]
    if family is not tf1 and path.suffix not in endings:
        raise InputError(
            f"a file of {checkpoint.kind}", f"named with {' or '.join(endings)}", str(path), "choose another name"
        )
    if like is not None:
        _check_like(checkpoint, like)
    family.write(checkpoint, path, like)


def read_mapping(path: Path) -> dict[str, Any]:
    """Return a mapping as `rmsprop.checkpoint.convert` takes it, from JSON."""
    try:
        mapping = read_json(path, path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except (ValueError, RecursionError):
        mapping = None
    if not isinstance(mapping, dict):
        raise InputError(str(path), 'JSON such as {"a": "b"}', Received("something else"), "see docs/checkpoints.md")
    return mapping


def target_kind(path: Path) -> str | None:
    """Return the kind that a new file's name tells, None if several may have such a name."""
    kinds = {".pt": "torch", ".pth": "torch", ".zip": "sb3", ".keras": "keras", ".h5": "keras", ".index": "tf1"}
    return kinds.get(path.suffix)


def check_written(kind: str) -> None:
    """Raise InputError unless `kind` is one of `KINDS` that files are written of."""
    if kind not in KINDS or not KINDS[kind].written:
        allowed = ", ".join(name for name, each in KINDS.items() if each.written)
        raise InputError("to", f"one of {allowed}", kind, "bitsandbytes is only read")


def _check_rule(where: str, fields: Fields) -> None:
    """Raise InputError for a value that no rule has; momentum may be unknown where nesterov is not."""
    said = {name: value for name, value in fields.items() if value is not None}
    try:
        Rule(**{"momentum": 0.9, **said})
    except InputError as error:
        name = f"{error.name} {where}".strip()
        raise InputError(name, error.allowed, error.value, error.remedy) from None


def _check_like(checkpoint: Checkpoint, like: Path) -> None:
    """Raise InputError unless the state in `like` has the parameters, arrays and groups of `checkpoint`."""
    known: dict[str, Any] = {}
    if like.suffix == ".h5":  # which does not say what it holds
        known["momentum"] = 0.9 if any(p.momentum_buffer is not None for p in checkpoint.parameters) else 0.0
        known["centered"] = any(p.grad_avg is not None for p in checkpoint.parameters)
    ours, theirs = _described(checkpoint), _described(read_file(like, checkpoint.kind, known))
    for name in {**theirs, **ours}:
        a, b = theirs.get(name), ours.get(name)
        if name not in ours or name not in theirs or (a and b and a != b):
            found = Received(f"one where {name} has {a or 'no state'}, and not {b or 'none'}")
            raise InputError("like", "a checkpoint with the same state", found, "give it to convert as like, too")


def _described(state: Checkpoint) -> dict[str, str | None]:
    """Return for each parameter what there is of it, None before its first step."""
    told: dict[str, str | None] = {}
    for i, p in enumerate(state.parameters):
        arrays = [f"{name} {a.dtype}{list(a.shape)}" for name in AVERAGES if (a := getattr(p, name)) is not None]
        told[str(i) if KINDS[state.kind].ordered else p.name] = (
            ", ".join([*arrays, f"group {p.group}"]) if arrays else None
        )
    return told


def _family(path: Path) -> ModuleType:
    if path.suffix == ".safetensors" and path.is_file():
        from rmsprop.checkpoint.formats.trees import safetensors_metadata

        return torch if "param_groups" in safetensors_metadata(path) else optax
    if path.suffix != ".index" and tf1.index(path).is_file():  # whose prefixes end in anything, such as .ckpt
        return tf1
    for family, endings in _ENDINGS.items():
        if path.suffix in endings:
            return family
    if not path.is_file():
        raise FileNotFoundError(2, "No such file", str(path))
    every = ", ".join(dict.fromkeys(ending for endings in _ENDINGS.values() for ending in endings))
    raise InputError(str(path), f"a file named with one of {every}", Received("another"), "say --from KIND")


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].partition(". ")[0][:120] if lines else "no message"
