"""Files of torch.save, read without torch and without executing anything. Tensors are read on demand."""

from __future__ import annotations

import io
import math
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rmsprop.checkpoint.formats.archives import check_archive
from rmsprop.checkpoint.formats.packages import bfloat16
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.safe_pickle import Name, Record, Unpickler
from rmsprop.errors import InputError, Received
from rmsprop.rule import Array

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle in a file of torch before 1.6
_DTYPES = {
    "Double": "f8", "Float": "f4", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1",
    "Bool": "?", "ComplexFloat": "c8", "ComplexDouble": "c16", "BFloat16": "bfloat16",
}  # fmt: skip
_MOST_AXES = 32


def _width(dtype: str) -> int:
    """Return the bytes of an element; 1 for an untyped storage."""
    return 1 if not dtype else 2 if dtype == "BFloat16" else np.dtype(_DTYPES[dtype]).itemsize


class Storage(NamedTuple):
    """The numbers of one or more tensors in the file."""

    key: str
    dtype: str  # torch's name; "" if untyped
    size: int  # elements


class Stored:
    """A tensor in a file, whose numbers are read on demand."""

    def __init__(self, file: TorchFile, storage: Storage, offset: int, shape: Any, stride: Any, dtype: str) -> None:
        if max(len(shape), len(stride)) > _MOST_AXES:
            raise ValueError("a tensor of too many axes")
        self.shape, self._stride = tuple(shape), tuple(stride)
        self._file, self._storage, self._offset, self.dtype = file, storage, offset, dtype
        whole = all(type(n) is int and n >= 0 for n in (offset, *self.shape, *self._stride))
        if not whole or len(self.shape) != len(self._stride):
            raise ValueError("a tensor without a shape")
        if dtype not in _DTYPES:
            raise ValueError(f"a tensor of {dtype}")
        last = offset + sum((n - 1) * step for n, step in zip(self.shape, self._stride, strict=True))
        if math.prod(self.shape) and last >= storage.size:
            raise ValueError("a tensor larger than its storage")

    def array(self) -> Array:
        """Read the numbers, in the machine's byte order."""
        size = math.prod(self.shape)
        width = _width(self.dtype)
        self._file.budget.spend(size * width, f"tensor of shape {self.shape}")
        raw = self._file.storage(self._storage)
        order = self._file.order
        kind = np.dtype("u2" if self.dtype == "BFloat16" else _DTYPES[self.dtype]).newbyteorder(order)
        flat = np.frombuffer(raw, kind)[self._offset :] if size else np.empty(0, kind)
        steps = [step * width for step in self._stride]
        view = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        value = view.astype(kind.newbyteorder("="), order="C")
        return value.view(bfloat16()) if self.dtype == "BFloat16" else value


class TorchFile:
    """A file of torch.save. `value` is what was saved, with tensors as `Stored` and unknown objects as `Record`.

    Parameters
    ----------
    source
        The file, or its content.
    budget
        The limits on memory and work for reading the file.
    """

    def __init__(self, source: Path | io.BytesIO, budget: ReadBudget) -> None:
        self.budget = budget
        self.order: Literal["<", ">"] = "<"
        self._source = source
        self._raw: dict[str, bytes] = {}
        self._positions: dict[str, tuple[int, int]] | None = None  # offset and bytes of storages, before torch 1.6
        if zipfile.is_zipfile(source):
            self.value = self._zipped()
        else:
            self.value = self._legacy()

    def storage(self, storage: Storage) -> bytes:
        """Read the bytes of a storage, once."""
        if storage.key in self._raw:
            return self._raw[storage.key]
        width = _width(storage.dtype)
        if self._positions is None:
            with zipfile.ZipFile(self._source) as archive:
                entry = archive.getinfo(f"{self._prefix}data/{storage.key}")
                if entry.file_size < storage.size * width:
                    raise ValueError("a tensor larger than its storage")
                self.budget.spend(entry.file_size, "numbers")
                raw = archive.read(entry)
        else:
            start, size = self._positions[storage.key]
            if size < storage.size * width:
                raise ValueError("a tensor larger than its storage")
            self.budget.spend(size, "numbers")
            with self._open() as file:
                file.seek(start)
                raw = file.read(size)
        if len(raw) < storage.size * width:
            raise ValueError("the file ends too early")
        return self._raw.setdefault(storage.key, raw)

    def _open(self) -> Any:
        return self._source.open("rb") if isinstance(self._source, Path) else io.BytesIO(self._source.getvalue())

    def _zipped(self) -> Any:
        check_archive(self._source, self.budget)
        with zipfile.ZipFile(self._source) as archive:
            names = archive.namelist()
            pickled = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
            if len(pickled) != 1:
                raise InputError(
                    str(self.budget.path), "what torch.save wrote", Received("another archive"), "save it with torch"
                )
            self._prefix = pickled[0].removesuffix("data.pkl")
            order = f"{self._prefix}byteorder"
            if order in names and archive.read(order) == b"big":
                self.order = ">"
            content = archive.read(pickled[0])
        return self._load(io.BytesIO(content))

    def _legacy(self) -> Any:
        """Read a file of torch before 1.6: five pickles, then the storages."""
        with closing(self._open()) as file:
            if self._load(file) != _MAGIC:
                raise ValueError("not what torch.save wrote")
            self._load(file)
            if self._load(file).get("little_endian") is False:
                self.order = ">"
            value = self._load(file)
            sizes = dict(self._sizes)
            self._positions = {}
            for key in self._load(file):
                count = int.from_bytes(file.read(8), "little" if self.order == "<" else "big")
                self._positions[key] = (file.tell(), size := count * sizes[key])
                self.budget.visit()
                file.seek(size, 1)
        return value

    def _load(self, file: Any) -> Any:
        self._sizes: dict[str, int] = {}
        return Unpickler(file, self).load()

    def referred(self, pid: Any) -> Storage | Record:
        """Return the storage with this persistent id; a Record for other ids."""
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage" and isinstance(pid[1], Name)):
            return Record("a persistent id", (pid,))
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError("a view of a storage; save it with a newer torch")
        key, count = pid[2], pid[4]
        dtype = pid[1].name.removesuffix("Storage")
        dtype = "" if dtype == "Untyped" else dtype
        if not isinstance(key, str) or type(count) is not int or count < 0 or (dtype and dtype not in _DTYPES):
            raise ValueError(f"a storage of {pid[1]}")
        self._sizes[key] = _width(dtype)
        return Storage(key, dtype, count)

    def tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Any:
        """Return a stand-in for the result of torch._utils._rebuild_tensor_v2 or _v3."""
        if not isinstance(storage, Storage):
            return Record("torch.Tensor")
        if storage.dtype:
            return Stored(self, storage, offset, shape, stride, storage.dtype)
        dtype = next((each.name for each in rest if isinstance(each, Name)), "bytes")
        return Record(f"torch.Tensor of {dtype}")
