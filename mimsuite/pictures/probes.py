"""The probe's picture: what each layer and pooling is worth on held-out training images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from mimsuite.evaluation.features.views import View
from mimsuite.evaluation.probes.linear import LinearResult, Trial
from mimsuite.metrics.scores import METRICS

# Of Okabe and Ito 2008, as in `mimsuite.pictures.curves`; markers and dashes tell them apart without colours.
_LOOKS = {"mean": ("#0072B2", "o", "-"), "cls": ("#D55E00", "s", "--"), "both": ("#009E73", "^", ":")}
_LABELS = {"top1": "top-1 accuracy (fraction)", "map": "mean average precision (fraction)", "r2": "R2 (1: perfect)"}
_WORDS = {"mean": "mean of the patches", "cls": "class token", "both": "class token and mean"}


def best_of(figures: Mapping[Trial, float]) -> dict[View, float]:
    """Returns the best figure of each view over normalisations and learning rates; without heads that diverged."""
    best: dict[View, float] = {}
    for trial, figure in figures.items():
        if not math.isnan(figure):
            best[trial.view] = max(figure, best.get(trial.view, -math.inf))
    return best


def draw_probe(probed: LinearResult, layers: int, out: Path, baselines: Mapping[str, float] | None = None) -> None:
    """Draws the best held-out figure of each layer, a line per pooling, and saves a PNG.

    The trial that was chosen is marked; a star shows what it reaches on the test split, where the others never were.

    Args:
        probed: what the matrix found.
        layers: of the encoder.
        out: the PNG; its folder is made.
        baselines: words -> figure on the test split, drawn as level lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 4.6), dpi=100, layout="constrained")
    canvas, axis = FigureCanvasAgg(figure), figure.subplots()
    best, metric, view = best_of(probed.held_out), METRICS[probed.task.kind][0], probed.best.view
    for pool, (colour, marker, dashes) in _LOOKS.items():
        points = sorted((v.layer, figure) for v, figure in best.items() if v.pool == pool)
        if points:
            x, y = zip(*points, strict=True)
            axis.plot(x, y, color=colour, marker=marker, linestyle=dashes, label=f"{_WORDS[pool]}, held out")
    test, held = probed.worth.figures[metric], probed.held_out[probed.best]
    axis.plot(view.layer, held, "o", markersize=15, markerfacecolor="none", color="black", label="chosen")
    axis.plot(view.layer, test, "*", markersize=13, color="black", linestyle="", label=f"test split: {test:.3f}")
    for (words, figure_of_it), dashes in zip((baselines or {}).items(), ("-.", ":"), strict=False):
        axis.axhline(figure_of_it, color="#606060", linewidth=1, linestyle=dashes, label=f"{words}, test split")
    axis.set_xlabel(f"layer (of {layers}; the last one after the final norm)")
    axis.set_ylabel(_LABELS[metric])
    axis.set_xlim(0.5, layers + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(
        f"best of {len(probed.held_out)} heads: layer {view.layer}, {view.pool}, {probed.best.norm}, "
        f"lr {probed.best.lr:g}",
        fontsize=11,
        loc="left",
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(out)
