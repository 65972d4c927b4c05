"""Checkpoint files: detect their format, read them, write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rmsprop.checkpoint.formats.archives import read_json
from rmsprop.checkpoint.formats.checkpoint_file import CheckpointFile
from rmsprop.checkpoint.formats.jax import TreeFile
from rmsprop.checkpoint.formats.keras import KerasFile
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.tf1 import Tf1File
from rmsprop.checkpoint.formats.torch import StateDictFile
from rmsprop.checkpoint.formats.trees import safetensors_metadata
from rmsprop.checkpoint.state import Checkpoint, Fields
from rmsprop.errors import InputError, Received
from rmsprop.profiles import KINDS, canonical
from rmsprop.rule import AVERAGES, Rule

_FORMATS: Mapping[str, type[CheckpointFile]] = {
    "torch": StateDictFile,
    "keras": KerasFile,
    "jax": TreeFile,
    "tf1": Tf1File,
}


class ReadCheckpoint(NamedTuple):
    """A checkpoint and the file that it was read from."""

    file: CheckpointFile
    state: Checkpoint


def read_checkpoint(
    path: Path,
    kind: str | None,
    given: Mapping[str, Any],
    *,
    weights: bool = False,
    assumed: Mapping[str, Any] | None = None,
) -> ReadCheckpoint:
    """Read a file once: its state, and the rest for `write_checkpoint`. See `rmsprop.checkpoint.read`.

    `assumed` are fields of `Rule` for a file that states none.
    """
    if kind is not None and kind not in KINDS:
        raise InputError("kind", f"one of {', '.join(KINDS)}", kind, "omit it to detect the kind from the file")
    fields = canonical(given)
    _check_rule("", fields)
    if path.is_dir():
        _refuse_folder(path)
    format_ = _format(path, kind)
    size = format_.size(path)
    if size is None:
        raise FileNotFoundError(2, "No such file", str(path))
    with _as_input_error(path, kind):
        file = format_(path, ReadBudget(path, size))
        state = file.state(kind, fields if file.states_rule else {**(assumed or {}), **fields})
        if weights:
            state = file.with_weights(state)
    if not state.parameters:
        remedy = "save it after a step, for Keras after optimizer.build or a step"
        raise InputError(str(path), "the state of an optimizer", Received("none"), remedy)
    for group in state.groups:
        _check_rule(f"in {path}", group)
    if state.kind == "optax" and "centered" not in fields and (assumed is None or kind is None):
        centered, corrected = (state.groups[0].get(name) for name in ("centered", "bias_correction"))
        if centered and corrected:  # else a step would subtract the square of Adam's average of gradients
            remedy = "pass --centered if it is RMSprop's, --from optax-adam if it is Adam's"
            if assumed is not None:
                remedy = "pass --to optax or --to optax-adam"
            raise InputError("centered", "given", Received("a tree that optax.adam and optax.rmsprop share"), remedy)
    return ReadCheckpoint(file, state)


def read_template(path: Path, source: Checkpoint, kind: str | None, *, weights: bool = False) -> ReadCheckpoint:
    """Read the file whose other content a new file for the state of `source` keeps."""
    has_momentum = any(p.momentum_buffer is not None for p in source.parameters)
    assumed = {
        "momentum": (source.groups[0].get("momentum") or 0.9) if has_momentum else 0.0,
        "centered": any(p.grad_avg is not None for p in source.parameters),
    }
    return read_checkpoint(path, kind, {}, weights=weights, assumed=assumed)


def write_checkpoint(checkpoint: Checkpoint, target: Path, like: ReadCheckpoint | None = None) -> None:
    """Write a new file; see `rmsprop.checkpoint.write`."""
    format_ = _check_target(checkpoint.kind, target)
    if like is None:
        format_.write_new(checkpoint, target)
    else:
        _check_like(checkpoint, like.state)
        like.file.write_changed(checkpoint, target)


def check_written(kind: str) -> None:
    """Raise InputError if files of `kind` cannot be written."""
    if kind not in KINDS or not KINDS[kind].written:
        allowed = ", ".join(name for name, each in KINDS.items() if each.written)
        raise InputError("to", f"one of {allowed}", kind, "bitsandbytes is only read")


def _check_target(kind: str, target: Path) -> type[CheckpointFile]:
    """Return the format of a new file of `kind`; raise InputError if `target` exists or has another ending."""
    check_written(kind)
    format_ = _FORMATS[KINDS[kind].format]
    if format_.is_taken(target):
        raise InputError("the target", "a new file", str(target), "choose another name, or remove it first")
    if not format_.named_freely and target.suffix not in format_.endings:
        allowed = f"named with {' or '.join(format_.endings)}"
        raise InputError(f"a file of {kind}", allowed, str(target), "choose another name")
    return format_


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a mapping for `rmsprop.checkpoint.convert` from a JSON file."""
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
    """Return the kind that a new file's ending implies; None if it implies none."""
    return next((name for name, kind in KINDS.items() if path.suffix in kind.endings), None)


