"""Check values read from JSON against types: TypedDict, list, tuple, dict, union, Literal, text, numbers and bool."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from rmsprop.errors import InputError, Received


class Limit(NamedTuple):
    """A condition that `Annotated` adds to a type, and its words in a message."""

    holds: Callable[[Any], bool]
    words: str


NOT_NEGATIVE = Limit(lambda x: bool(x >= 0), "that is not negative")
POSITIVE = Limit(lambda x: bool(x > 0), "above 0")
AT_LEAST_ONE = Limit(lambda x: bool(x >= 1), "of at least 1")
NOT_EMPTY = Limit(lambda x: len(x) > 0, "that is not empty")
SEVEN = Limit(lambda x: len(x) == 7, "of 7 values")

_Path = tuple[str, ...]
_Check = Callable[[Any, _Path], None]


class _Wrong(Exception):  # noqa: N818  (becomes an InputError, which names the file)
    def __init__(self, path: _Path, allowed: str, value: object) -> None:
        super().__init__(path)
        self.path, self.allowed, self.value = path, allowed, value


def checker(kind: Any) -> Callable[[Any, str], None]:
    """Return a function (value, where) that raises InputError unless the value has the type `kind`.

    The message names the first wrong field, and `where`.

    Examples
    --------
    >>> check = checker(dict[str, list[int]])
    >>> check({"a": [1, 2]}, "line 3")
    >>> check({"a": [1, 2.5]}, "line 3")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    rmsprop.errors.InputError: a.1 in line 3 must be a whole number, got 2.5; restore the file from a copy, or start ...
    """
    inside = _check_of(kind)

    def check(value: Any, where: str) -> None:
        try:
            inside(value, ())
        except _Wrong as wrong:
            field = ".".join(wrong.path)
            name = f"{field} in {where}" if field else where
            remedy = "restore the file from a copy, or start a new run"
            raise InputError(name, wrong.allowed, _shown(wrong.value), remedy) from None

    return check


def _shown(value: object) -> object:
    """Return a value as a message shows it, shortened if it is long."""
    if isinstance(value, dict | list) and value:
        return Received("an object" if isinstance(value, dict) else "a list")
    return Received(f"{value[:40]!r}…") if isinstance(value, str) and len(value) > 40 else value


_ABSENT = Received("none")
_PLAIN: dict[Any, tuple[Callable[[Any], bool], str]] = {
    float: (lambda x: type(x) in (int, float) and abs(x) <= sys.float_info.max, "a number"),
    int: (lambda x: type(x) is int and abs(x) < 2**63, "a whole number"),
    bool: (lambda x: type(x) is bool, "true or false"),
    str: (lambda x: type(x) is str, "text"),
    types.NoneType: (lambda x: x is None, "null"),
}


def _check_of(kind: Any) -> _Check:
    origin = get_origin(kind)
    if kind is Any:
        return lambda _value, _path: None
    if kind in _PLAIN:
        return _plain(*_PLAIN[kind])
    if is_typeddict(kind):
        return _fields(kind)
    if origin is Annotated:
        return _limited(*get_args(kind))
    if origin is Literal:
        words = get_args(kind)
        return _plain(lambda x: type(x) is str and x in words, f"one of {', '.join(words)}")
    if origin in (Union, types.UnionType):
        return _any_of([_check_of(each) for each in get_args(kind)], types.NoneType in get_args(kind))
    if origin is list:
        return _items(_check_of(get_args(kind)[0]))
    if origin is tuple:
        return _tuple([_check_of(each) for each in get_args(kind)])
    assert origin is dict, kind  # noqa: S101
    return _values(_check_of(get_args(kind)[1]))


def _plain(holds: Callable[[Any], bool], words: str) -> _Check:
    def check(value: Any, path: _Path) -> None:
        if not holds(value):
            raise _Wrong(path, words, value)

    return check


def _fields(kind: Any) -> _Check:
    hints = get_type_hints(kind, include_extras=True)
    optional = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
    checks = {name: _check_of(get_args(hint)[0] if name in optional else hint) for name, hint in hints.items()}

    def check(value: Any, path: _Path) -> None:
        if type(value) is not dict:
            raise _Wrong(path, "an object", value)
        for name, each in checks.items():
            if name in value:
                each(value[name], (*path, name))
            elif name not in optional:
                raise _Wrong((*path, name), "there", _ABSENT)

    return check


def _limited(kind: Any, limit: Limit) -> _Check:
    inside = _check_of(kind)

    def check(value: Any, path: _Path) -> None:
        try:
            inside(value, path)
        except _Wrong as wrong:
            raise (_Wrong(path, f"{wrong.allowed} {limit.words}", value) if wrong.path == path else wrong) from None
        if not limit.holds(value):
            raise _Wrong(path, f"{_PLAIN[kind][1] if kind in _PLAIN else 'a list'} {limit.words}", value)

    return check


def _any_of(checks: list[_Check], null: bool) -> _Check:
    def check(value: Any, path: _Path) -> None:
        if null and value is None:
            return None
        wrongs = []
        for each in checks:
            try:
                return each(value, path)
            except _Wrong as wrong:
                wrongs.append(wrong)
        deepest = max(wrongs, key=lambda wrong: len(wrong.path))
        if len(deepest.path) > len(path):  # the right type, with a wrong value in it
            raise deepest
        raise _Wrong(path, " or ".join(wrong.allowed for wrong in wrongs), value)

    return check


def _items(item: _Check) -> _Check:
    def check(value: Any, path: _Path) -> None:
        if type(value) is not list:
            raise _Wrong(path, "a list", value)
        for number, each in enumerate(value):
            item(each, (*path, str(number)))

    return check


def _tuple(items: list[_Check]) -> _Check:
    def check(value: Any, path: _Path) -> None:
        if type(value) is not list or len(value) != len(items):
            raise _Wrong(path, f"a list of {len(items)} values", value)
        for number, (item, each) in enumerate(zip(items, value, strict=True)):
            item(each, (*path, str(number)))

    return check


def _values(item: _Check) -> _Check:
    def check(value: Any, path: _Path) -> None:
        if type(value) is not dict:
            raise _Wrong(path, "an object", value)
        for name, each in value.items():
            item(each, (*path, name))

    return check
