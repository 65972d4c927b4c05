"""The task "digits": handwritten digits of 8 × 8 pixels, which train in a second."""

import torch
from torch import nn

from rmsprop.lab.data import split
from rmsprop.lab.task import Task


def model() -> nn.Module:
    """Return a network of two hidden layers of 64 units."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def digits() -> Task:
    """Return the task: 1,797 images of 10 classes from scikit-learn (UCI optical digits, Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    train, validation, test = split(torch.from_numpy(images).float() / 16, torch.from_numpy(labels))
    return Task("digits", model, train, validation, test, batch_size=64, epochs=10)
