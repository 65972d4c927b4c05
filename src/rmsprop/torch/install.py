"""Replace torch's RMSprop in this process, so that scripts and libraries that name it use this one, unchanged."""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import importlib
import inspect
import os
import sys
import warnings
from abc import ABCMeta
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TypeAlias

import torch

from rmsprop.errors import require
from rmsprop.torch.drop_ins import RMSpropTF, RMSpropTFLike
from rmsprop.torch.groups import check_values
from rmsprop.torch.optimizer import Params, RMSprop

__all__ = ["Installation", "InstalledRMSprop", "install", "uninstall"]

Original = torch.optim.RMSprop

_TORCH = ("torch.optim", "torch.optim.rmsprop")
_TIMM = ("timm.optim", "timm.optim.rmsprop_tf")
_SB3 = "stable_baselines3.common.sb2_compat.rmsprop_tf_like"

_MISSING = object()
_Place: TypeAlias = tuple[str, dict[Any, Any], Any, Any]  # title, names of a module, name, what it becomes


class _AlsoOriginal(ABCMeta):  # ABCMeta: a subclass may be an abstract class, too
    """`isinstance` and `issubclass` hold for torch's own RMSprop, made before, as well."""

    def __instancecheck__(cls, instance: object) -> bool:
        return super().__instancecheck__(instance) or (cls is InstalledRMSprop and isinstance(instance, Original))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return super().__subclasscheck__(subclass) or (cls is InstalledRMSprop and issubclass(subclass, Original))


class InstalledRMSprop(RMSprop, Original, metaclass=_AlsoOriginal):
    """What `torch.optim.RMSprop` is while it is installed: `RMSprop`, and an instance of torch's class, too.

    The arguments are those of `RMSprop`. What a script does not give is taken from the call of `install`.
    """

    def __init__(self, params: Params, *positional: Any, **keywords: Any) -> None:
        if torch.optim.RMSprop is not InstalledRMSprop:
            text = "this class was torch.optim.RMSprop while rmsprop.torch was installed; it goes on as rmsprop.torch's"
            warnings.warn(text, stacklevel=2)
        given = {*_POSITIONAL[: len(positional)], *keywords}
        for installation in _active:  # the newest wins
            keywords |= {name: value for name, value in installation._arguments.items() if name not in given}
        initialize: Any = RMSprop.__init__
        initialize(self, params, *positional, **keywords)


functools.update_wrapper(InstalledRMSprop.__init__, RMSprop.__init__)  # its signature
InstalledRMSprop.__name__ = "RMSprop"  # by which programs choose and log optimizers; pickle takes the other name

_DEFAULTS = {each.name: each.default for each in list(inspect.signature(RMSprop).parameters.values())[1:]}
_POSITIONAL = tuple(_DEFAULTS)
_active: list[Installation] = []  # the calls of `install` that hold, the oldest first


