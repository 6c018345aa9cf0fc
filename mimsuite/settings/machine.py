"""What a run finds out about this machine without torch."""

from __future__ import annotations

import os


def auto_workers() -> int:
    """Loader processes: one per core that this process may use but one, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(1, cores - 1), 8)
