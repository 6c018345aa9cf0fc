"""A map of features: every image a point at its first two principal components."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.hashing import permutation
from mimsuite.data.tar import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND = 12  # classes at most that get colours of their own
# Okabe and Ito 2008, "Color Universal Design", told apart with every common colour blindness; with two markers for
# twelve classes. Without their black, which hides what lies below it, and their yellow, too pale on white.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = ("o", "^")
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
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    if centred.shape[1] < 2:
        centred = np.pad(centred, ((0, 0), (0, 2 - centred.shape[1])))
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    first, second = (axes[:, -n] * np.sign(axes[np.abs(axes[:, -n]).argmax(), -n]) for n in (1, 2))
    whole = max(float(variances.clip(0).sum()), np.finfo(np.float64).tiny)
    shares = (float(variances[-1].clip(0)) / whole, float(variances[-2].clip(0)) / whole)
    return Plane(centred @ np.stack([first, second], axis=1), shares)


def draw_map(
    plane: Plane, labels: NDArray[np.int64] | None, classes: Sequence[str] | None, title: str, out: Path
) -> None:
    """Saves a PNG; its folder is made.

    Colours tell classes apart: up to twelve by a legend, more by a scale over their numbers.

    Args:
        plane: the points.
        labels: `(N,)` classes; None: all points in one colour.
        classes: names by label; None: numbers.
        title: above the map.
        out: the picture.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    present = np.unique(labels) if labels is not None else np.zeros(0, dtype=np.int64)
    if labels is None:
        _points(axis, plane.places, np.full(len(plane.places), _COLOURS[0]))
    elif len(present) <= LEGEND:
        _few(figure, axis, plane.places, labels, present, classes)
    else:
        scale = ScalarMappable(Normalize(0, int(present[-1])), colormaps["viridis"])
        _points(axis, plane.places, scale.to_rgba(labels))
        figure.colorbar(scale, ax=axis, label=f"number of the class ({len(present)} classes)", pad=0.01)
    axis.set_xlabel(f"first principal component ({plane.shares[0]:.1%} of the variance)")
    axis.set_ylabel(f"second principal component ({plane.shares[1]:.1%} of the variance)")
    axis.set_title(_plain(_short(title, 100)), fontsize=10)
    axis.set_aspect("equal", adjustable="datalim")
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the letter becomes a box
        out.parent.mkdir(parents=True, exist_ok=True)
        canvas.print_png(out)


def _few(
    figure: Figure,
    axis: Axes,
    places: NDArray[np.float64],
    labels: NDArray[np.int64],
    present: NDArray[np.int64],
    classes: Sequence[str] | None,
) -> None:
    """Points with a colour and a marker per class, and their legend."""
    number = np.searchsorted(present, labels)
    colours = np.array(_COLOURS)[number % len(_COLOURS)]
    for i, marker in enumerate(_MARKERS):
        chosen = number // len(_COLOURS) == i
        if chosen.any():
            _points(axis, places[chosen], colours[chosen], marker)
    keys = []
    for i, label in enumerate(present.tolist()):
        name = classes[label] if classes is not None and 0 <= label < len(classes) else str(label)
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i // len(_COLOURS)]
        text = _plain(_short(name, _NAME))
        keys += axis.plot([], [], linestyle="", color=colour, marker=marker, markersize=7, label=text)
    figure.legend(handles=keys, loc="outside right upper", frameon=False, title="class")


def _points(axis: Axes, places: NDArray[np.float64], colours: NDArray[Any], marker: str = "o") -> None:
    """Scatters points in an order that has nothing to do with their classes, so that none covers the others."""
    order = permutation(len(places), 0)
    size = float(np.clip(20_000 / max(len(places), 1), 6, 36))
    x, y = places[order].T
    axis.scatter(x, y, s=size, c=colours[order], marker=marker, alpha=0.75, linewidths=0)


def _short(text: str, most: int) -> str:
    """One line, with the middle left out where it is longer than `most` characters."""
    text = " ".join(printable(text).split())
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[-most // 2 + 1 :]}"


def _plain(text: str) -> str:
    """Escaped for matplotlib: a leading underscore hides a name, a dollar starts a formula."""
    return ("\u200b" + text if text.startswith("_") else text).replace("$", r"\$")
