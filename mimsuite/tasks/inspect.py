"""`mimsuite inspect`: counts, classes, sizes, statistics and a contact sheet of a data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.open import open_data
from mimsuite.run import check_outputs, speak, write_json
from mimsuite.settings import check_flag, whole

log = logging.getLogger("mimsuite")

SIDE = 112
OUTPUTS = ("contact_sheet.png", "inspect.json")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Looks at a data set; returns what it writes to `inspect.json`."""
    speak()
    out = check_outputs(cfg.out, OUTPUTS, overwrite=check_flag(cfg, "overwrite"))
    count = whole(cfg, "count")
    index = open_data(cfg.data)
    from mimsuite.data.inspect import raw_samples, summary
    from mimsuite.pictures import contact_sheet

    facts = summary(index)
    out.mkdir(parents=True, exist_ok=True)
    shown = [(s, thumbnail(s.data)) for s in raw_samples(index, index.select("train"), count)]
    names = index.classes or ()
    captions = [names[s.label] if isinstance(s.label, int) and s.label < len(names) else s.key for s, _ in shown]
    contact_sheet([image for _, image in shown], captions, title=str(index.root)).save(out / OUTPUTS[0])
    write_json(out / OUTPUTS[1], facts)
    report(facts)
    log.info("contact sheet and numbers in %s", out)
    return facts


def thumbnail(data: bytes) -> NDArray[np.uint8]:
    """A sample as a small picture: three channels at most, 8 bits; a broken one is grey."""
    from mimsuite.data.decode import DecodeError, conform, open_image

    try:
        image = open_image(data)
        pixels = image.pixels(cover=(SIDE, SIDE))
    except DecodeError:
        return np.full((SIDE, SIDE, 3), 128, np.uint8)
    return conform(pixels[..., :3] if pixels.shape[-1] != 2 else pixels[..., :1], 3, "uint8")


def report(facts: dict[str, Any]) -> None:
    """The numbers as people read them."""
    log.info("data      %s, %.1f MB", facts["root"], facts["bytes"] / 1e6)
    for name, split in facts["splits"].items():
        log.info(
            "%-9s %s images in %d shards; height %s, width %s; kinds %s; %d broken of those looked into",
            *(name, f"{split['samples']:,}", split["shards"], span(split["height"]), span(split["width"])),
            *(", ".join(split["kinds"]), len(split["broken"])),
        )
        for line in split["broken"][:3]:
            log.info("          %s", line)
    log.info("pixels    %d channels %s, median %d x %d", facts["channels"], facts["dtype"], *facts["image_size"])
    log.info("mean      %s, std %s", rounded(facts["mean"]), rounded(facts["std"]))
    classes = facts["classes"]
    log.info(
        "classes   %s",
        f"{len(classes)}: {', '.join(classes[:8])}{', ...' * (len(classes) > 8)}" if classes else "no names",
    )


def span(values: Sequence[int]) -> str:
    """`[smallest, median, largest]` in short."""
    return f"{values[0]}" if values and values[0] == values[-1] else "-".join(map(str, values[::2])) or "unknown"


def rounded(values: Sequence[float]) -> str:
    """Statistics with four digits."""
    return "[" + ", ".join(f"{value:.4f}" for value in values) + "]"


if __name__ == "__main__":
    app.main("inspect", run)
