"""What `plot` reads: the folders of runs, and which of their metrics are drawn. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from mimsuite.errors import InputError
from mimsuite.settings.losses import name_sweep
from mimsuite.settings.outputs import check_file
from mimsuite.settings.read import read, read_flag

MOST_HINTED = 12  # runs that an error names


@dataclass(frozen=True)
class PlotSettings:
    """Curves of runs.

    Attributes:
        out: the picture.
        runs: name -> `metrics.csv`.
        labels: name -> what the legend calls it.
        metrics: those to draw; None for all that have a panel.
    """

    out: Path
    runs: Mapping[str, Path]
    labels: Mapping[str, str]
    metrics: tuple[str, ...] | None


def read_plot(cfg: DictConfig) -> PlotSettings:
    """Reads and checks every key.

    Raises:
        InputError: a wrong value, a folder that holds no run, or a picture that may not be written.
    """
    out = check_file("out", str(read(cfg, "out")), (".png", ".pdf", ".svg"), overwrite=read_flag(cfg, "overwrite"))
    folders = [Path(name) for name in read_names(cfg, "runs")]
    metrics = None if cfg.metrics is None else tuple(read_names(cfg, "metrics"))
    runs = dict(zip(name_runs(folders), map(find_metrics, folders), strict=True))
    return PlotSettings(out, runs, name_sweep({name: path.parent for name, path in runs.items()}), metrics)


def read_names(cfg: DictConfig, key: str) -> list[str]:
    """The value of a key that takes one name or a list of names, as a list.

    Raises:
        InputError: neither of them, or an empty list.
    """
    value = read(cfg, key)
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, (str, int, float)) for name in names):
        raise InputError(f"{key}={value} is neither a name nor a list of names; use {key}=A or {key}=[A,B]")
    return [str(name) for name in names]


def name_runs(folders: Sequence[Path]) -> list[str]:
    """The folders' own names; where some are equal, with as many of their parents as it takes.

    Raises:
        InputError: one folder twice.
    """
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    names = []
    for number, own in enumerate(parts):
        others = parts[:number] + parts[number + 1 :]
        if own in others:
            raise InputError(f"runs= names {folders[number]} twice; name it once")
        depth = next(n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        names.append(str(Path(*own[-depth:])))
    return names


def find_metrics(folder: Path) -> Path:
    """The `metrics.csv` of a run folder.

    Raises:
        InputError: not the folder of a run that was trained.
    """
    if not folder.exists():
        hint = "; several runs are a list: runs=[A,B]" if "," in str(folder) else "; give the folder of a run"
        raise InputError(f"runs={folder} does not exist{hint}")
    if not folder.is_dir():
        raise InputError(f"runs={folder} is a file; give the folder of a run: runs={folder.parent}")
    if not (folder / "metrics.csv").exists():
        raise InputError(f"runs={folder} has no metrics.csv; {what_instead(folder)}")
    return folder / "metrics.csv"


def what_instead(folder: Path) -> str:
    """What to give instead of a folder without `metrics.csv`."""
    inner = sorted((p.parent for p in folder.glob("*/metrics.csv")), key=lambda p: (len(p.name), p.name))
    if inner:
        more = f" (the first {MOST_HINTED} of {len(inner)})" if len(inner) > MOST_HINTED else ""
        return f"it holds runs: runs=[{','.join(map(str, inner[:MOST_HINTED]))}]{more}"
    if (folder / "probe.csv").exists():
        return f"it is a probe, which has no curves but a table, {folder / 'probe.csv'}; give runs of pretraining"
    return "give the folder of a run of pretraining"
