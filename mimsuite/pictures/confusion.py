"""Which classes are taken for which: a table for programs, a picture for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.storage import write_rows
from mimsuite.errors import InputError
from mimsuite.pictures.figures import new_figure, save_figure
from mimsuite.pictures.palette import EMPTY, GRID
from mimsuite.pictures.text import keep_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

MOST = 100
"""Classes in a picture; of more, those that are recognised worst."""

_NUMBERED = 30  # classes up to which the cells hold numbers
_LONGEST = 24  # letters of a name
_INCH = 100  # pixels


def write_confusion(counts: Tensor, path: Path, names: Sequence[str] | None = None) -> None:
    """Writes a CSV: a header with the predicted classes, then a line per true class with its images per prediction.

    Args:
        counts: `(K, K)` integers, rows true, columns predicted.
        path: the file; its folder is made.
        names: of the K classes; None for their numbers.

    Raises:
        InputError: another number of names than classes.
    """
    names = _names(len(counts), names)
    rows = zip(names, counts.tolist(), strict=True)
    write_rows(path, ["true \\ predicted", *names], ([name, *row] for name, row in rows))


def draw_confusion(counts: Tensor, out: Path, names: Sequence[str] | None = None) -> None:
    """Draws the share of each true class that was taken for each class, and saves a PNG.

    Rows are true classes, columns predicted ones; a row without images is grey. Up to 30 classes the cells hold their
    share in per cent (from 0.5 on), and the rows their number of images. Of more than 100 classes the 100 with the
    lowest accuracy are drawn (in their order, classes without images excluded), and the title says so.

    Args:
        counts: `(K, K)` integers, rows true, columns predicted.
        out: the PNG; its folder is made.
        names: of the K classes; None for their numbers.

    Raises:
        InputError: another number of names than classes, or no images.
    """
    names = [keep_ends(name, _LONGEST) for name in _names(len(counts), names)]
    table: NDArray[np.int64] = counts.numpy()
    images = table.sum(1)
    if not images.any():
        raise InputError("a confusion matrix without images cannot be drawn; check data= and split=")
    shares = table / np.where(images, images, np.nan)[:, None]
    chosen = _worst(shares.diagonal())
    title = f"top-1 accuracy {table.trace() / images.sum():.1%} of {images.sum():,} images"
    if len(chosen) < len(counts):
        title += f"; the {len(chosen)} of {len(counts):,} classes with the lowest accuracy"
    numbered = len(chosen) <= _NUMBERED
    rows = [f"{names[c]} ({images[c]:,})" if numbered else names[c] for c in chosen]
    figure = _draw_table(shares[np.ix_(chosen, chosen)], rows, [names[c] for c in chosen], title, numbered=numbered)
    save_figure(figure, out, bbox_inches="tight", pad_inches=0.15)


def _draw_table(
    shares: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], title: str, *, numbered: bool
) -> Figure:
    """Cells with their colours, names and scale; names lie outside of the figure, and saving makes room for them."""
    from matplotlib.colors import PowerNorm

    cell, size = (max(44, 240 // len(shares)), 9) if numbered else (15, 7)
    side = cell * len(shares)
    figure = new_figure(side / _INCH, side / _INCH, dpi=_INCH, fitted=False)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_facecolor(EMPTY)
    # The square root of the share: few images that are taken for another class would be as pale as none.
    image = axis.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axis.set_xticks(range(len(shares)), columns, rotation=90, fontsize=size, parse_math=False)
    axis.set_yticks(range(len(shares)), rows, fontsize=size, parse_math=False)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class (images)" if numbered else "true class")
    axis.set_title(title, fontsize=11, loc="left")
    tall = min(side, 400) / side
    scale = figure.add_axes((1 + 25 / side, 1 - tall, 16 / side, tall))
    ticks = [0, 0.01, 0.05, 0.2, 0.5, 1]
    label = "share of the row (cells: in %)" if numbered else "share of the row"
    bar = figure.colorbar(image, cax=scale, ticks=ticks, format="{x:.0%}", label=label)
    bar.outline.set_visible(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    if numbered:
        _number_cells(axis, shares, size)
    else:
        _rule(axis, len(shares))
    return figure


def _number_cells(axis: Axes, shares: NDArray[np.float64], size: int) -> None:
    """Writes the shares from 0.5 per cent on into their cells."""
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            colour = "white" if share > 0.3 else "black"
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=size, color=colour)


def _rule(axis: Axes, classes: int) -> None:
    """Draws a line after every tenth class: the eye follows a row more easily."""
    for place in range(10, classes, 10):
        axis.axhline(place - 0.5, color=GRID, linewidth=0.5)
        axis.axvline(place - 0.5, color=GRID, linewidth=0.5)


def _names(classes: int, names: Sequence[str] | None) -> list[str]:
    if names is not None and len(names) != classes:
        raise InputError(f"{len(names)} names for {classes} classes; give one each, or none")
    return [str(number) for number in range(classes)] if names is None else list(names)


def _worst(accuracies: NDArray[np.float64]) -> NDArray[np.int64]:
    """The classes to draw, ascending: all, or the `MOST` with the lowest accuracy."""
    if len(accuracies) <= MOST:
        return np.arange(len(accuracies))
    order = np.argsort(accuracies, kind="stable")  # NaN, of classes without images, comes last
    return np.sort(order[: min(MOST, int(np.isfinite(accuracies).sum()))])
