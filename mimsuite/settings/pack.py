"""What `pack` reads. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite.data.images.reading import Reading
from mimsuite.data.images.value_range import ValueRange
from mimsuite.data.packing.plan import Choice
from mimsuite.errors import InputError
from mimsuite.settings.given_labels import read_label_kind
from mimsuite.settings.outputs import check_outside, check_writable
from mimsuite.settings.read import is_number, read, read_choice, read_flag, read_int, read_positive, read_text
from mimsuite.words import ALPHAS, LABELS_MISSING, SPLIT_SOURCES


@dataclass(frozen=True)
class PackSettings:
    """How a folder of images is packed.

    Attributes:
        src: folder of images, or shards.
        out: folder for the shards.
        choice: labels, splits, groups and seed.
        shard_size: bytes of images per shard.
        image_size: short side of larger images in pixels; None keeps all as they are.
        reading: transparency, bands and the range of values.
        dry_run: whether nothing is written.
    """

    src: Path
    out: Path
    choice: Choice
    shard_size: int
    image_size: int | None
    reading: Reading
    dry_run: bool


def read_pack(cfg: DictConfig) -> PackSettings:
    """Reads and checks every key, as far as that needs no file.

    Raises:
        InputError: a wrong value.
    """
    src, out, dry_run = str(read(cfg, "src")), Path(str(read(cfg, "out"))), read_flag(cfg, "dry_run")
    check_outside(out, src, "src")
    if not dry_run:
        check_writable("out", out)
    return PackSettings(
        choice=read_splits_and_labels(cfg),
        shard_size=int(read_positive(cfg, "shard_size") * 2**20),
        image_size=None if cfg.image_size is None else read_int(cfg, "image_size"),
        reading=read_reading(cfg),
        src=Path(src),
        out=out,
        dry_run=dry_run,
    )


def read_reading(cfg: DictConfig) -> Reading:
    """Transparency, bands, and the range of values.

    Raises:
        InputError: a wrong value, or keys that contradict each other.
    """
    names = read(cfg, "band_names")
    reading = Reading(
        alpha=read_choice(cfg, "alpha", ALPHAS),
        bands=_read_list(read(cfg, "bands")),
        band_names=None if names == "none" else () if names == "auto" else _read_list(names),
        range=read_range(cfg),
    )
    reading.check()
    return reading


def _read_list(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value if isinstance(value, list) else [] if value is None else [value]))


def read_range(cfg: DictConfig) -> ValueRange | None:
    """The values that become 0 and 65535, and the one that is none.

    Raises:
        InputError: not two finite numbers, the lower first, or `nodata` without them.
    """
    ends, nodata = read(cfg, "value_range"), read(cfg, "nodata")
    if nodata is not None and (not is_number(nodata) or math.isinf(nodata)):
        raise InputError(f"nodata={nodata} is not a number or nan; use such as nodata=-9999")
    if ends is None:
        if nodata is not None:
            raise InputError(f"nodata={nodata} needs value_range=[LOWEST,HIGHEST]; such pixels become its lowest value")
        return None
    good = isinstance(ends, list) and len(ends) == 2 and all(is_number(end) and math.isfinite(end) for end in ends)
    if not good or not ends[0] < ends[1]:
        raise InputError(f"value_range={ends} is not two numbers, the lower first; use such as value_range=[0,1]")
    found = ValueRange(float(ends[0]), float(ends[1]), None if nodata is None else float(nodata))
    if not found.fits:
        raise InputError(
            f"value_range={ends}: the difference of its ends is too large or too small to compute with; use the least "
            "and the largest value of your data, such as value_range=[0,1]"
        )
    return found


def read_splits_and_labels(cfg: DictConfig) -> Choice:
    """Labels, splits, groups and seed; columns may have names like numbers.

    Raises:
        InputError: a wrong value.
    """
    exclude = read(cfg, "exclude")
    return Choice(
        labels=str(read(cfg, "labels")),
        labels_file=read_text(cfg, "labels_file"),
        labels_column=read_text(cfg, "labels_column"),
        labels_kind=read_label_kind(cfg),
        labels_missing=read_choice(cfg, "labels_missing", LABELS_MISSING),
        group_by=read_text(cfg, "group_by"),
        val_fraction=read_fraction(cfg, "val_fraction"),
        test_fraction=read_fraction(cfg, "test_fraction"),
        splits=read_choice(cfg, "splits", SPLIT_SOURCES),
        exclude=tuple(map(str, exclude if isinstance(exclude, list) else [] if exclude is None else [exclude])),
        channels=None if cfg.channels is None else read_int(cfg, "channels"),
        seed=read_int(cfg, "seed", least=0),
    )


def read_fraction(cfg: DictConfig, key: str) -> float:
    """A share of the images.

    Raises:
        InputError: not a number from 0 to below 1.
    """
    fraction = read(cfg, key)
    if not is_number(fraction) or not 0 <= fraction < 1:
        raise InputError(f"{key}={fraction} is not in [0, 1); use 0.1, or 0 for no {key.partition('_')[0]} split")
    return float(fraction)
