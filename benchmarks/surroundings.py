"""Where a figure was measured: what stands beside the figures of a benchmark."""

from __future__ import annotations

import os
import platform
from datetime import datetime
from typing import Any

import torch


def surroundings(seed: int, batch: int) -> dict[str, Any]:
    """Date, load of the machine, processor, cores and torch, with the seed and the images of a batch."""
    return {
        "date": datetime.now().isoformat(timespec="minutes"),
        "load": os.getloadavg(),
        "torch": torch.__version__,
        "machine": platform.processor(),
        "cores": os.cpu_count(),
        "seed": seed,
        "batch": batch,
    }
