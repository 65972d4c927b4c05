"""Where an optimizer's state dict stands in a file: what torch.save wrote, SB3's archive, or our own .safetensors."""

from __future__ import annotations

import argparse
import datetime
import io
import pathlib
import pickle
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.checkpoint.formats import trees
from rmsprop.checkpoint.formats.archives import check_archive, read_json
from rmsprop.checkpoint.formats.packages import import_package
from rmsprop.checkpoint.formats.pickled_values import search
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.checkpoint.formats.torch_file import TorchFile
from rmsprop.errors import InputError, Received

OPTIMIZER = "policy.optimizer.pth"  # in the archive that SB3 saves


def saved_state(path: Path, budget: ReadBudget) -> tuple[dict[str, Any], str | None]:
    """Return the state dict in a file, and the kind if its place tells."""
    if path.suffix == ".safetensors":
        return _from_safetensors(path, budget), None
    content, where = archived(path, budget)
    found = _optimizers(TorchFile(content, budget).value, budget)
    saved = _only(path, found)
    if where and any("foreach" in group or "lr_in_momentum" in group for group in saved["param_groups"]):
        where = None  # an SB3 model may train with any optimizer
    return saved, where


def loaded_by_torch(path: Path) -> tuple[dict[str, Any], Any]:
    """Return the state dict in a file as torch loads it, and all that was saved, which it is part of."""
    budget = ReadBudget(path)
    if path.suffix == ".safetensors":
        whole = _from_safetensors(path, budget)
        return whole, whole
    torch = import_package("torch", "torch", "a file of PyTorch")
    content, _ = archived(path, budget)
    with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
        warnings.simplefilter("ignore")  # of torch on old forms of files, which it reads
        try:
            loaded = torch.load(content, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            found = Received("one that holds objects of other classes")
            remedy = "save optimizer.state_dict() alone, and give that"
            raise InputError("like", "a file of tensors, numbers and text, to be written anew", found, remedy) from None
    return _only(path, _optimizers(loaded, budget)), loaded


def archived(path: Path, budget: ReadBudget) -> tuple[Path | io.BytesIO, str | None]:
    """Return the file of torch.save that `path` is, or that SB3's archive holds, and the kind if that tells."""
    check_archive(path, budget)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("optimizer.pth")]
            if names and names != [OPTIMIZER]:
                found = Received(", ".join(names))
                raise InputError(str(path), f"an archive with {OPTIMIZER}", found, "unpack the one and give that")
            if names:
                return io.BytesIO(archive.read(OPTIMIZER)), "sb3"
    return path, None


def holds_optimizer(path: Path) -> bool:
    """Return whether a file is an archive of SB3."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return OPTIMIZER in archive.namelist()


def _harmless() -> list[Any]:
    """Return the classes beside tensors that a template may hold: making them does nothing else."""
    functions = [np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [
        argparse.Namespace, types.SimpleNamespace, dict, list, set, int, float, str, tuple,
        pathlib.PosixPath, pathlib.PurePosixPath, datetime.datetime, datetime.date, datetime.timedelta,
        np.dtype, np.ndarray, *functions, *dtypes,
    ]  # fmt: skip


def _optimizers(value: Any, budget: ReadBudget) -> list[tuple[str, dict[str, Any]]]:
    """Return the state dicts of optimizers in what torch.save wrote, each with how a program reaches it."""
    return search(value, budget, _is_optimizer, depth=6)


def _is_optimizer(value: Any) -> bool:
    return (
        isinstance(value, dict) and isinstance(value.get("param_groups"), list) and isinstance(value.get("state"), dict)
    )


def _only(path: Path, found: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    if len(found) == 1:
        return found[0][1]
    if not found:
        remedy = "save {'optimizer': optimizer.state_dict()}"
        raise InputError(str(path), "a file with one optimizer's state_dict()", Received("none in it"), remedy)
    names = ", ".join(where for where, _ in found[:4])
    remedy = f"save one: torch.save(torch.load({path.name!r}){found[0][0]}, 'one.pt')"
    raise InputError(str(path), "a file with one optimizer's state_dict()", Received(f"{len(found)}: {names}"), remedy)


def _from_safetensors(path: Path, budget: ReadBudget) -> dict[str, Any]:
    flat, metadata = trees.read_safetensors(path, budget)
    groups = read_json(path, metadata["param_groups"])
    state: dict[Any, dict[str, Any]] = {}
    for key, value in flat.items():
        _, index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}
