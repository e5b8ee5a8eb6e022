"""Pictures of images: rows of them, and tables of them with a word above each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES = 1.3


def rows_plot(rows: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Return rows of images, (images, height, width) or with channels, each row with a word at its left."""
    from matplotlib.figure import Figure

    columns = len(rows[0])
    figure = Figure(figsize=(INCHES * columns, INCHES * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, images, title in zip(axes, rows, titles, strict=True):
        for place, image in zip(line, images, strict=True):
            _show(place, image)
        line[0].set_ylabel(title)
    return figure


def table_plot(
    title: str, images: np.ndarray, titles: Sequence[str], *, columns: int, is_signed: bool = False
) -> Figure:
    """Return images, (images, height, width), with a word above each; signed ones in blue and red around 0."""
    from matplotlib.figure import Figure

    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(INCHES * columns, INCHES * rows + 0.4), layout="constrained")
    figure.suptitle(title)
    largest = float(np.abs(images).max()) if is_signed and len(images) else None
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).ravel()):
        if place >= len(images):
            axes.set_axis_off()
            continue
        _show(axes, images[place], largest)
        axes.set_title(titles[place], fontsize=7)
    return figure


def _show(axes: object, image: np.ndarray, largest: float | None = None) -> None:
    """Draw an image: grey ones dark on white, signed ones in blue and red, those with three channels as they are."""
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    signed = {"cmap": "RdBu", "vmin": -largest, "vmax": largest} if largest is not None else {"cmap": "gray_r"}
    shown = np.clip(image, 0, 1) if image.ndim == 3 else image
    axes.imshow(shown, **signed)  # type: ignore[attr-defined]
    axes.set(xticks=[], yticks=[])  # type: ignore[attr-defined]
