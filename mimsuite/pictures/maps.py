"""A map of features: every image a point at its first two principal components."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.hashing import permute
from mimsuite.pictures.components import find_components
from mimsuite.pictures.figures import new_figure, save_figure, style_axes
from mimsuite.pictures.palette import POINTS
from mimsuite.pictures.text import escape_mathtext, keep_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND = 12  # classes at most that get colours of their own: six, with two markers
_MARKERS = ("o", "^")
UNLABELLED = "lightgrey"
_NAME = 28  # characters of a class in the legend


class Plane(NamedTuple):
    """Principal components.

    Attributes:
        places: `(N, 2)` float64; their signs are such that the largest weight of each component is positive.
        shares: of the variance that each of the two explains, 0 to 1.
    """

    places: NDArray[np.float64]
    shares: tuple[float, float]


def principal_plane(x: NDArray[np.floating]) -> Plane:
    """The first two principal components of features `(N, D)`; of what has fewer, zeros."""
    if x.shape[1] < 2:
        x = np.pad(x, ((0, 0), (0, 2 - x.shape[1])))
    found = find_components(x, 2)
    whole = max(float(found.variances.sum()), np.finfo(np.float64).tiny)
    return Plane(found.scores, (float(found.variances[0]) / whole, float(found.variances[1]) / whole))


def draw_map(plane: Plane, labels: NDArray[Any] | None, classes: Sequence[str] | None, title: str, out: Path) -> None:
    """Saves a PNG; its folder is made.

    Colours tell classes apart: up to twelve by a legend, more by a scale over their numbers. Numbers have a scale.

    Args:
        plane: the points.
        labels: `(N,)` classes, or floats: numbers, grey where they are NaN or masked; None: all points in one colour.
        classes: names by label; None: numbers.
        title: above the map.
        out: the picture.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = new_figure(9, 7, dpi=110)
    axis = figure.subplots()
    empty = np.ma.getmaskarray(labels) if labels is not None else np.zeros(len(plane.places), dtype=bool)
    if labels is not None and empty.any():
        _points(axis, plane.places[empty], np.full(int(empty.sum()), UNLABELLED))
        plane, labels = plane._replace(places=plane.places[~empty]), np.ma.getdata(labels)[~empty]
    present = np.unique(labels) if labels is not None else np.zeros(0, dtype=np.int64)
    if labels is None:
        _points(axis, plane.places, np.full(len(plane.places), POINTS[0]))
    elif np.issubdtype(labels.dtype, np.floating):
        known = labels[np.isfinite(labels)]
        ends = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        scale = ScalarMappable(Normalize(*ends), colormaps["viridis"].with_extremes(bad=UNLABELLED))
        _points(axis, plane.places, scale.to_rgba(labels))
        figure.colorbar(scale, ax=axis, label="label", pad=0.01)
    elif len(present) <= LEGEND:
        _few(figure, axis, plane.places, labels, present, classes, unlabelled=bool(empty.any()))
    else:
        scale = ScalarMappable(Normalize(0, int(present[-1])), colormaps["viridis"])
        _points(axis, plane.places, scale.to_rgba(labels))
        figure.colorbar(scale, ax=axis, label=f"number of the class ({len(present)} classes)", pad=0.01)
    axis.set_xlabel(f"first principal component ({plane.shares[0]:.1%} of the variance)")
    axis.set_ylabel(f"second principal component ({plane.shares[1]:.1%} of the variance)")
    axis.set_title(escape_mathtext(keep_ends(title, 100)), fontsize=10)
    axis.set_aspect("equal", adjustable="datalim")
    style_axes(axis)
    axis.set_axisbelow(True)
    save_figure(figure, out)


def _few(
    figure: Figure,
    axis: Axes,
    places: NDArray[np.float64],
    labels: NDArray[np.int64],
    present: NDArray[np.int64],
    classes: Sequence[str] | None,
    *,
    unlabelled: bool,
) -> None:
    """Points with a colour and a marker per class, and their legend, in which grey points have no label."""
    number = np.searchsorted(present, labels)
    colours = np.array(POINTS)[number % len(POINTS)]
    for i, marker in enumerate(_MARKERS):
        chosen = number // len(POINTS) == i
        if chosen.any():
            _points(axis, places[chosen], colours[chosen], marker)
    keys = []
    for i, label in enumerate(present.tolist()):
        name = classes[label] if classes is not None and 0 <= label < len(classes) else str(label)
        colour, marker = POINTS[i % len(POINTS)], _MARKERS[i // len(POINTS)]
        text = escape_mathtext(keep_ends(name, _NAME))
        keys += axis.plot([], [], linestyle="", color=colour, marker=marker, markersize=7, label=text)
    if unlabelled:
        keys += axis.plot([], [], linestyle="", color=UNLABELLED, marker="o", markersize=7, label="no label")
    figure.legend(handles=keys, loc="outside right upper", frameon=False, title="class")


def _points(axis: Axes, places: NDArray[np.float64], colours: NDArray[Any], marker: str = "o") -> None:
    """Scatters points in an order that has nothing to do with their classes, so that none covers the others."""
    order = permute(len(places), 0)
    size = float(np.clip(20_000 / max(len(places), 1), 6, 36))
    x, y = places[order].T
    axis.scatter(x, y, s=size, c=colours[order], marker=marker, alpha=0.75, linewidths=0)
