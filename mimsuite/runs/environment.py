"""Versions and machine facts that a repetition of a run needs, and what of them changed since its first start."""

from __future__ import annotations

import logging
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from mimsuite.data.storage import read_object
from mimsuite.errors import reading
from mimsuite.version import __version__

log = logging.getLogger("mimsuite")

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


def warn_of_changes(folder: Path, facts: dict[str, Any]) -> None:
    """Reports what of the machine is not as it was: the run goes on, but its last bits may differ.

    Args:
        folder: of the run.
        facts: of this start, beside those of `describe_environment`.

    Raises:
        InputError: a damaged `environment.json`.
    """
    file = folder / "environment.json"
    fix = "remove it to go on without a comparison of the machines"
    before = read_object(file, fix) if file.is_file() else {}
    with reading(str(file), fix):
        old, new = (about.pop("libraries", {}) | about for about in (before, describe_environment() | facts))
    for name in sorted(old.keys() & new.keys()):
        if name != "cpus" and old[name] != new[name]:
            log.warning(
                "resuming with %s %s, it was %s: the last bits of the result may differ", name, new[name], old[name]
            )
