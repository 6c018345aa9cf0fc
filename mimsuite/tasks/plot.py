"""`mimsuite plot`: the curves of one or several runs in one picture."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from mimsuite import app
from mimsuite.data.tar import printable
from mimsuite.errors import InputError
from mimsuite.pictures.curves import Series, curves, read_metrics
from mimsuite.runs.folder import check_picture, speak
from mimsuite.settings.read import read_flag

log = logging.getLogger("mimsuite")

SHOWN = ("train/loss", "val/loss", "val/psnr")  # last values that are printed
HINTED = 12  # runs that an error names


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Draws the picture; returns its place and each run's last figures."""
    speak()
    out = check_picture(cfg.out, overwrite=read_flag(cfg, "overwrite"))
    folders = [Path(text) for text in listed(cfg, "runs")]
    metrics = None if cfg.metrics is None else listed(cfg, "metrics")
    runs = dict(zip(names(folders), map(figures, folders), strict=True))
    try:
        curves(runs, out, metrics)
    except OSError as error:
        raise InputError(f"out={out} cannot be written: {error.strerror}; use another out=") from error
    last = {name: {metric: float(values[-1]) for metric, (_, values) in run.items()} for name, run in runs.items()}
    width = max(map(len, runs))
    for name, run in runs.items():
        shown = [f"{metric} {last[name][metric]:.4g}" for metric in metrics or SHOWN if metric in run]
        steps = f"{max(steps[-1] for steps, _ in run.values()):,} steps"
        log.info("%-*s  %s", width, printable(name), ", ".join([steps, *shown]))
    log.info("curves of %s in %s", "1 run" if len(runs) == 1 else f"{len(runs)} runs", out)
    return {"out": str(out), "runs": last}


def listed(cfg: DictConfig, key: str) -> list[str]:
    """The value of a key that takes one name or a list of names, as a list.

    Raises:
        InputError: neither of them, or an empty list.
    """
    value: Any = cfg[key]
    several = list(value) if isinstance(value, ListConfig) else [value]
    if not several or not all(isinstance(item, (str, int, float)) for item in several):
        raise InputError(f"{key}={value} is neither a name nor a list of names; use {key}=A or {key}=[A,B]")
    return [str(item) for item in several]


def names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names; where some are equal, with as many of their parents as it takes.

    Raises:
        InputError: one folder twice.
    """
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    found = []
    for number, own in enumerate(parts):
        others = parts[:number] + parts[number + 1 :]
        if own in others:
            raise InputError(f"runs= names {folders[number]} twice; name it once")
        depth = next(n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        found.append(str(Path(*own[-depth:])))
    return found


def figures(folder: Path) -> Series:
    """What `metrics.csv` in a run folder holds.

    Raises:
        InputError: no run of training, one without figures yet, or a damaged file.
    """
    path = folder / "metrics.csv"
    if not folder.exists():
        hint = "; several runs are a list: runs=[A,B]" if "," in str(folder) else "; give the folder of a run"
        raise InputError(f"runs={folder} does not exist{hint}")
    if not folder.is_dir():
        raise InputError(f"runs={folder} is a file; give the folder of a run: runs={folder.parent}")
    if not path.exists():
        inner = sorted((p.parent for p in folder.glob("*/metrics.csv")), key=lambda p: (len(p.name), p.name))
        if inner:
            more = f" (the first {HINTED} of {len(inner)})" if len(inner) > HINTED else ""
            fix = f"it holds runs: runs=[{','.join(map(str, inner[:HINTED]))}]{more}"
        elif (folder / "probe.csv").exists():
            fix = f"it is a probe, which has no curves but a table, {folder / 'probe.csv'}; give runs of pretraining"
        else:
            fix = "give the folder of a run of pretraining"
        raise InputError(f"runs={folder} has no metrics.csv; {fix}")
    found = read_metrics(path)
    if not found:
        raise InputError(f"{path} holds no figures yet; plot it when the run has said its first loss")
    return found


if __name__ == "__main__":
    app.main("plot", run)
