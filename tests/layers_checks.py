"""Models in Keras and the same in PyTorch: convert moves weights and state; outputs and training stay the same.

test_convert_layers.py runs this file in a process of its own, because Keras reads its backend when it is imported.
"""

from __future__ import annotations

import os

os.environ |= {
    "KERAS_BACKEND": "jax",
    "JAX_ENABLE_X64": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch
from keras import layers
from torch import nn

from rmsprop.cli.app import run
from rmsprop.torch import RMSprop

keras.config.set_floatx("float64")
torch.set_default_dtype(torch.float64)
BATCH, STEPS = 4, 3
RULE: dict[str, Any] = {"momentum": 0.5, "centered": True}


class Last(nn.Module):
    """Returns the outputs of a recurrent layer at the last step."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last: torch.Tensor = self.inner(x)[0][:, -1]
        return last


class Turned(nn.Module):
    """Turns (batch, length, channels) into (batch, channels, length)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


class Largest(nn.Module):
    """Global maximum pooling, because Keras computes means in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax((2, 3))


def image() -> tuple[Any, nn.Module, tuple[int, ...]]:
    there = [
        keras.Input((6, 8, 3)), layers.Conv2D(4, 3, padding="same"), layers.ReLU(), layers.MaxPooling2D(),
        layers.Dropout(0.0), layers.Flatten(), layers.Dense(5), layers.Dense(2),
    ]  # fmt: skip
    here = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 5), nn.Linear(5, 2)
    )
    return keras.Sequential(there), here, (6, 8, 3)


def normalized() -> tuple[Any, nn.Module, tuple[int, ...]]:
    """Keras computes these layers in float32, whatever their dtype."""
    there = [
        keras.Input((4, 3, 3)), layers.Conv2D(4, 2), layers.BatchNormalization(), layers.Flatten(),
        layers.BatchNormalization(), layers.LayerNormalization(), layers.Dense(2),
    ]  # fmt: skip
    here = nn.Sequential(
        nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4, eps=1e-3, momentum=0.01), nn.Flatten(),
        nn.BatchNorm1d(24, eps=1e-3, momentum=0.01), nn.LayerNorm(24, eps=1e-3), nn.Linear(24, 2),
    )  # fmt: skip
    return keras.Sequential(there), here, (4, 3, 3)


def generator() -> tuple[Any, nn.Module, tuple[int, ...]]:
    there = [
        keras.Input((5,)), layers.Dense(24), layers.LeakyReLU(0.25), layers.Reshape((3, 4, 2)),
        layers.Conv2DTranspose(3, 3), layers.DepthwiseConv2D(3), layers.SeparableConv2D(4, 2),
        layers.GlobalMaxPooling2D(), layers.Dense(2),
    ]  # fmt: skip
    here = nn.Sequential(
        nn.Linear(5, 24), nn.LeakyReLU(0.25), nn.Unflatten(1, (2, 3, 4)), nn.ConvTranspose2d(2, 3, 3),
        nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 3, 2, groups=3, bias=False), nn.Conv2d(3, 4, 1), Largest(),
        nn.Linear(4, 2),
    )  # fmt: skip
    return keras.Sequential(there), here, (5,)


def series() -> tuple[Any, nn.Module, tuple[int, ...]]:
    a = keras.Input((7, 3))
    b = layers.Conv1D(4, 3)(a)
    c = layers.Add()([layers.Conv1D(4, 3)(a), b])
    there = keras.Model(a, layers.Dense(2)(layers.Flatten()(c)))

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv1d(3, 4, 3), nn.Conv1d(3, 4, 3), nn.Linear(20, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            joined: torch.Tensor = self.last((self.first(x) + self.second(x)).flatten(1))
            return joined

    return there, nn.Sequential(Turned(), Both()), (7, 3)


def recurrent() -> tuple[Any, nn.Module, tuple[int, ...]]:
    """Keras starts these layers with a state in float32."""
    there = [
        keras.Input((4, 3)), layers.LSTM(5, use_bias=False, return_sequences=True), layers.GRU(4, use_bias=False),
        layers.Dense(2),
    ]  # fmt: skip

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LSTM(3, 5, bias=False, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            whole: torch.Tensor = self.inner(x)[0]
            return whole

    here = nn.Sequential(First(), Last(nn.GRU(5, 4, bias=False, batch_first=True)), nn.Linear(4, 2))
    return keras.Sequential(there), here, (4, 3)


def close(a: Any, b: Any, what: str) -> None:
    size = 1e-4 if what.startswith(("normalized", "recurrent")) else 1e-11
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=size, atol=size, err_msg=what)


def check(name: str, make: Callable[[], tuple[Any, nn.Module, tuple[int, ...]]], folder: Path) -> None:
    keras.utils.set_random_seed(0)
    there, here, shape = make()
    there.compile(keras.optimizers.RMSprop(0.01, rho=0.9, epsilon=1e-3, **RULE), "mse")
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((BATCH, *shape)), rng.standard_normal((BATCH, 2))
    images = torch.from_numpy(np.moveaxis(x, -1, 1).copy() if len(shape) == 3 else x)

    wanted = torch.from_numpy(y)

    def outputs(model: Any) -> Any:
        return model(x, training=False)

    def train_there() -> None:
        there.fit(x, y, batch_size=BATCH, epochs=STEPS, shuffle=False, verbose=0)

    train_there()
    there.save(folder / f"{name}.keras")
    optimizer = RMSprop(here.parameters(), lr=0.01, **RULE)
    torch.save({"model": here.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, folder / f"{name}.pt")
    moved = folder / f"{name}-moved.pt"
    assert (
        run(["convert", str(folder / f"{name}.keras"), str(moved), "--like", str(folder / f"{name}.pt"), "--weights"])
        == 0
    )
    saved = torch.load(moved, weights_only=True)
    assert saved["epoch"] == 3
    here.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    close(here.eval()(images).detach(), outputs(there), f"{name}: outputs after the move")

    here.train()
    train_there()
    for _ in range(STEPS):
        optimizer.zero_grad()
        (here(images) - wanted).square().mean().backward()
        optimizer.step()
    torch.save({"model": here.state_dict(), "optimizer": optimizer.state_dict()}, folder / f"{name}-after.pt")
    back = folder / f"{name}-back.keras"
    command = [
        "convert",
        str(folder / f"{name}-after.pt"),
        str(back),
        "--like",
        str(folder / f"{name}.keras"),
        "--weights",
    ]
    assert run(command) == 0
    again = keras.models.load_model(back)
    for one, other in zip(again.trainable_variables, there.trainable_variables, strict=True):
        close(one.numpy(), other.numpy(), f"{name}: {other.path} after training on")
    for one, other in zip(again.optimizer.variables, there.optimizer.variables, strict=True):
        close(one.numpy(), other.numpy(), f"{name}: {other.path} after training on")
    close(outputs(again), here.eval()(images).detach(), f"{name}: outputs after the move back")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    for each in (image, normalized, generator, series, recurrent):
        check(each.__name__, each, place)