def _format(path: Path, kind: str | None) -> type[CheckpointFile]:
    """Return the format of a file; raise InputError if it is unknown or `kind` contradicts it."""
    detected = _detected_format(path)
    if kind is None:
        if detected is not None:
            return detected
        if not path.is_file():
            raise FileNotFoundError(2, "No such file", str(path))
        every = ", ".join(dict.fromkeys(ending for each in _FORMATS.values() for ending in each.endings))
        raise InputError(str(path), f"a file named with one of {every}", Received("another"), "pass --from KIND")
    chosen = _FORMATS[KINDS[kind].format]
    if detected not in (None, chosen) and path.is_file():
        kinds = [name for name, each in KINDS.items() if _FORMATS[each.format] is detected]
        remedy = "omit --from (for --like: --to) to detect the kind from the file"
        raise InputError(f"the kind of {path}", f"one of {', '.join(kinds)}, as the file shows", kind, remedy)
    return chosen


def _detected_format(path: Path) -> type[CheckpointFile] | None:
    """Return the format that a file's name and metadata imply; None if they imply none."""
    if path.suffix == ".safetensors" and path.is_file():
        return StateDictFile if "param_groups" in safetensors_metadata(path) else TreeFile
    if path.suffix != ".index" and Tf1File.size(path) is not None:  # a prefix has any ending, such as .ckpt
        return Tf1File
    return next((each for each in _FORMATS.values() if path.suffix in each.endings), None)


@contextmanager
def _as_input_error(path: Path, kind: str | None) -> Iterator[None]:
    """Turn every error from reading a damaged or foreign file into InputError."""
    try:
        yield
    except (InputError, ModuleNotFoundError):
        raise
    except MemoryError:
        received = Received("a larger one")
        raise InputError(str(path), "a file that fits into memory", received, "close other programs") from None
    except Exception as error:
        allowed = f"an undamaged checkpoint of {kind or 'its kind'}"
        received = Received(f"one that fails with {type(error).__name__}: {_first_sentence(error)}")
        raise InputError(str(path), allowed, received, "save or copy it again") from error


def _refuse_folder(path: Path) -> None:
    """Raise the error for a folder, with a remedy for folders of torch.distributed.checkpoint."""
    if (path / ".metadata").is_file():
        remedy = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} one.pt, if you trust it"
        raise InputError(str(path), "a file", Received("a folder of torch.distributed.checkpoint"), remedy)
    raise IsADirectoryError(21, "Is a directory, not a checkpoint", str(path))


def _check_rule(where: str, fields: Fields) -> None:
    """Raise InputError for a value that `Rule` refuses."""
    known = {name: value for name, value in fields.items() if value is not None}
    try:
        Rule(**{"momentum": 0.9, **known})  # nesterov needs a momentum, which may be unknown
    except InputError as error:
        name = f"{error.name} {where}".strip()
        raise InputError(name, error.allowed, error.value, error.remedy) from None


def _check_like(checkpoint: Checkpoint, like: Checkpoint) -> None:
    """Raise InputError unless `like` has the parameters, arrays and groups of `checkpoint`."""
    ours, theirs = _described(checkpoint), _described(like)
    for name in {**theirs, **ours}:
        a, b = theirs.get(name), ours.get(name)
        if name not in ours or name not in theirs or (a and b and a != b):
            received = Received(f"one where {name} has {a or 'no state'}, and not {b or 'none'}")
            raise InputError("like", "a checkpoint with the same state", received, "give it to convert as like, too")


def _described(state: Checkpoint) -> dict[str, str | None]:
    """Return a description of each parameter's arrays and group; None before its first step."""
    described: dict[str, str | None] = {}
    for i, p in enumerate(state.parameters):
        arrays = [f"{name} {a.dtype}{list(a.shape)}" for name in AVERAGES if (a := getattr(p, name)) is not None]
        name = str(i) if KINDS[state.kind].ordered else p.name
        described[name] = ", ".join([*arrays, f"group {p.group}"]) if arrays else None
    return described


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].partition(". ")[0][:120] if lines else "no message"
