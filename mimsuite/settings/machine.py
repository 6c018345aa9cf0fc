"""What a run finds out about this machine without torch."""

from __future__ import annotations

import os

from mimsuite.settings.team import current_team, read_variable


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def auto_workers(devices: int | None = None) -> int:
    """Loader processes of this process: its share of the machine's cores but one, at most 8.

    Args:
        devices: processes of the run on this machine, where the environment does not say how many they are.
    """
    team, cores = current_team(), usable_cores()
    if team is not None and team.launcher == "srun" and os.environ.get("SLURM_CPUS_PER_TASK"):
        cores = min(cores, read_variable("SLURM_CPUS_PER_TASK", least=1))  # SLURM has shared them out
    else:
        cores //= team.local if team is not None else devices or 1
    return min(max(1, cores - 1), 8)
