"""What `doctor` reads. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from mimsuite.settings.outputs import check_file
from mimsuite.settings.read import read, read_choice, read_data, read_flag, read_text
from mimsuite.words import CACHE_PARTS


@dataclass(frozen=True)
class DoctorSettings:
    """The doctor's values.

    Attributes:
        data: a data set to look at, or None.
        out: a JSON file to write, or None; one that is there is replaced.
        strict: whether a note counts as a fault.
        clean: what is removed from the cache: "old", "all", or nothing (None).
    """

    data: str | tuple[str, ...] | None
    out: Path | None
    strict: bool
    clean: str | None


def read_doctor(cfg: DictConfig) -> DoctorSettings:
    """Reads and checks every key.

    Raises:
        InputError: `out` is not a .json file, or `strict` is not true or false.
    """
    strict, out = read_flag(cfg, "strict"), read_text(cfg, "out")
    file = None if out is None else check_file("out", out, (".json",), overwrite=True)
    clean = None if read(cfg, "clean") is None else read_choice(cfg, "clean", CACHE_PARTS)
    return DoctorSettings(read_data(cfg), file, strict, clean)
