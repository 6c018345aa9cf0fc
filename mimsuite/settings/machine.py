"""What a run finds out about this machine without torch."""

from __future__ import annotations

import multiprocessing
import os

from omegaconf import DictConfig

from mimsuite.errors import InputError
from mimsuite.settings.read import read_int
from mimsuite.settings.team import current_team, read_variable


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_workers(cfg: DictConfig, devices: int | None = None) -> int:
    """Loader processes of this process: `workers`, and for `auto` as of `auto_workers`.

    Raises:
        InputError: no whole number; or some, in a process that may not start others.
    """
    workers = read_int(cfg, "workers", auto=auto_workers(devices), least=0)
    if workers and may_not_start_processes():
        raise InputError(
            f"workers={workers}, but this process (of a multiprocessing.Pool) may start none; use workers=0"
        )
    return workers


def may_not_start_processes() -> bool:
    """Whether this is a daemonic process of `multiprocessing`, as those of its `Pool` are."""
    return multiprocessing.current_process().daemon


def auto_workers(devices: int | None = None) -> int:
    """Loader processes of this process: its share of the machine's cores but one, at most 8; 0 where it may start none.

    Args:
        devices: processes of the run on this machine, where the environment does not say how many they are.
    """
    if may_not_start_processes():
        return 0
    team, cores = current_team(), usable_cores()
    if team is not None and team.launcher == "srun" and os.environ.get("SLURM_CPUS_PER_TASK"):
        cores = min(cores, read_variable("SLURM_CPUS_PER_TASK", least=1))  # SLURM has shared them out
    else:
        cores //= team.local if team is not None else devices or 1
    return min(max(1, cores - 1), 8)
