"""What `demo` reads. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from mimsuite.settings.machine import read_workers
from mimsuite.settings.outputs import check_folder
from mimsuite.settings.read import read, read_choice, read_flag, read_int
from mimsuite.words import PRECISIONS

PARTS = ("images", "shards", "inspect", "pretrain", "probe", "reconstruct.png", "report.html", "demo.json")


@dataclass(frozen=True)
class DemoSettings:
    """The demo's values.

    Attributes:
        out: folder for everything.
        steps: optimizer steps of the pretraining.
        batch: images per step.
        seed: of everything.
        precision: Lightning's name, or "auto".
        workers: loader processes.
    """

    out: Path
    steps: int
    batch: int
    seed: int
    precision: str
    workers: int


def read_demo(cfg: DictConfig) -> DemoSettings:
    """Reads and checks every key.

    Raises:
        InputError: a wrong value, or an `out` that may not be written.
    """
    return DemoSettings(
        out=check_folder(str(read(cfg, "out")), PARTS, overwrite=read_flag(cfg, "overwrite")),
        steps=read_int(cfg, "steps"),
        batch=read_int(cfg, "batch"),
        seed=read_int(cfg, "seed", least=0),
        precision=read_choice(cfg, "precision", PRECISIONS),
        workers=read_workers(cfg),
    )
