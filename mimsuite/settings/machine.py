"""What a run finds out about this machine without torch."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def auto_workers() -> int:
    """Loader processes: one per core that this process may use but one, at most 8."""
    return min(max(1, usable_cores() - 1), 8)
