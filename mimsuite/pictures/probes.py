"""The picture of a probe: the best score of each layer and pooling on held-out training images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mimsuite.pictures.figures import new_figure, save_figure, style_axes
from mimsuite.pictures.palette import BLUE, GREEN, GREY, VERMILION

# Markers and dashes tell them apart without colours.
_LOOKS = {"mean": (BLUE, "o", "-"), "cls": (VERMILION, "s", "--"), "both": (GREEN, "^", ":")}
_LABELS = {"top1": "top-1 accuracy (fraction)", "map": "mean average precision (fraction)", "r2": "R2 (1: perfect)"}
_POOLS = {"mean": "mean of the patches", "cls": "class token", "both": "class token and mean"}


class ChosenHead(NamedTuple):
    """The head that a probe chose.

    Attributes:
        layer: of the encoder, from 1.
        pool: "mean", "cls" or "both".
        held_out: its score on the held-out training images.
        test: its score on the images that are reported on.
        interval: the 95 % interval of that; None where there is none.
    """

    layer: int
    pool: str
    held_out: float
    test: float
    interval: tuple[float, float] | None


def draw_probe(
    best: Mapping[str, Mapping[int, float]],
    chosen: ChosenHead,
    out: Path,
    *,
    metric: str,
    split: str,
    images: int,
    num_layers: int,
    title: str,
    baselines: Mapping[str, float] | None = None,
) -> None:
    """Draws the best held-out score of each layer, a line per pooling, and saves a PNG.

    The chosen head is marked; a star with its 95 % interval shows the score on the images that are reported on, where
    the others were never tried.

    Args:
        best: pooling -> layer -> score.
        chosen: the head that was chosen.
        out: the PNG; its folder is made.
        metric: "top1", "map" or "r2".
        split: the images that are reported on, in words.
        images: how many these are.
        num_layers: of the encoder.
        title: above the picture.
        baselines: name -> score on the same images, drawn as level lines.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7.2, 4.6)
    axis = figure.subplots()
    for pool, (colour, marker, dashes) in _LOOKS.items():
        if points := sorted(best.get(pool, {}).items()):
            x, y = zip(*points, strict=True)
            axis.plot(x, y, color=colour, marker=marker, linestyle=dashes, label=f"{_POOLS[pool]}, a fifth of train")
    axis.plot(chosen.layer, chosen.held_out, "o", markersize=15, markerfacecolor="none", color="black", label="chosen")
    label, bars = f"{split}: {chosen.test:.3f} ({images:,} images)", None
    if chosen.interval is not None:
        low, high = chosen.interval
        label = f"{split}: {chosen.test:.3f} (95 %: {low:.3f} to {high:.3f}, {images:,} images)"
        bars = [[max(0.0, chosen.test - low)], [max(0.0, high - chosen.test)]]
    axis.errorbar(
        [chosen.layer], [chosen.test], bars, fmt="*", markersize=13, color="black", capsize=4, elinewidth=1, label=label
    )
    for (name, score), dashes in zip((baselines or {}).items(), ("-.", ":"), strict=False):
        axis.axhline(score, color=GREY, linewidth=1, linestyle=dashes, label=f"{name}, {split}: {score:.3f}")
    axis.set_xlabel(f"layer (of {num_layers}; the last one after the final norm)")
    axis.set_ylabel(_LABELS[metric])
    axis.set_xlim(0.5, num_layers + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    axis.ticklabel_format(axis="y", useOffset=False)
    style_axes(axis)
    axis.set_title(title, fontsize=11, loc="left")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save_figure(figure, out)
