"""Find the optimizer's state dict in a file of torch.save, or in an archive of SB3."""

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

from rmsprop.checkpoint.formats.archives import check_archive
from rmsprop.checkpoint.formats.packages import import_package
from rmsprop.checkpoint.formats.pickled_values import search
from rmsprop.checkpoint.formats.read_budget import ReadBudget
from rmsprop.errors import InputError, Received

OPTIMIZER = "policy.optimizer.pth"  # in an archive of SB3


def unpacked(path: Path, budget: ReadBudget) -> tuple[Path | io.BytesIO, bool]:
    """Return the file of torch.save, `path` or an entry of SB3's archive, and whether it is an entry."""
    check_archive(path, budget)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("optimizer.pth")]
            if names and names != [OPTIMIZER]:
                received, remedy = Received(", ".join(names)), "unpack the one and give that"
                raise InputError(str(path), f"an archive with {OPTIMIZER}", received, remedy)
            if names:
                return io.BytesIO(archive.read(OPTIMIZER)), True
    return path, False


def only_state_dict(path: Path, saved: Any, budget: ReadBudget) -> dict[str, Any]:
    """Return the only optimizer state dict in `saved`; raise InputError for none or more than one."""
    matches = search(saved, budget, _is_state_dict, depth=6)
    if len(matches) == 1:
        return matches[0][1]
    if not matches:
        remedy = "save {'optimizer': optimizer.state_dict()}"
        raise InputError(str(path), "a file with one optimizer's state_dict()", Received("none in it"), remedy)
    names = ", ".join(where for where, _ in matches[:4])
    remedy = f"save one: torch.save(torch.load({path.name!r}){matches[0][0]}, 'one.pt')"
    raise InputError(
        str(path), "a file with one optimizer's state_dict()", Received(f"{len(matches)}: {names}"), remedy
    )


def loaded_by_torch(content: Path | io.BytesIO) -> Any:
    """Load a file by torch with weights_only=True, to save it again with another state dict."""
    torch = import_package("torch", "torch", "a file of PyTorch")
    if isinstance(content, io.BytesIO):
        content = io.BytesIO(content.getvalue())
    with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
        warnings.simplefilter("ignore")  # torch reads old file formats with a warning
        try:
            return torch.load(content, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            received = Received("one that holds objects of other classes")
            remedy = "save optimizer.state_dict() alone, and give that"
            raise InputError(
                "like", "a file of tensors, numbers and text, to be written anew", received, remedy
            ) from None


def _harmless() -> list[Any]:
    """Return further classes that torch may construct: constructing them has no side effects."""
    functions = [np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [
        argparse.Namespace, types.SimpleNamespace, dict, list, set, int, float, str, tuple,
        pathlib.PosixPath, pathlib.PurePosixPath, datetime.datetime, datetime.date, datetime.timedelta,
        np.dtype, np.ndarray, *functions, *dtypes,
    ]  # fmt: skip


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict) and isinstance(value.get("param_groups"), list) and isinstance(value.get("state"), dict)
    )
