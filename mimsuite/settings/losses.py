"""Which loss a run folder's curves show, in words: losses of different kinds never share an axis. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.yaml_files import read_yaml
from mimsuite.errors import InputError, reading
from mimsuite.settings.resume import first_overrides

LOSS_WORDS = {"l1": "L1", "mse": "MSE", "smooth_l1": "smooth L1"}
TARGET_WORDS = {"pixels": "pixels", "norm_pixels": "normalised pixels", "hog": "gradient histograms"}
SUPERVISED = {"val/top1": "cross entropy", "val/map": "binary cross entropy", "val/r2": "MSE of numbers"}
"""By the metric that only runs with this loss have."""

PLACES = ("out", "resume", "overwrite")  # keys in which runs differ whatever they compute


def name_losses(folders: Mapping[str, Path], metrics: Mapping[str, Collection[str]]) -> dict[str, str]:
    """The loss of every run in words; empty where its folder does not say.

    Runs that predict the same from images that were normalised by other deviations have losses of other sizes, so the
    words say that, too.

    Args:
        folders: run folders by name.
        metrics: the names of their metrics.
    """
    words = {name: name_loss(folder, metrics[name]) for name, folder in folders.items()}
    spreads = {name: read_spread(folder) for name, folder in folders.items()}
    for loss in set(words.values()):
        same = [name for name, own in words.items() if own == loss and spreads[name]]
        if loss.endswith("of pixels") and len({spreads[name] for name in same}) > 1:
            words |= {name: f"{loss} divided by {spreads[name]}" for name in same}
    return words


def name_loss(folder: Path, metrics: Collection[str]) -> str:
    """The loss of a run in words; nothing where neither its config nor its metrics say it."""
    return describe_loss(read_run_config(folder), metrics)


def describe_loss(config: Mapping[str, Any], metrics: Collection[str]) -> str:
    """As `name_loss`, of a config that is read already."""
    objective = config.get("objective", {})
    loss, target = (objective.get(key) if isinstance(objective, Mapping) else None for key in ("loss", "target"))
    if loss in LOSS_WORDS and isinstance(objective, Mapping) and "teacher" in objective:
        return f"{LOSS_WORDS[loss]} of a teacher's features"
    if loss in LOSS_WORDS:
        return f"{LOSS_WORDS[loss]} of {TARGET_WORDS.get(str(target), TARGET_WORDS['pixels'])}"
    return next((words for metric, words in SUPERVISED.items() if metric in metrics), "")


def read_run_config(folder: Path) -> Mapping[str, Any]:
    """The config of a run as plain values; nothing where there is none that can be read: its curves can still be."""
    try:
        loaded = read_yaml(folder / "config.yaml", "restore it")
    except InputError:
        return {}
    found = OmegaConf.to_container(loaded) if isinstance(loaded, DictConfig) else {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def read_spread(folder: Path) -> str:
    """The deviation that a finished run normalised images by, mean over the channels, in words; else nothing."""
    file = folder / "weights" / "preprocessor_config.json"
    try:
        with reading(str(file), "restore it"):
            content = json.loads(file.read_text(encoding="utf-8"))
            values = [float(value) for value in content["image_std"]]
    except InputError:
        return ""
    return f"{sum(values) / len(values):.2g}" if values else ""


def name_sweep(folders: Mapping[str, Path]) -> dict[str, str]:
    """Names for the legend: of a sweep's numbered folders, the keys in which their command lines differ."""
    if len(folders) < 2 or not all(Path(name).name.isdigit() for name in folders):
        return {name: name for name in folders}
    lines = {name: dict(map(split_override, first_overrides(folder))) for name, folder in folders.items()}
    keys = dict.fromkeys(key for own in lines.values() for key in own)
    apart = [key for key in keys if len({own.get(key) for own in lines.values()}) > 1 and key not in PLACES]
    return {
        name: ": ".join(filter(None, (name, ", ".join(f"{key}={own[key]}" for key in apart if key in own))))
        for name, own in lines.items()
    }


def split_override(line: str) -> tuple[str, str]:
    """Key and value of a `key=value`."""
    key, _, value = line.partition("=")
    return key.lstrip("+~"), value.strip("'\"")
