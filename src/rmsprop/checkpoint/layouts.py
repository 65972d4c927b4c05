"""How one array goes between the layouts of Keras and PyTorch: axes, joined axes, and blocks of gates.

axes       transposed as by numpy.transpose
inputs     sizes (height, width, channels) that Flatten joined into the axis of inputs: PyTorch joins
(channels, height, width)
outputs    the same of the axis of outputs, which a Reshape takes apart
blocks     order of the equal blocks of outputs, as of the gates of a GRU
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from rmsprop.checkpoint import Array

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Turn:
    """A turn of one array; its axes are the source's, sizes are always (…, channels)."""

    axes: Sizes | None = None
    inputs: Sizes | None = None
    outputs: Sizes | None = None
    blocks: Sizes | None = None

    def problem(self, shape: Sizes, channels_last: bool) -> str | None:
        """Return why an array of the source of this shape cannot turn so, None if it can."""
        if self.axes is not None and sorted(self.axes) != list(range(len(shape))):
            return f"transpose {list(self.axes)} is no order of its {len(shape)} axes"
        for name, sizes, axis in self._joined(len(shape), channels_last):
            if not shape or len(shape) > 2 or math.prod(sizes) != shape[axis]:
                size = shape[axis] if shape else "no axes"
                return f"{name} {list(sizes)} does not make up {size} of {shape}"
        if self.blocks is not None:
            count = len(self.blocks)
            outputs = shape[-1 if channels_last else 0] if shape else 1
            if not count or sorted(self.blocks) != list(range(count)) or outputs % count:
                return f"blocks {list(self.blocks)} is no order of equal parts of {shape}"
        return None

    def inverse(self) -> Turn:
        """Return the turn back, of an array of the target."""
        axes = None if self.axes is None else tuple(int(i) for i in np.argsort(self.axes))
        blocks = None if self.blocks is None else tuple(int(i) for i in np.argsort(self.blocks))
        return replace(self, axes=axes, blocks=blocks)

    def apply(self, array: Array, channels_last: bool) -> Array:
        """Return the target's array; `channels_last` says whether the source's layout is that of Keras."""
        for _, sizes, axis in self._joined(array.ndim, channels_last):
            before, after = array.shape[:axis], array.shape[axis + 1 :]
            last = axis + len(sizes) - 1
            if channels_last:
                apart = np.moveaxis(array.reshape(*before, *sizes, *after), last, axis)
            else:
                apart = np.moveaxis(array.reshape(*before, sizes[-1], *sizes[:-1], *after), axis, last)
            array = apart.reshape(array.shape)
        if self.blocks is not None:
            axis = array.ndim - 1 if channels_last else 0
            parts = np.split(array, len(self.blocks), axis)
            array = np.concatenate([parts[i] for i in self.blocks], axis)
        if self.axes is not None:
            array = np.transpose(array, self.axes)
        return array.copy(order="C")

    def _joined(self, ndim: int, channels_last: bool) -> list[tuple[str, Sizes, int]]:
        outputs = ndim - 1 if channels_last else 0
        sides = (("flatten", self.inputs, ndim - 1 - outputs), ("reshape", self.outputs, outputs))
        return [(name, sizes, axis) for name, sizes, axis in sides if sizes is not None]
