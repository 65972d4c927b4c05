"""Trees of arrays in .npz, .safetensors and flax's .msgpack, as {keys from the root: array}, read without pickle.

.npz and .safetensors are flat: a name is the keys joined by "/", or as `jax.tree_util.keystr` writes them. .msgpack is
nested: a node without leaves is {}, and None stays None.

These readers check sizes and names before they allocate. `numpy.load` allocates what a header claims: 1 GiB for a file
of 300 bytes. flax keeps the last of two equal names. flax takes 72 times the size of a file of empty maps.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rmsprop.checkpoint.formats.archives import check_archive, check_unique, read_json
from rmsprop.checkpoint.formats.packages import bfloat16, import_package
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.tree_paths import Keys, keys_of, name_of
from rmsprop.errors import InputError, Received
from rmsprop.rule import Array

Tree: TypeAlias = dict[Keys, Any]
Flat: TypeAlias = dict[str, Array]
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "C64": "complex64",
}  # fmt: skip


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype with this name; raise InputError if it is no dtype of numbers."""
    dtype = bfloat16() if name == "bfloat16" else np.dtype(name)
    if dtype.kind not in "fiuc" and name != "bfloat16":
        raise InputError("a dtype", "one of numbers", name, "check which library wrote the file")
    return dtype


def read_tree(path: Path, budget: ReadBudget) -> Tree:
    """Return the tree in a file. The file's ending decides the format."""
    if path.suffix == ".msgpack":
        return _read_msgpack(path, budget)
    flat = _read_npz(path, budget) if path.suffix == ".npz" else read_safetensors(path, budget)[0]
    check_unique(path, [name_of(keys_of(name)) for name in flat])
    return {keys_of(name): value for name, value in flat.items()}


def tree_bytes(tree: Tree, ending: str) -> bytes:
    """Return the content of a new file. `ending` decides the format."""
    if ending == ".msgpack":
        return _msgpack_bytes(tree)
    flat = {"/".join(keys): value for keys, value in tree.items() if isinstance(value, np.ndarray)}
    return _npz_bytes(flat) if ending == ".npz" else safetensors_bytes(flat)


def _read_npz(path: Path, budget: ReadBudget) -> Flat:
    """Return the arrays of an .npz. Each header must state the size of its entry."""
    check_archive(path, budget)
    flat: Flat = {}
    with zipfile.ZipFile(path) as archive:
        check_unique(path, [entry.filename.removesuffix(".npy") for entry in archive.infolist()])
        for entry in archive.infolist():
            with archive.open(entry) as file:
                first = np.lib.format.read_magic(file) == (1, 0)
                header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = header(file)
                size = math.prod(shape) * dtype.itemsize
                if dtype.kind not in "fiuc" or size + file.tell() != entry.file_size:
                    received = Received(f"{entry.filename} of {dtype} {shape}")
                    remedy = "save bfloat16 as .safetensors"
                    raise InputError(str(path), "a file of arrays of numbers", received, remedy)
                budget.spend(size, entry.filename)
                array = np.frombuffer(bytearray(file.read()), dtype).reshape(shape, order="F" if fortran else "C")
            flat[entry.filename.removesuffix(".npy")] = array
    return flat


def _npz_bytes(flat: Flat) -> bytes:
    for name, value in flat.items():
        if value.dtype.name == "bfloat16":
            raise InputError("a .npz", "of dtypes that NumPy has", Received(f"{name} in bfloat16"), "use .safetensors")
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **flat)
    return buffer.getvalue()


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a .safetensors. The library checks its header against the file."""
    safetensors = import_package("safetensors")
    with path.open("rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        if size <= path.stat().st_size:
            with contextlib.suppress(UnicodeDecodeError, json.JSONDecodeError):  # the library's error says more
                read_json(path, raw.read(size))  # refuses equal names; the library keeps one of them
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise InputError(str(path), "a .safetensors file", Received(str(error)), "save or copy it again") from None


def read_safetensors(path: Path, budget: ReadBudget) -> tuple[Flat, dict[str, str]]:
    """Return the arrays of a .safetensors, including bfloat16, and its metadata."""
    metadata = safetensors_metadata(path)
    flat: Flat = {}
    content = path.read_bytes()
    for name, entry in import_package("safetensors").deserialize(content):
        budget.visit()
        budget.spend(len(entry["data"]), name)
        dtype = dtype_of(_SAFETENSORS.get(entry["dtype"], entry["dtype"]))
        flat[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"]).copy()
    return flat, metadata


def safetensors_bytes(flat: Flat, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a .safetensors of `flat`."""
    for name, value in flat.items():
        if value.dtype.name not in _SAFETENSORS.values():
            raise InputError("a .safetensors", "of real numbers", Received(f"{name} in {value.dtype}"), "use .msgpack")
    whole = {name: value.copy(order="C") for name, value in flat.items()}
    content: bytes = import_package("safetensors.numpy").save(whole, metadata=dict(metadata) if metadata else None)
    return content


# -- flax's msgpack: extension 1 is an array, 3 a scalar, as (shape, dtype name, bytes); above 1 GiB in chunks ---------

_CHUNK = 2**30  # bytes
_MOST_AXES = 64
_MOST_ENTRIES = 2**20  # of one map
_CHUNKED = "__msgpack_chunked_array__"


def _read_msgpack(path: Path, budget: ReadBudget) -> Tree:
    msgpack = import_package("msgpack")
    content = path.read_bytes()

    def array(code: int, data: bytes) -> Any:
        if code not in (1, 3):
            raise InputError(str(path), "arrays of real numbers", Received(f"extension {code}"), "save only arrays")
        shape, name, raw = msgpack.unpackb(data, max_array_len=_MOST_AXES)
        budget.spend(len(raw), "array")
        return np.frombuffer(raw, dtype_of(name)).reshape(shape).copy()

    def unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        budget.visit(len(pairs))
        check_unique(path, [str(key) for key, _ in pairs if isinstance(key, (str, int))])
        return {str(key): value for key, value in pairs}

    def walk(keys: Keys, node: Any) -> Iterator[tuple[Keys, Any]]:
        if isinstance(node, dict) and _CHUNKED in node:
            parts = [node["chunks"][str(i)] for i in range(len(node["chunks"]))]
            budget.spend(sum(part.nbytes for part in parts), "array")
            yield keys, np.concatenate(parts).reshape([node["shape"][str(i)] for i in range(len(node["shape"]))])
        elif isinstance(node, dict) and node:
            for key, value in node.items():
                yield from walk((*keys, key), value)
        else:
            yield keys, node

    tree = msgpack.unpackb(
        content,
        ext_hook=array,
        object_pairs_hook=unique,
        strict_map_key=False,
        max_array_len=_MOST_AXES,  # only shapes are msgpack arrays: flax writes lists as maps
        max_map_len=min(len(content) // 2, _MOST_ENTRIES),
    )
    return dict(walk((), tree))


def _msgpack_bytes(tree: Tree) -> bytes:
    msgpack = import_package("msgpack")

    def packed(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if value.nbytes > _CHUNK:
            size, flat = _CHUNK // value.itemsize, value.reshape(-1)
            parts = [packed(flat[i : i + size]) for i in range(0, flat.size, size)]
            numbered = ({str(i): each for i, each in enumerate(some)} for some in (value.shape, parts))
            return {_CHUNKED: True, "shape": next(numbered), "chunks": next(numbered)}
        return msgpack.ExtType(1, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))

    nested: dict[str, Any] = {}
    for keys, value in tree.items():
        node = nested
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = packed(value)
    content: bytes = msgpack.packb(nested)
    return content
