"""Pickles, read without executing anything: unknown objects become records.

`pickle` calls any function that a file names. This reader looks up no name. Calls in `_CALLS` return plain values, such
as a dict for an OrderedDict. All other calls return a `Record`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.rule import Array

SCALARS = (str, bytes, int, float, bool, type(None))


class Name(NamedTuple):
    """The name of a class or function, which is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """An object of an unknown class: the arguments, state and items that it was pickled with."""

    cls: Name | str  # str for a class that the file does not name
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def extend(self, items: list[Any]) -> None:
        """Add the items of a list or a set."""
        self.items += items

    def append(self, item: Any) -> None:
        """Add an item."""
        self.items.append(item)

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


class TensorSource(Protocol):
    """The file that holds the tensors of a pickle."""

    budget: ReadBudget

    def referred(self, pid: Any) -> Any:
        """Return the storage with this persistent id."""

    def tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Any:
        """Return a stand-in for the result of torch._utils._rebuild_tensor_v2 or _v3."""


@dataclass(eq=False)
class _Dtype:
    text: str

    def numpy(self) -> np.dtype[Any]:
        dtype = np.dtype(self.text)
        if dtype.kind not in "fiucb":
            raise ValueError("an array of something else than numbers")
        return dtype


@dataclass(eq=False)
class PickledArray:
    """A NumPy array. `value` is None until the pickle sets the numbers."""

    value: Array | None = None


def _scalar(dtype: Any, raw: Any = None) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
        return Record("numpy.generic")
    (value,) = np.frombuffer(raw, dtype.numpy())
    return value.item() if value.dtype.itemsize <= 16 and value.dtype.char not in "gG" else Record("numpy.longdouble")


def _first(*args: Any) -> Any:
    return args[0] if args else {}


_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): lambda *args: _pairs(args),
    ("collections", "Counter"): _first,
    ("collections", "defaultdict"): lambda *_: {},
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch", "Size"): _first,
    ("torch", "device"): lambda *parts: ":".join(str(part) for part in parts if isinstance(part, (str, int))),
    ("numpy", "dtype"): lambda text, *_: _Dtype(text if isinstance(text, str) else "V"),
    ("numpy", "core.multiarray.scalar"): _scalar,
    ("numpy", "core.multiarray._reconstruct"): lambda *_: PickledArray(),
    ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),
    ("builtins", "complex"): lambda *args: complex(*(x for x in args if isinstance(x, (int, float)))),
}
for _module in ("pathlib", "pathlib._local"):
    for _name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"):
        _CALLS[_module, _name] = lambda *parts: str(PurePosixPath(*parts))


def _pairs(args: tuple[Any, ...]) -> dict[Any, Any]:
    pairs: dict[Any, Any] = {}
    for key, value in args[0] if args else ():
        _put(pairs, key, value)
    return pairs


def _put(target: Any, key: Any, value: Any) -> None:
    """Set an entry. Nested keys are refused: hashing them may take forever."""
    plain = isinstance(key, SCALARS) or (type(key) is tuple and all(isinstance(part, SCALARS) for part in key))
    if isinstance(target, (dict, Record)):
        target[key if plain or isinstance(target, Record) else _key(key)] = value
    else:
        raise TypeError("an entry of something else than a dict")


def _key(key: Any) -> Any:
    if isinstance(key, (Name, Record)):
        return key
    raise TypeError("a dict whose keys hold others")


