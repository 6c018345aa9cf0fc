"""Curves of runs: reads `metrics.csv`, draws loss, accuracy and speed against optimizer steps."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.errors import InputError
from mimsuite.pictures.figures import new_figure, save_figure, style_axes
from mimsuite.pictures.palette import GREY, LINES, load_font
from mimsuite.pictures.text import escape_mathtext, keep_ends_within

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
"""Metric name -> (steps, values)."""


def read_metrics(path: Path) -> Series:
    """Reads a run's `metrics.csv`: columns `step` and metric names, empty where a step has no value.

    A last line without its end is ignored: the run is still writing it, or was killed meanwhile.

    Raises:
        InputError: no such file, one that is not text, no column `step`, or a value that is not a number.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a run folder that holds metrics.csv")
    try:
        lines = path.read_bytes().decode().splitlines(keepends=True)
        rows = csv.DictReader(line for line in lines if line.endswith(("\n", "\r")))
        names = rows.fieldnames or ()
        found: dict[str, list[tuple[int, float]]] = {}
        for row in rows if "step" in names else ():
            for name, value in row.items():
                if name != "step" and value:
                    found.setdefault(name, []).append((int(row["step"]), float(value)))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not text (byte {error.start}); it is damaged, or not a run's metrics.csv"
        ) from error
    except (csv.Error, TypeError, ValueError) as error:
        raise InputError(f"{path}, line {rows.line_num}: {error}; fix or remove the line") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; make it readable") from error
    if "step" not in names and lines:  # an empty file is one of a run that has just begun
        raise InputError(f"{path} has no column 'step' but {list(names)}; it is not a run's metrics.csv")
    return {
        name: (
            np.array([s for s, _ in pairs], dtype=np.int64),
            np.array([v for _, v in pairs], dtype=np.float64),
        )
        for name, pairs in found.items()
    }


LOSS = "loss"
_THIN, _SOLID, _DASHED, _DOTTED = (
    {"linewidth": 1.0, "alpha": 0.6},
    {"linewidth": 1.8},
    {"linewidth": 1.8, "linestyle": "--"},
    {"linewidth": 1.8, "linestyle": ":"},
)
_PANELS: tuple[tuple[str, dict[str, dict[str, Any]]], ...] = (
    (LOSS, {"train/loss": _THIN, "val/loss": _SOLID, "val/loss_mean_colour": _DOTTED, "val/loss_mean_target": _DOTTED}),
    ("PSNR of hidden pixels (dB)", {"val/psnr": _SOLID}),
    ("top-1 accuracy (fraction)", {"val/top1": _SOLID, "probe/top1": _DASHED, "knn/top1": _DOTTED}),
    ("mean average precision (fraction)", {"val/map": _SOLID, "probe/map": _DASHED, "knn/map": _DOTTED}),
    ("R2 (1: perfect, 0: the mean)", {"val/r2": _SOLID, "probe/r2": _DASHED, "knn/r2": _DOTTED}),
    ("mean absolute error (unit of the labels)", {"val/mae": _SOLID, "probe/mae": _DASHED, "knn/mae": _DOTTED}),
    ("RankMe of clean features", {"quality/rankme": _SOLID}),
    ("alpha-ReQ of clean features", {"quality/alpha_req": _SOLID}),
    ("cosine of predicted features", {"val/cosine": _SOLID}),
    ("mean cosine between images", {"quality/cosine": _THIN, "quality/teacher_cosine": _SOLID}),
    ("deviation of features over images", {"quality/deviation": _THIN, "quality/teacher_deviation": _SOLID}),
    ("learning rate", {"optim/lr": _SOLID}),
    ("gradient norm before clipping", {"optim/grad_norm": _THIN}),
    ("images per second", {"perf/img_per_s": _THIN}),
    ("time spent waiting for data (fraction)", {"perf/data_wait": _THIN}),
)
_MARKERS, _SIGNS = "os^DvP", "━■▲◆▼✚"
_MEANS = 250  # points that stand for a noisy curve of more than four times as many
_FONT = 16  # pixels: as wide as matplotlib's at 10 points
_INCH, _KEY, _ROW = 100, 65, 22  # pixels: an inch; in the legend a colour with its gaps, a row
_WIDTH, _HEIGHT = 560, 340  # pixels of a panel


class Panel(NamedTuple):
    """What shares a pair of axes.

    Attributes:
        label: of the vertical axis, with the unit.
        styles: the line style of each metric.
        runs: name of the run -> its metrics; a run without any keeps its place, and so its colour.
    """

    label: str
    styles: Mapping[str, dict[str, Any]]
    runs: Mapping[str, Series]


def find_panels(
    runs: Mapping[str, Series], metrics: Sequence[str] | None = None, losses: Mapping[str, str] | None = None
) -> list[Panel]:
    """The panels in which runs are drawn: loss, PSNR, accuracy, learning rate, speed, ..., as far as a run has them.

    Args:
        runs: name of the run -> what `read_metrics` gives.
        metrics: takes these only, each that has no panel of its own gets one.
        losses: of every run, in words; runs of different losses get panels of their own for it.

    Raises:
        InputError: a metric that no run has.
    """
    return [
        panel
        for label, styles in _panels({name for run in runs.values() for name in run}, metrics)
        for panel in _split(label, styles, runs, losses or {})
    ]


