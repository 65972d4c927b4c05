"""The task "cifar10": both versions of a directory are read alike; damaged and hostile files give one line."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from rmsprop import InputError
from rmsprop.lab import load_task
from rmsprop.lab.tasks import cifar10

COUNT = 20  # images in each file here


class Python2(pickle._Pickler):
    """Writes bytes as Python 2 wrote its text, which the files of CIFAR-10 hold."""

    dispatch: ClassVar[dict[type, Callable[..., None]]] = {
        **pickle._Pickler.dispatch,
        bytes: lambda pickler, data: pickler.write(b"T" + struct.pack("<i", len(data)) + data),
    }


def pickled(content: object) -> bytes:
    file = io.BytesIO()
    Python2(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")  # the name before NumPy 2


def tensors(data: Any) -> tuple[Tensor, ...]:
    assert isinstance(data, TensorDataset)
    return data.tensors


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a small CIFAR-10, both versions: data/cifar-10-batches-py and -bin. Return the directory data."""
    monkeypatch.setattr(cifar10, "IMAGES", COUNT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(cifar10.VARIABLE, raising=False)
    source = np.random.default_rng(0)
    for version in ("py", "bin"):
        Path(f"data/cifar-10-batches-{version}").mkdir(parents=True)
    for name in (*cifar10.BATCHES, "test_batch"):
        pixels, labels = source.integers(0, 256, (COUNT, 3072), np.uint8), source.integers(0, 10, COUNT, np.uint8)
        content = {b"batch_label": name.encode(), b"labels": labels.tolist(), b"data": pixels, b"filenames": [b"a.png"]}
        Path(f"data/cifar-10-batches-py/{name}").write_bytes(pickled(content))
        Path(f"data/cifar-10-batches-bin/{name}.bin").write_bytes(np.c_[labels, pixels].tobytes())
    return tmp_path / "data"


def test_both_versions_of_cifar10_are_read_alike(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [load_task("cifar10")]
    for version in ("py", "bin"):
        monkeypatch.setenv(cifar10.VARIABLE, str(cifar / f"cifar-10-batches-{version}"))
        tasks.append(load_task("cifar10"))
    shutil.rmtree(cifar / "cifar-10-batches-py")
    monkeypatch.delenv(cifar10.VARIABLE)
    tasks.append(load_task("cifar10"))
    raw = np.fromfile(cifar / "cifar-10-batches-bin" / "test_batch.bin", np.uint8).reshape(COUNT, 3073)
    for task in tasks:
        task.try_out()
        assert [len(tensors(part)[0]) for part in (task.train, task.validation, task.test)] == [80, 20, 20]
        images, labels = tensors(task.test)
        assert images.shape == (COUNT, 3, 32, 32)
        assert labels.tolist() == raw[:, 0].tolist()
        assert torch.equal((images * 255).round().flatten(1), torch.tensor(raw[:, 1:]).float())
        assert all(torch.equal(x, y) for x, y in zip(tensors(task.train), tensors(tasks[0].train), strict=True))


def test_a_directory_without_cifar10_gives_one_line(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cifar10.VARIABLE, str(cifar))
    with pytest.raises(InputError) as error:
        load_task("cifar10")
    assert str(error.value) == (
        f"RMSPROP_CIFAR10 must be a directory with test_batch or test_batch.bin, got {str(cifar)!r}; "
        "unpack cifar-10-python.tar.gz there"
    )
    monkeypatch.delenv(cifar10.VARIABLE)
    monkeypatch.chdir(cifar)
    with pytest.raises(InputError) as error:
        load_task("cifar10")
    assert str(error.value) == (
        "the task cifar10 must be run with CIFAR-10 in a directory, got none in ./data/cifar-10-batches-py; "
        "unpack cifar-10-python.tar.gz in ./data, or set RMSPROP_CIFAR10 to its directory"
    )


@pytest.mark.parametrize(
    ("version", "change", "found"),
    [
        ("bin", lambda data: data[:-1], "61,459 bytes instead of 61,460"),
        ("bin", lambda data: data[:-3073], "58,387 bytes instead of 61,460"),
        ("bin", lambda data: b"\n" + data[1:], "other labels than 0 to 9"),
        ("bin", None, "FileNotFoundError"),
        ("py", lambda data: data[:-2000], ""),
        ("py", lambda data: b"", "EOFError: Ran out of input"),
        ("py", lambda data: b"\x1f\x8b" + data, ""),
        ("py", lambda data: pickled([1, 2]), "no dictionary of data and labels"),
        ("py", lambda data: pickled({b"data": [1], b"labels": [1]}), "data that are no array"),
        (
            "py",
            lambda data: pickled({b"data": np.zeros((19, 3072), np.uint8), b"labels": [1] * 19}),
            "an array of (19, ",
        ),
        ("py", lambda data: pickled({b"data": np.zeros((20, 3072)), b"labels": [1] * 20}), "pixels of float64"),
        (
            "py",
            lambda data: pickled({b"data": np.zeros((20, 3072), "u1"), b"labels": [1.5] * 20}),
            "other labels than w",
        ),
        (
            "py",
            lambda data: pickled({b"data": np.zeros((20, 3072), "u1"), b"labels": [10] * 20}),
            "other labels than 0",
        ),
    ],
)
def test_a_damaged_file_of_cifar10_gives_one_line(
    version: str, change: Callable[[bytes], bytes] | None, found: str, cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = cifar / f"cifar-10-batches-{version}"
    monkeypatch.setenv(cifar10.VARIABLE, str(directory))
    file = directory / ("data_batch_3.bin" if version == "bin" else "data_batch_3")
    data = file.read_bytes()
    file.unlink()
    if change is not None:
        file.write_bytes(change(data))
    with pytest.raises(InputError) as error:
        load_task("cifar10")
    assert str(error.value).startswith(f"the file {file} must be one with 20 images of CIFAR-10, got {found}")
    assert "\n" not in str(error.value)


class Hostile:
    """Its pickle calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_calls_functions_is_refused_and_calls_none(protocol: int, cifar: Path) -> None:
    mark = cifar / "called"
    for hostile in (
        Hostile(os.mkdir, str(mark)),
        Hostile(exec, f"open({str(mark)!r}, 'w')"),
        Hostile(getattr, 1, "real"),
    ):
        content = {b"data": hostile, b"labels": [1] * COUNT}
        (cifar / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(InputError, match="got a pickle that calls "):
            load_task("cifar10")
        assert not mark.exists()
