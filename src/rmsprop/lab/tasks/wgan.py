"""The task "wgan": images of digits from noise, by a Wasserstein GAN with clamped weights."""

from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rmsprop.lab.adversarial import CriticAndGenerator, WassersteinTask
from rmsprop.lab.random_state import random_state, seed_everything, set_random_state
from rmsprop.lab.tasks.digits import digits
from rmsprop.torch import RMSprop

NOISE, WIDTH = 32, 128
FEATURES = 32  # of the classifier's last hidden layer
_EPOCHS, _LR = 30, 0.001  # of the classifier


def networks() -> CriticAndGenerator:
    """Return a critic and a generator, each of two hidden layers of 128 units."""
    critic = nn.Sequential(
        nn.Linear(64, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, 1)
    )
    generator = nn.Sequential(
        nn.Linear(NOISE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 64), nn.Sigmoid()
    )
    return CriticAndGenerator(critic, generator)


def wgan() -> WassersteinTask:
    """Return the task: images of 8 × 8 pixels that look like handwritten digits, from 32 random numbers.

    Source: the images of the task digits, and its split. Settings are those of Arjovsky, Chintala and Bottou (2017):
    batches of 64, 5 steps of the critic for each of the generator, the critic's weights clamped to ±0.01. An epoch has
    200 steps of the generator. The metric is the Fréchet distance of features of a classifier of digits.
    """
    train, validation, test = (TensorDataset(images) for images, _ in _parts())
    features = classifier()[0]
    return WassersteinTask("wgan", networks, train, validation, test, features=features, noise=NOISE, epochs=50)


def _parts() -> list[tuple[Tensor, ...]]:
    """Return images and digits for training, validation and test."""
    task = digits()
    return [cast(TensorDataset, part).tensors for part in (task.train, task.validation, task.test)]


@cache
def classifier() -> nn.Sequential:
    """Return a trained classifier: the layers up to the features (images × 32), and the layer of the scores.

    It is trained on the training images, always from the same start and in one thread: a resumed run needs the same
    score. Its accuracy on the test data is 95 %.
    """
    images, labels = _parts()[0]
    before, threads = random_state(), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        seed_everything(0)
        hidden = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, FEATURES), nn.ReLU())
        model = nn.Sequential(hidden, nn.Linear(FEATURES, 10))
        optimizer = RMSprop(model.parameters(), lr=_LR)
        for _ in range(_EPOCHS):
            for chosen in torch.split(torch.randperm(len(images)), 64):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    finally:
        torch.set_num_threads(threads)
        set_random_state(before)
    model.requires_grad_(requires_grad=False)
    return model
