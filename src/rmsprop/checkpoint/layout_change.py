"""Layout changes between Keras and PyTorch: transposed axes, joined axes, and blocks of gates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from rmsprop.rule import Array

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class LayoutChange:
    """A change of one array's layout. Axes are indices into the source's shape. Sizes end with the channels.

    Parameters
    ----------
    axes
        Axes of a transpose, as in `numpy.transpose`.
    inputs
        Sizes (height, width, channels) that a Flatten joined into the axis of inputs. PyTorch joins them as
        (channels, height, width).
    outputs
        The same for the axis of outputs, if a Reshape splits it.
    blocks
        Order of equal blocks of outputs, such as the gates of a GRU.
    """

    axes: Sizes | None = None
    inputs: Sizes | None = None
    outputs: Sizes | None = None
    blocks: Sizes | None = None

    def problem(self, shape: Sizes, channels_last: bool) -> str | None:
        """Return why this change does not fit a source array of `shape`; None if it fits."""
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

    def inverse(self) -> LayoutChange:
        """Return the change from the target's layout to the source's."""
        axes = None if self.axes is None else tuple(int(i) for i in np.argsort(self.axes))
        blocks = None if self.blocks is None else tuple(int(i) for i in np.argsort(self.blocks))
        return replace(self, axes=axes, blocks=blocks)

    def apply(self, array: Array, channels_last: bool) -> Array:
        """Return `array` in the target's layout. `channels_last` is True if the source has Keras' layout."""
        for _, sizes, axis in self._joined(array.ndim, channels_last):
            before, after = array.shape[:axis], array.shape[axis + 1 :]
            last = axis + len(sizes) - 1
            if channels_last:
                split = np.moveaxis(array.reshape(*before, *sizes, *after), last, axis)
            else:
                split = np.moveaxis(array.reshape(*before, sizes[-1], *sizes[:-1], *after), axis, last)
            array = split.reshape(array.shape)
        if self.blocks is not None:
            axis = array.ndim - 1 if channels_last else 0
            parts = np.split(array, len(self.blocks), axis)
            array = np.concatenate([parts[i] for i in self.blocks], axis)
        if self.axes is not None:
            array = np.transpose(array, self.axes)
        return array.copy(order="C")

    def _joined(self, ndim: int, channels_last: bool) -> list[tuple[str, Sizes, int]]:
        """Return (mapping key, sizes, axis) of each joined axis."""
        outputs = ndim - 1 if channels_last else 0
        sides = (("flatten", self.inputs, ndim - 1 - outputs), ("reshape", self.outputs, outputs))
        return [(name, sizes, axis) for name, sizes, axis in sides if sizes is not None]
