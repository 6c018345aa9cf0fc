"""`mimsuite pack`: image folder -> WebDataset shards and an index."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.errors import InputError
from mimsuite.run import speak
from mimsuite.settings import check_choice, positive, whole

if TYPE_CHECKING:
    from mimsuite.data.pack import Labels

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Packs a folder; returns the number of images per split and the classes."""
    speak()
    labels = cast("Labels", check_choice(cfg, "labels", ("auto", "folder", "none")))
    if cfg.val_fraction != 0 and not 0 < positive(cfg, "val_fraction") < 1:
        raise InputError(f"val_fraction={cfg.val_fraction} is not in [0, 1); use 0.1, or 0 for no val split")
    size = positive(cfg, "shard_size")
    from mimsuite.data.pack import pack

    index = pack(
        Path(cfg.src),
        Path(cfg.out),
        labels=labels,
        shard_size=int(size * 2**20),
        val_fraction=float(cfg.val_fraction),
        seed=whole(cfg, "seed", least=0),
    )
    counts = {split: index.num_samples(split) for split in index.splits}
    for split, shards in index.splits.items():
        log.info("%-6s %d images in %d shards", split, counts[split], len(shards))
    log.info("classes: %s", ", ".join(index.classes) if index.classes else "none")
    log.info("packed to %s; look at it with: mimsuite inspect data=%s out=...", cfg.out, cfg.out)
    return {"splits": counts, "classes": list(index.classes or ())}


if __name__ == "__main__":
    app.main("pack", run)
