"""`mimsuite pack`: image folder -> WebDataset shards and an index."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.folders import count_of, list_names
from mimsuite.data.progress import report_progress
from mimsuite.errors import RunError, describe_fault
from mimsuite.runs.console import log_to_console, report_next
from mimsuite.settings.pack import PackSettings, read_pack

log = logging.getLogger("mimsuite")

NAMED = 20  # classes that the last line of a pack names
SHOWN = 100  # classes that a dry run lists


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Packs a folder; returns the number of images per split and the classes."""
    log_to_console()
    settings = read_pack(cfg)
    return forecast_only(settings) if settings.dry_run else pack_all(settings)


def pack_all(settings: PackSettings) -> dict[str, Any]:
    """Writes shards and index."""
    from mimsuite.data.packing.pack import pack

    try:
        with report_progress("pack") as progress:
            index = pack(
                settings.src,
                settings.out,
                **settings.choice._asdict(),
                shard_size=settings.shard_size,
                image_size=settings.image_size,
                reading=settings.reading,
                progress=progress,
            )
    except OSError as error:
        error.filename = error.filename or str(settings.out)
        raise RunError(f"{describe_fault(error)}; the same command goes on from what is packed") from error
    counts = {split: index.num_samples(split) for split in index.splits}
    report_reading(settings.src, index.reading)
    for split, shards in index.splits.items():
        log.info("%-6s %s in %s", split, count_of(counts[split], "image"), count_of(len(shards), "shard"))
    if index.bands:
        log.info("bands: %s", ", ".join(index.bands))
    if index.classes:
        log.info("classes: %s", list_names(index.classes, NAMED))
    else:
        log.info("labels: %s", "without names of classes" if index.has_labels else "none")
    log.info("packed to %s", settings.out)
    report_next("look at it", "inspect", data=settings.out, out=f"{settings.out}-look")
    return {"splits": counts, "classes": list(index.classes or ())}


def report_reading(src: Path, reading: Sequence[str]) -> None:
    """Reports how the source was read: splits, classes, and what was left out."""
    log.info("read %s as", src)
    for line in reading:
        log.info("    %s", line)


def forecast_only(settings: PackSettings) -> dict[str, Any]:
    """Prints what would be written, and writes nothing."""
    from mimsuite.data.packing.journal import check_out
    from mimsuite.data.packing.pack import describe_plan

    check_out(settings.out)
    found = describe_plan(settings.src, settings.choice, settings.shard_size)
    labels = {
        split: {found.classes[label]: count for label, count in counts.items()}
        for split, counts in found.labels.items()
    }
    report_reading(settings.src, found.reading)
    for split, images in found.images.items():
        log.info("%-6s %s in %s", split, count_of(images, "image"), count_of(found.shards[split], "shard"))
        for name, count in list(labels[split].items())[:SHOWN]:
            log.info("       %6d %s", count, name)
        if len(labels[split]) > SHOWN:
            log.info("       ... and %d more classes", len(labels[split]) - SHOWN)
    before = "" if settings.image_size is None else ", before images are made smaller"
    shards = count_of(sum(found.shards.values()), "shard")
    log.info("%.1f MB in %s%s; nothing was written", found.bytes / 1e6, shards, before)
    return {
        "splits": found.images,
        "classes": found.classes,
        "labels": labels,
        "shards": found.shards,
        "bytes": found.bytes,
    }


if __name__ == "__main__":
    app.main("pack", run)
