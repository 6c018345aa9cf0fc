"""`mimsuite pack`: image folder -> WebDataset shards and an index."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.progress import reported
from mimsuite.errors import InputError
from mimsuite.runs.folder import speak
from mimsuite.settings.read import read_flag, read_int, read_positive

if TYPE_CHECKING:
    from mimsuite.data.packing.plan import Choice

log = logging.getLogger("mimsuite")

SHOWN = 100  # classes that a dry run lists


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Packs a folder; returns the number of images per split and the classes."""
    speak()
    choice = choices(cfg)
    shard_size = int(read_positive(cfg, "shard_size") * 2**20)
    image_size = None if cfg.image_size is None else read_int(cfg, "image_size")
    src, out = Path(cfg.src), Path(cfg.out)
    if read_flag(cfg, "dry_run"):
        return dry_run(src, out, choice, shard_size, resized=image_size is not None)
    from mimsuite.data.packing.pack import pack

    with reported("pack") as progress:
        index = pack(src, out, **choice._asdict(), shard_size=shard_size, image_size=image_size, progress=progress)
    counts = {split: index.num_samples(split) for split in index.splits}
    for split, shards in index.splits.items():
        log.info("%-6s %d images in %d shards", split, counts[split], len(shards))
    log.info("classes: %s", ", ".join(index.classes) if index.classes else "none")
    log.info("packed to %s; look at it with: mimsuite inspect data=%s out=...", cfg.out, cfg.out)
    return {"splits": counts, "classes": list(index.classes or ())}


def choices(cfg: DictConfig) -> Choice:
    """Labels, splits, groups and seed, checked as far as that needs no file."""
    if cfg.val_fraction != 0 and not 0 < read_positive(cfg, "val_fraction") < 1:
        raise InputError(f"val_fraction={cfg.val_fraction} is not in [0, 1); use 0.1, or 0 for no val split")
    seed = read_int(cfg, "seed", least=0)
    from mimsuite.data.packing.plan import Choice

    return Choice(
        labels=str(cfg.labels),
        labels_file=text(cfg, "labels_file"),
        labels_column=text(cfg, "labels_column"),
        group_by=text(cfg, "group_by"),
        val_fraction=float(cfg.val_fraction),
        seed=seed,
    )


def text(cfg: DictConfig, key: str) -> str | None:
    """The value of a key that may be null; columns may have names like numbers."""
    return None if cfg[key] is None else str(cfg[key])


def dry_run(src: Path, out: Path, choice: Choice, shard_size: int, *, resized: bool) -> dict[str, Any]:
    """Says what would be written, and writes nothing."""
    from mimsuite.data.packing.journal import check_out
    from mimsuite.data.packing.pack import forecast

    check_out(out)
    found = forecast(src, choice, shard_size)
    labels = {
        split: {found.classes[label]: count for label, count in counts.items()}
        for split, counts in found.labels.items()
    }
    for split, images in found.images.items():
        log.info("%-6s %d images in %d shards", split, images, found.shards[split])
        for name, count in list(labels[split].items())[:SHOWN]:
            log.info("       %6d %s", count, name)
        if len(labels[split]) > SHOWN:
            log.info("       ... and %d more classes", len(labels[split]) - SHOWN)
    before = ", before images are made smaller" if resized else ""
    log.info("%.1f MB in %d shards%s; nothing was written", found.bytes / 1e6, sum(found.shards.values()), before)
    return {
        "splits": found.images,
        "classes": found.classes,
        "labels": labels,
        "shards": found.shards,
        "bytes": found.bytes,
    }


if __name__ == "__main__":
    app.main("pack", run)
