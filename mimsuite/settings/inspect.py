"""What `inspect` reads. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from mimsuite.errors import InputError
from mimsuite.settings.outputs import check_folder, check_outside
from mimsuite.settings.read import read, read_choice, read_data, read_flag, read_int
from mimsuite.words import ALPHAS, Alpha

SHEET, FACTS = "contact_sheet.png", "inspect.json"


@dataclass(frozen=True)
class InspectSettings:
    """A look at a data set.

    Attributes:
        data: the data set; None for the embedded one.
        out: folder of the contact sheet and the facts.
        count: images on the contact sheet, at most.
        verify: whether every checksum, image and label is read.
        index: whether an index is written beside the shards.
        alpha: what becomes of transparency, for that index.
    """

    data: str | tuple[str, ...] | None
    out: Path
    count: int
    verify: bool
    index: bool
    alpha: Alpha


def read_inspect(cfg: DictConfig) -> InspectSettings:
    """Reads and checks every key.

    Raises:
        InputError: a wrong value, or an `out` that may not be written.
    """
    out = check_folder(str(read(cfg, "out")), (SHEET, FACTS), overwrite=read_flag(cfg, "overwrite"))
    count, verify, index = read_int(cfg, "count"), read_flag(cfg, "verify"), read_flag(cfg, "index")
    data = read_data(cfg)
    check_outside(out, data)
    if index and not isinstance(data, str):
        raise InputError("index=true needs data=FOLDER, one folder of shards")
    alpha = read_choice(cfg, "alpha", ALPHAS)
    if alpha != "white" and not index:
        raise InputError(f"alpha={alpha} is written to an index; add index=true, or use `mimsuite pack alpha={alpha}`")
    return InspectSettings(data, out, count, verify, index, alpha)