def draw_curves(
    runs: Mapping[str, Series],
    out: Path,
    metrics: Sequence[str] | None = None,
    losses: Mapping[str, str] | None = None,
) -> None:
    """Draws metrics of runs against their optimizer steps, and saves one picture of all panels.

    Colours tell runs apart (seven of Okabe and Ito, safe for colour-blind readers; from the eighth run on with
    another marker), line styles the metrics of a panel. Of a long noisy metric all values are faint, and the line is
    the mean of every 250th part of them.

    Args:
        runs: as in `find_panels`.
        out: the picture, .png, .pdf or .svg; its folder is made.
        metrics: as in `find_panels`.
        losses: likewise.

    Raises:
        InputError: nothing to draw, or a metric that no run has.
    """
    panels = find_panels(runs, metrics, losses)
    if not panels:
        raise InputError(f"no metric to draw in {', '.join(runs) or 'no runs'}; log at least one step first")

    across = min(len(panels), 2)
    down, width = math.ceil(len(panels) / across), _WIDTH * across
    font = load_font(_FONT)
    names = [keep_ends_within(name, font, width - _KEY) for name in runs]
    columns = max(1, int(width / (_KEY + max(map(font.getlength, names)))))
    height = _HEIGHT * down + 20 + _ROW * math.ceil(len(names) / columns)
    figure = new_figure(width / _INCH, height / _INCH, dpi=_INCH)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, panel)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    keys = [axes[0].plot([], [], linewidth=3, **_look(number, number >= len(LINES)))[0] for number in range(len(names))]
    figure.legend(keys, list(map(escape_mathtext, names)), loc="outside lower center", ncols=columns, frameon=False)
    save_figure(figure, out)


def draw_panel(panel: Panel, out: Path) -> None:
    """Draws one panel alone, without the names of the runs: `run_key` says how each looks."""
    figure = new_figure(_WIDTH / _INCH, _HEIGHT / _INCH, dpi=_INCH)
    _draw_panel(figure.subplots(), panel)
    save_figure(figure, out)


def run_key(number: int) -> tuple[str, str]:
    """Colour, and a sign that stands for line and marker, of the run with that number, from 0."""
    times, place = divmod(number, len(LINES))
    return LINES[place], _SIGNS[times % len(_SIGNS)]


def _panels(logged: Set[str], metrics: Sequence[str] | None) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """The panels, each a label and the styles of its metrics, of what is `logged` and asked for."""
    if missing := [name for name in metrics or () if name not in logged]:
        raise InputError(f"no run has the metric {missing[0]!r}; there are {', '.join(sorted(logged)) or 'none'}")
    known = {name for _, styles in _PANELS for name in styles}
    own = [(name, {name: _SOLID}) for name in dict.fromkeys(metrics or ()) if name not in known]
    wanted = logged if metrics is None else logged & set(metrics)
    panels = [(label, {n: styles[n] for n in styles if n in wanted}) for label, styles in (*_PANELS, *own)]
    return [(label, styles) for label, styles in panels if styles]


def _split(
    label: str, styles: Mapping[str, dict[str, Any]], runs: Mapping[str, Series], losses: Mapping[str, str]
) -> Sequence[Panel]:
    """A panel, or of losses one for each kind of loss."""
    if label != LOSS:
        return [Panel(label, styles, runs)]
    having = [name for name, run in runs.items() if set(styles) & set(run)]
    kinds = dict.fromkeys(losses.get(name, "") for name in having)
    found = []
    for kind in kinds:
        own = {name: run if losses.get(name, "") == kind else {} for name, run in runs.items()}
        logged = {n: styles[n] for n in styles if any(n in run for run in own.values())}
        found.append(Panel(f"{label}: {kind}" if kind else label, logged, own))
    return found


def _draw_panel(axis: Axes, panel: Panel) -> None:
    """Draws the metrics of runs; several metrics get a legend above the panel."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    label, styles = panel.label, panel.styles
    steps: NDArray[Any]
    for name, style in styles.items():
        for number, run in enumerate(panel.runs.values()):
            if name in run:
                steps, values = run[name]
                if style is _THIN and len(steps) > 4 * _MEANS:
                    axis.plot(steps, values, color=_look(number, False)["color"], linewidth=0.5, alpha=0.12)
                    steps, values = _means(steps), _means(values)
                few = len(steps) == 1 or (len(steps) < 30 and style is not _THIN)
                look = _look(number, few or number >= len(LINES))
                axis.plot(steps, values, markersize=3, markevery=1 if few else len(steps) // 10 + 1, **look, **style)
        axis.plot([], [], color=GREY, label=name, **style)
    axis.set_xlabel("optimizer steps")
    axis.set_ylabel(escape_mathtext(label))
    axis.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.ticklabel_format(axis="y", useOffset=False)
    style_axes(axis)
    if len(styles) > 1:
        axis.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=len(styles))


def _means(values: NDArray[Any]) -> NDArray[np.float64]:
    """The means of `_MEANS` parts of a series, in order."""
    edges = np.linspace(0, len(values), _MEANS + 1).astype(np.int64)
    sums: NDArray[np.float64] = np.add.reduceat(values.astype(np.float64), edges[:-1])
    return sums / np.diff(edges)


def _look(number: int, marked: bool) -> dict[str, Any]:
    """Colour and marker of the run with that number, from 0."""
    times, place = divmod(number, len(LINES))
    return {"color": LINES[place], "marker": _MARKERS[times % len(_MARKERS)] if marked else ""}
