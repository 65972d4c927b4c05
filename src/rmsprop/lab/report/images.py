"""Draw grey images side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rmsprop.lab.report.figures import to_svg

COLUMNS = 10


def draw_images(images: NDArray[Any]) -> str:
    """Draw images (images × height × width) of numbers from 0, black, to 1, white; return an SVG."""
    whole = mosaic(images)
    figure = Figure(figsize=(4.6, 4.6 * whole.shape[0] / whole.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(whole, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return to_svg(figure)


def mosaic(images: NDArray[Any]) -> NDArray[Any]:
    """Return images as one, `COLUMNS` in a row. NaN, which is not drawn, stands between them and for missing ones."""
    count, height, width = images.shape
    rows = -(-count // COLUMNS)
    tiles = np.full((rows * COLUMNS, height + 1, width + 1), np.nan)
    tiles[:count, :height, :width] = images
    whole = tiles.reshape(rows, COLUMNS, height + 1, width + 1).swapaxes(1, 2)
    return whole.reshape(rows * (height + 1), COLUMNS * (width + 1))[:-1, :-1]
