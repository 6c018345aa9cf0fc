"""What `runs` reads. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from mimsuite.errors import InputError
from mimsuite.settings.read import read, read_choice, read_choices, read_flag, read_text
from mimsuite.words import LARGER_IS_BETTER, RUN_ORDERS, RUN_STATUSES, RUN_TASKS, SMALLER_IS_BETTER


@dataclass(frozen=True)
class RunsSettings:
    """Which runs are listed, and in which order.

    Attributes:
        path: the folder that holds them.
        sort: one of `RUN_ORDERS`.
        best: metric by which they are sorted instead; None for none.
        larger: whether a larger value of it is better.
        tasks: those listed; None for all, and runs whose task is not known.
        statuses: those listed.
        json: whether JSON is printed.
    """

    path: Path
    sort: str
    best: str | None
    larger: bool
    tasks: tuple[str, ...] | None
    statuses: tuple[str, ...]
    json: bool


def read_runs(cfg: DictConfig) -> RunsSettings:
    """Reads and checks every key.

    Raises:
        InputError: a wrong value, a path that is not a folder, a metric without a better and a worse.
    """
    path, best = Path(str(read(cfg, "path"))), read_text(cfg, "best")
    return RunsSettings(
        sort=read_choice(cfg, "sort", RUN_ORDERS),
        best=best,
        larger=best is None or is_larger_better(best),
        tasks=None if read(cfg, "task") is None else read_choices(cfg, "task", RUN_TASKS),
        statuses=RUN_STATUSES if read(cfg, "status") is None else read_choices(cfg, "status", RUN_STATUSES),
        json=read_flag(cfg, "json"),
        path=check_path(path),
    )


def check_path(path: Path) -> Path:
    """The folder, if it is one.

    Raises:
        InputError: it does not exist, or is a file.
    """
    if not path.exists():
        raise InputError(f"path={path} does not exist; give the folder that holds your runs: path=FOLDER")
    if not path.is_dir():
        raise InputError(f"path={path} is a file; give the folder that holds your runs: path={path.parent}")
    return path


def is_larger_better(metric: str) -> bool:
    """Whether a larger value of a metric is better.

    Raises:
        InputError: neither larger nor smaller is.
    """
    kind = metric.rpartition("/")[2]
    if kind in LARGER_IS_BETTER or kind in SMALLER_IS_BETTER:
        return kind in LARGER_IS_BETTER
    known = ", ".join((*LARGER_IS_BETTER, *SMALLER_IS_BETTER))
    raise InputError(f"best={metric} has no best value; best takes metrics that end in {known}, such as probe/top1")
