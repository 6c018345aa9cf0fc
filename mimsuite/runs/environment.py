"""Versions and machine facts that a repetition of a run needs."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from mimsuite.version import __version__

LIBRARIES = (
    "torch",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "webdataset",
    "wandb",
    "numpy",
    "Pillow",
    "safetensors",
    "simplejpeg",
)


def describe_environment() -> dict[str, Any]:
    """Versions and machine facts that a repetition needs; no variables of the environment, so no secrets."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return {
        "mimsuite": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "libraries": versions,
    }
