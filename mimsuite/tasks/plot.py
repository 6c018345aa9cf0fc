"""`mimsuite plot`: the curves of one or several runs in one picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.folders import count_of
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError
from mimsuite.pictures.curves import Series, draw_curves, read_metrics
from mimsuite.runs.console import log_to_console
from mimsuite.settings.losses import name_losses
from mimsuite.settings.outputs import writing
from mimsuite.settings.plot import read_plot

log = logging.getLogger("mimsuite")

SHOWN = ("train/loss", "val/loss", "val/psnr")  # last values that are printed


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Draws the picture; returns its place and each run's last metrics."""
    log_to_console()
    settings = read_plot(cfg)
    runs = {name: read_metrics(path) for name, path in settings.runs.items()}
    for name, path in settings.runs.items():
        if not runs[name]:
            raise InputError(f"{path} holds no metrics yet; plot again after the first logged step")
    losses = name_losses({name: path.parent for name, path in settings.runs.items()}, runs)
    labels = settings.labels
    shown = {labels[name]: series for name, series in runs.items()}
    with writing("out", settings.out):
        draw_curves(shown, settings.out, settings.metrics, {labels[name]: loss for name, loss in losses.items()})
    report_runs(shown, settings.metrics or SHOWN)
    log.info("curves of %s in %s", "1 run" if len(runs) == 1 else f"{len(runs)} runs", settings.out)
    return {"out": str(settings.out), "runs": {name: last_values(series) for name, series in runs.items()}}


def report_runs(runs: Mapping[str, Series], metrics: Sequence[str]) -> None:
    """Prints a line per run: its steps, and the last values of some metrics."""
    width = max(map(len, runs))
    for name, series in runs.items():
        last = last_values(series)
        steps = max(steps[-1] for steps, _ in series.values())
        shown = [f"{metric} {last[metric]:.4g}" for metric in metrics if metric in last]
        log.info("%-*s  %s", width, to_text(name), ", ".join([count_of(steps, "step"), *shown]))


def last_values(series: Series) -> dict[str, float]:
    """The last value of every metric."""
    return {metric: float(values[-1]) for metric, (_, values) in series.items()}


if __name__ == "__main__":
    app.main("plot", run)