class Installation:
    """What one call of `install` wants replaced, and the arguments that it gives. As a context, it ends with it."""

    def __init__(self, places: list[_Place], arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._replaced = [(names, name, ours, names.get(name, _MISSING)) for _, names, name, ours in places]
        self._replaced = [each for each in self._replaced if each[3] is not each[2]]
        for names, name, ours, _ in self._replaced:
            names[name] = ours
        _active.append(self)

    def uninstall(self) -> None:
        """End this call. What it replaced is restored when no other call holds, in whatever order they end."""
        if self not in _active:
            return
        _active.remove(self)
        if _active:
            _active[0]._replaced += self._replaced
            return
        for names, name, ours, before in reversed(self._replaced):
            if names.get(name) is not ours:  # replaced by others since
                continue
            if before is _MISSING:
                del names[name]
            else:
                names[name] = before

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.uninstall()


def install(*, timm: bool = False, sb3: bool = False, **arguments: Any) -> Installation:
    """Make `torch.optim.RMSprop` this package's `RMSprop`, in this process, until `uninstall`.

    Libraries and scripts that look the name up from now on get it: they need no change. What imported torch's class
    before keeps it. Optimizers that exist stay what they are; pickles of torch's class become this one. `isinstance`
    holds between both classes. State dicts load with and without it. One line on standard error says what is replaced.

    Parameters
    ----------
    timm
        Replace timm's `RMSpropTF` by `rmsprop.torch.drop_ins.RMSpropTF`, also where timm creates optimizers by name.
        timm's cautious and corrected variants stay: no other RMSprop has their rules.
    sb3
        Replace Stable-Baselines3's `RMSpropTFLike` by `rmsprop.torch.drop_ins.RMSpropTFLike`.
    **arguments
        Arguments of `RMSprop` for optimizers made as `torch.optim.RMSprop`, where the script does not give them.

    Returns
    -------
    Installation
        A context that ends this call; it also has `uninstall()`. What another call holds stays.

    Raises
    ------
    InputError
        For an argument that `RMSprop` does not have, or a value out of range.
    ModuleNotFoundError
        If timm or Stable-Baselines3 is asked for and not installed.

    Examples
    --------
    >>> import torch
    >>> from rmsprop.torch import install
    >>> with install(nonfinite="skip"):
    ...     optimizer = torch.optim.RMSprop([torch.ones(2)], lr=0.1)
    >>> optimizer.param_groups[0]["nonfinite"], torch.optim.RMSprop.__module__
    ('skip', 'torch.optim.rmsprop')
    """
    made, replaced = replace(timm=timm, sb3=sb3, **arguments)
    if replaced and os.environ.get("RANK", "0") == "0":  # of several processes, the first says it
        print(f"rmsprop: this package's RMSprop replaces {', '.join(replaced)}", file=sys.stderr)
    return made


def replace(*, timm: bool = False, sb3: bool = False, **arguments: Any) -> tuple[Installation, list[str]]:
    """Do what `install` does, but say nothing: return also the names of what was replaced."""
    for name in arguments:
        require(
            name in _DEFAULTS, "an argument of RMSprop", f"one of {', '.join(_DEFAULTS)}", name, "see its docstring"
        )
    check_values({**_DEFAULTS, **arguments})
    places: list[_Place] = [("torch.optim.RMSprop", _names(module), "RMSprop", InstalledRMSprop) for module in _TORCH]
    if timm:
        theirs = _names(_TIMM[-1], "timm")["RMSpropTF"]
        places += [("timm.optim.RMSpropTF", _names(module), "RMSpropTF", RMSpropTF) for module in _TIMM]
        places += [("timm.optim.RMSpropTF", *entry) for entry in _created_by_timm(theirs)]
    if sb3:
        names = _names(_SB3, "stable_baselines3")
        places.append(("stable_baselines3's RMSpropTFLike", names, "RMSpropTFLike", RMSpropTFLike))
    places.append(("torch.optim.RMSprop", copyreg.dispatch_table, Original, _reduced))
    replaced = dict.fromkeys(title for title, names, name, ours in places if names.get(name) is not ours)
    return Installation(places, arguments), list(replaced)


def uninstall() -> None:
    """Undo every `install` of this process. Optimizers made meanwhile go on."""
    while _active:
        _active[-1].uninstall()


def _reduced(optimizer: Any) -> tuple[Any, ...]:
    """Pickle an optimizer of torch's class, which pickle does not find under its name while ours has it."""
    return _new_original, (), optimizer.__getstate__()


def _new_original() -> Any:
    return Original.__new__(Original)


def _names(module: str, package: str = "torch") -> dict[str, Any]:
    """Return the names of a module, to change them."""
    try:
        return vars(importlib.import_module(module))
    except ModuleNotFoundError as error:
        text = f"install() needs {package} for this: pip install {package.replace('_', '-')} ({error})"
        raise ModuleNotFoundError(text, name=error.name) from None


def _created_by_timm(theirs: type) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yield the entries that timm creates optimizers from by name, with our classes in place of torch's and timm's."""
    registry = _names("timm.optim._optim_factory")["default_registry"]._optimizers
    for name, info in registry.items():
        ours = {Original: InstalledRMSprop, theirs: RMSpropTF}.get(info.opt_class)
        own = info.defaults or {}
        if ours is not None and not (own.get("caution") or own.get("corrected_weight_decay")):
            yield registry, name, dataclasses.replace(info, opt_class=ours)
