"""How a figure of matplotlib begins, looks and becomes a file; the same in every picture with axes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.data.storage import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, *, dpi: int = 100, fitted: bool = True) -> Figure:
    """An empty figure of a size in inches that needs no display; where `fitted`, all that is drawn finds room in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained" if fitted else None)
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes) -> None:
    """A pale grid, and no line at the top and at the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path, **options: Any) -> None:
    """Writes a picture, its folder too, of the kind of its ending; `options` are those of `Figure.savefig`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), replacing(path) as part:
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the letter becomes a box
        figure.savefig(part, format=path.suffix[1:].lower(), **options)
