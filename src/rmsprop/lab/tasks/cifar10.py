"""The task "cifar10": CIFAR-10 from a directory of yours, colour photographs of 32 × 32 pixels, and a small network."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rmsprop.errors import InputError, Received
from rmsprop.lab.data_files import check, reading
from rmsprop.lab.task import Task

VARIABLE = "RMSPROP_CIFAR10"
IMAGES = 10_000  # in each file
_DIRECTORIES = ("data/cifar-10-batches-py", "data/cifar-10-batches-bin")  # the first is that of torchvision
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
_VALIDATION = "data_batch_5"  # held out from training
_PIXELS = 3 * 32 * 32
_REMEDY = "unpack cifar-10-python.tar.gz or cifar-10-binary.tar.gz again"
# What a pickle of a NumPy array names, in files of the Python version. Nothing else is called.
_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def model() -> nn.Module:
    """Return a network of two convolutions with pooling and one linear layer (about 20,000 parameters)."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(48 * 4 * 4, 10),
    )


def cifar10() -> Task:
    """Return the task: one of ten kinds of things, from a colour image.

    Source: CIFAR-10 (Krizhevsky 2009), 60,000 images, 170 MB. No package has it. The environment variable
    RMSPROP_CIFAR10 names its directory; without it, ./data/cifar-10-batches-py is read, where torchvision unpacks it,
    or ./data/cifar-10-batches-bin. Both the Python and the binary version are read, without running code of the files.
    The 10,000 test images are those of the data set; data_batch_5, 10,000 more, is for validation. The metric is
    accuracy.
    """
    directory = _directory()
    train = [_read(directory, batch) for batch in BATCHES if batch != _VALIDATION]
    return Task(
        "cifar10",
        model,
        train=TensorDataset(torch.cat([images for images, _ in train]), torch.cat([labels for _, labels in train])),
        validation=TensorDataset(*_read(directory, _VALIDATION)),
        test=TensorDataset(*_read(directory, "test_batch")),
        batch_size=64,
        epochs=8,
    )


def _directory() -> Path:
    """Return the directory of the data."""
    named = os.environ.get(VARIABLE)
    candidates = [Path(named)] if named else [Path(name) for name in _DIRECTORIES]
    for directory in candidates:
        if any((directory / name).is_file() for name in ("test_batch.bin", "test_batch")):
            return directory
    if named:
        allowed, remedy = "a directory with test_batch or test_batch.bin", "unpack cifar-10-python.tar.gz there"
        raise InputError(VARIABLE, allowed, named, remedy)
    allowed, found = "run with CIFAR-10 in a directory", Received(f"none in ./{_DIRECTORIES[0]}")
    remedy = f"unpack cifar-10-python.tar.gz in ./data, or set {VARIABLE} to its directory"
    raise InputError("the task cifar10", allowed, found, remedy)


def _read(directory: Path, batch: str) -> tuple[Tensor, Tensor]:
    """Return images (count × 3 × 32 × 32, from 0 to 1) and labels of a batch, of the version that the directory has."""
    binary = (directory / "test_batch.bin").is_file()
    path = directory / (f"{batch}.bin" if binary else batch)
    with reading(path, f"{IMAGES:,} images of CIFAR-10", _REMEDY):
        pixels, labels = (_binary if binary else _pickled)(path.read_bytes())
        check(pixels.dtype == np.uint8, f"pixels of {pixels.dtype}")
        check(pixels.shape == (IMAGES, _PIXELS), f"an array of {pixels.shape}")
        check(labels.shape == (IMAGES,) and labels.dtype.kind in "iu", "other labels than whole numbers")
        check(set(labels.tolist()) <= set(range(10)), "other labels than 0 to 9")
    images = torch.from_numpy(pixels.astype(np.float32)).view(-1, 3, 32, 32) / 255
    return images, torch.from_numpy(labels.astype(np.int64))


def _binary(data: bytes) -> tuple[Any, Any]:
    """Return pixels and labels: each image is a byte for the label, then the pixels of the three colours."""
    check(len(data) == IMAGES * (1 + _PIXELS), f"{len(data):,} bytes instead of {IMAGES * (1 + _PIXELS):,}")
    table = np.frombuffer(data, np.uint8).reshape(IMAGES, 1 + _PIXELS)
    return table[:, 1:], table[:, 0]


def _pickled(data: bytes) -> tuple[Any, Any]:
    """Return pixels and labels of a pickled dictionary."""
    content = _Arrays(io.BytesIO(data), encoding="bytes").load()
    check(isinstance(content, dict) and {b"data", b"labels"} <= content.keys(), "no dictionary of data and labels")
    check(isinstance(content[b"data"], np.ndarray), "data that are no array")
    return content[b"data"], np.array(content[b"labels"])


class _Arrays(pickle.Unpickler):
    """Reads NumPy arrays and plain values. A pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the three names that a pickled array needs."""
        check((module, name) in _ARRAYS, f"a pickle that calls {module}.{name}")
        return _ARRAYS[module, name]