class Unpickler(pickle._Unpickler):
    """The unpickler of the standard library, without the opcodes that call, import or allocate."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    # Attributes of the base class, which has no annotations.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: Any, source: TensorSource) -> None:
        self._tensors = source
        super().__init__(_CountedReads(file, source.budget), encoding="utf-8", errors="strict")

    def find_class(self, module: str, name: str) -> Any:
        """Return the name instead of looking it up."""
        return Name(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage with this persistent id."""
        return self._tensors.referred(pid)

    def _call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(args, tuple):
            raise TypeError("a call of something else than a name")
        for part in args:  # a memoized value may be an argument any number of times
            if isinstance(part, (str, bytes)):
                self._tensors.budget.spend(len(part), "text")
            elif isinstance(part, (list, tuple, dict)):
                self._tensors.budget.visit(len(part))
        module, name = function
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            module, name = "numpy", f"core.multiarray.{name}"
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return self._tensors.tensor(*args)
        if (
            (module, name) == ("torch._tensor", "_rebuild_from_type_v2")
            and len(args) == 4
            and isinstance(args[2], tuple)
        ):
            return self._call(args[0], args[2])
        call = _CALLS.get((module, name))
        return Record(function, args) if call is None else call(*args)

    def _op_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def _op_newobj(self) -> None:
        args = self.stack.pop()
        self._instantiate(self.stack.pop(), args if isinstance(args, tuple) else ())

    def _op_newobj_ex(self) -> None:
        named = self.stack.pop()
        self._op_newobj()
        self.stack[-1].state = named

    def _instantiate(self, cls: Any, args: Any) -> None:
        if not isinstance(cls, Name):
            raise TypeError("an object of something else than a class")
        self._tensors.budget.visit(len(args))
        self.append(Record(cls, tuple(args)))

    def _op_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif isinstance(target, _Dtype) and isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            target.text = f"{state[1]}{target.text.lstrip('<>=|')}"
        elif isinstance(target, PickledArray) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, raw = state
            if isinstance(dtype, _Dtype) and isinstance(raw, bytes):
                self._tensors.budget.spend(len(raw), "array")
                value = np.frombuffer(raw, dtype.numpy()).reshape(shape, order="F" if fortran else "C")
                target.value = value.astype(value.dtype.newbyteorder("="))

    def _op_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], key, value)

    def _op_setitems(self) -> None:
        items = self.pop_mark()
        for i in range(0, len(items), 2):
            _put(self.stack[-1], items[i], items[i + 1])

    def _op_dict(self) -> None:
        items = self.pop_mark()
        entries: dict[Any, Any] = {}
        for i in range(0, len(items), 2):
            _put(entries, items[i], items[i + 1])
        self.append(entries)

    def _op_empty_set(self) -> None:
        self.append(Record("set"))

    def _op_frozenset(self) -> None:
        self.append(Record("frozenset", (), None, self.pop_mark()))

    def _op_refused(self) -> None:
        raise ValueError("a pickle of another protocol")


_REPLACED = {
    Unpickler._op_reduce: "REDUCE", Unpickler._op_newobj: "NEWOBJ", Unpickler._op_newobj_ex: "NEWOBJ_EX",
    Unpickler._op_build: "BUILD", Unpickler._op_setitem: "SETITEM", Unpickler._op_setitems: "SETITEMS",
    Unpickler._op_dict: "DICT", Unpickler._op_empty_set: "EMPTY_SET", Unpickler._op_frozenset: "FROZENSET",
    Unpickler._op_refused: "BYTEARRAY8 NEXT_BUFFER READONLY_BUFFER EXT1 EXT2 EXT4",
}  # fmt: skip
for _step, _names in _REPLACED.items():
    Unpickler.dispatch.update(dict.fromkeys((getattr(pickle, _name)[0] for _name in _names.split()), _step))


class _CountedReads:
    """A file whose reads count as visits. No read asks for more bytes than the file has."""

    def __init__(self, file: Any, budget: ReadBudget) -> None:
        self._file, self._budget = file, budget
        position = file.tell()
        self._end = file.seek(0, 2)
        file.seek(position)

    def read(self, size: int) -> bytes:
        self._budget.visit()
        content: bytes = self._file.read(min(size, self._end))
        return content

    def readline(self) -> bytes:
        self._budget.visit()
        line: bytes = self._file.readline()
        return line

    def readinto(self, _: Any) -> int:
        raise ValueError("a pickle of another protocol")
