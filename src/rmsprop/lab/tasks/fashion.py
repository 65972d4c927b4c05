"""The task "fashion": all of Fashion-MNIST, clothes of 28 × 28 pixels, and a small convolutional network."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rmsprop.lab.data_files import check, debian_directory, reading
from rmsprop.lab.task import Task

_SOURCE = "dataset-fashion-mnist"
_TRAIN, _VALIDATION, _TEST = 50_000, 10_000, 10_000


def model() -> nn.Module:
    """Return a network of two convolutions with pooling and one linear layer (about 29,000 parameters)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def fashion() -> Task:
    """Return the task: one of ten kinds of clothes, from a grey image.

    Source: Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), in Debian's dataset-fashion-mnist, MIT; 31 MB. The 10,000
    test images are those of the data set; of its 60,000 training images, the last 10,000 are for validation. The
    metric is accuracy.
    """
    directory = debian_directory("fashion", _SOURCE, "usr/share/datasets/fashion-mnist")
    images, labels = _read(directory, "train", _TRAIN + _VALIDATION)
    train, validation = map(TensorDataset, images.tensor_split((_TRAIN,)), labels.tensor_split((_TRAIN,)))
    test = TensorDataset(*_read(directory, "t10k", _TEST))
    return Task("fashion", model, train, validation, test, batch_size=64, epochs=3)


def _read(directory: Path, part: str, count: int) -> tuple[Tensor, Tensor]:
    """Return the images (count × 1 × 28 × 28, from 0 to 1) and labels of a part."""
    images = _idx(directory / f"{part}-images-idx3-ubyte.gz", (count, 28, 28))
    labels = _idx(directory / f"{part}-labels-idx1-ubyte.gz", (count,)).long()
    return images.unsqueeze(1).float() / 255, labels


def _idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Return the content of a compressed IDX file: two zeros, type 8 (bytes), the number of sizes, sizes, data."""
    with (
        reading(path, f"an array of {' × '.join(map(str, shape))} bytes", f"install {_SOURCE} again"),
        gzip.open(path) as file,
    ):
        data = file.read()
        start = 4 + 4 * len(shape)
        sizes = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
        check(data[:4] == bytes((0, 0, 8, len(shape))), "another format")
        check(sizes == shape, f"sizes {sizes}")
        return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())
