"""What `bench` reads: a pretraining run, and how long its steps are timed. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from mimsuite.settings.objects import NO_OBJECTS, Objects
from mimsuite.settings.outputs import check_file
from mimsuite.settings.pretrain import PretrainSettings, read_pretrain
from mimsuite.settings.read import read_positive, read_text
from mimsuite.settings.resolve import with_values

STEPS = 1_000_000  # of the run whose first ones are measured; it ends by the clock
UNUSED = {
    **{"out": os.devnull, "resume": False, "overwrite": False, "online_probe": False},
    **{"steps": STEPS, "epochs": None, "lr": "auto", "val_every": "auto", "save_every": "auto"},
}
"""Keys of `pretrain` that change nothing of what is measured; a recipe may set them."""


@dataclass(frozen=True)
class BenchSettings:
    """What is measured.

    Attributes:
        run: the pretraining run.
        seconds: how long its steps are timed.
        out: a JSON file to write, or None; one that is there is replaced.
    """

    run: PretrainSettings
    seconds: float
    out: Path | None


def read_bench(cfg: DictConfig, overrides: Sequence[str], objects: Objects = NO_OBJECTS) -> BenchSettings:
    """Reads and checks every key; arguments as of `read_pretrain`.

    Raises:
        InputError: a value that `pretrain` would refuse; `out` is not a .json file.
    """
    out, seconds = read_text(cfg, "out"), read_positive(cfg, "seconds")
    file = None if out is None else check_file("out", out, (".json",), overwrite=True)
    run = read_pretrain(with_values(cfg, UNUSED), overrides, leads=False, objects=objects)
    return BenchSettings(run, seconds, file)
