"""`mimsuite inspect`: counts, classes, sizes, statistics and a contact sheet of a data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.open import open_data
from mimsuite.data.progress import reported
from mimsuite.data.storage import write_json
from mimsuite.data.tar import printable
from mimsuite.errors import InputError
from mimsuite.runs.folder import check_outputs, speak
from mimsuite.settings.read import read_flag, read_int

if TYPE_CHECKING:
    from PIL import Image

    from mimsuite.data.checks.inspect import RawSample
    from mimsuite.data.index import DataIndex

log = logging.getLogger("mimsuite")

SIDE = 112
SHOWN = 20  # faults that are printed
OUTPUTS = ("contact_sheet.png", "inspect.json")
FAULTS = {
    "unlabelled": "have no label",
    "wrong_labels": "have a wrong label",
    "keys_twice": "have a key that comes again in this split",
    "keys_not_utf8": "have a key that is not UTF-8",
    "no_sample": "are no samples, for the ending begins at the first dot of the name",
}


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Looks at a data set; returns what it writes to `inspect.json`, with `exit_code` 2 where `verify` finds faults."""
    speak()
    out = check_outputs(cfg.out, OUTPUTS, overwrite=read_flag(cfg, "overwrite"))
    count, check = read_int(cfg, "count"), read_flag(cfg, "verify")
    if read_flag(cfg, "index"):
        write_beside(cfg.data)
    try:
        index = open_data(cfg.data)
    except InputError:
        faults = shard_faults(cfg.data) if check else []
        if not faults:
            raise
        return finish(out, {"problems": faults})
    from mimsuite.data.checks.inspect import summary

    facts = summary(index)
    report(facts)
    problems = {"problems": all_faults(index)} if check else {}
    out.mkdir(parents=True, exist_ok=True)
    draw(index, count).save(out / OUTPUTS[0])
    return finish(out, facts | problems)


def write_beside(data: str | None) -> None:
    """Writes an index beside foreign shards."""
    from mimsuite.data.scan import index_beside

    if data is None:
        raise InputError("index=true needs data=FOLDER, a folder of shards")
    index_beside(data)
    log.info("wrote index.json and the .idx.npy tables to %s", data)


def shard_faults(data: str | None) -> list[dict[str, Any]]:
    """What is wrong with the shards of data that cannot be opened; nothing for a folder of images."""
    from mimsuite.data.checks.verify import check_shards
    from mimsuite.data.sources import is_image_folder

    if data is None or is_image_folder(data):
        return []
    return [problem._asdict() for problem in check_shards(data)]


def all_faults(index: DataIndex) -> list[dict[str, Any]]:
    """Reads everything; what is wrong, as plain values."""
    from mimsuite.data.checks.verify import verify

    with reported("verify") as progress:
        return [problem._asdict() for problem in verify(index, progress)]


def finish(out: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes `inspect.json`, and says what `verify` found."""
    problems = facts.get("problems")
    for problem in (problems or [])[:SHOWN]:
        place = f"{problem['shard']}, offset {problem['offset']}" if problem["offset"] >= 0 else problem["shard"]
        log.info("WRONG     %s%s: %s", place, f", {problem['key']}" if problem["key"] else "", problem["reason"])
    if problems:
        log.info("%d things are wrong; all of them are in %s", len(problems), out / OUTPUTS[1])
        facts |= {"exit_code": 2}
    elif problems is not None:
        log.info("verified  every image decodes, every checksum that is known holds")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / OUTPUTS[1], facts)
    log.info("%s in %s", "contact sheet and numbers" if (out / OUTPUTS[0]).exists() else "the list", out)
    return facts


def draw(index: DataIndex, count: int) -> Image.Image:
    """The contact sheet: `count` training images with their classes, else their keys."""
    from mimsuite.data.checks.inspect import raw_samples
    from mimsuite.pictures.sheets import contact_sheet

    part = index.select("train") if "train" in index.splits else next(iter(index.splits))
    shown = [(s, thumbnail(s.data)) for s in raw_samples(index, part, count)]
    captions = [caption(s, index.classes or ()) for s, _ in shown]
    return contact_sheet([image for _, image in shown], captions, title=printable(index.root))


def caption(sample: RawSample, names: Sequence[str]) -> str:
    """The classes or the number that label a sample; its key where it has no label."""
    label = sample.label
    if isinstance(label, float):
        return f"{label:g}"
    if label is None:
        return printable(sample.key)
    classes = (label,) if isinstance(label, int) else label
    return ", ".join(names[i] if names else str(i) for i in classes) or "none"


def thumbnail(data: bytes) -> NDArray[np.uint8]:
    """A sample as a small picture: three channels at most, 8 bits; a broken one is grey."""
    from mimsuite.data.images.decode import DecodeError, conform, open_image

    try:
        image = open_image(data)
        pixels = image.pixels(cover=(SIDE, SIDE))
    except DecodeError:
        return np.full((SIDE, SIDE, 3), 128, np.uint8)
    return conform(pixels[..., :3] if pixels.shape[-1] != 2 else pixels[..., :1], 3, "uint8")


def report(facts: dict[str, Any]) -> None:
    """The numbers as people read them."""
    log.info("data      %s, %.1f MB", printable(facts["root"]), facts["bytes"] / 1e6)
    for name, split in facts["splits"].items():
        log.info(
            "%-9s %s images in %d shards; height %s, width %s; kinds %s; %s channels, %s bits; %d of %d broken",
            *(name, f"{split['samples']:,}", split["shards"], span(split["height"]), span(split["width"])),
            *(listed(split["kinds"]), listed(split["channels"]), listed(split["bits"])),
            *(len(split["broken"]), sum(split["kinds"].values())),
        )
        for line in split["broken"][:3]:
            log.info("          broken: %s", line)
        if split["label_range"]:
            log.info("          numbers from %g to %g, mean %g", *(split["label_range"][i] for i in (0, 2, 1)))
        for fault, text in FAULTS.items():
            if split[fault]["count"]:
                log.info("          %d %s: %s", split[fault]["count"], text, "; ".join(split[fault]["first"]))
    log.info("pixels    %d channels %s, median %d x %d", facts["channels"], facts["dtype"], *facts["image_size"])
    log.info(
        "mean      %s, std %s (of %d images, chosen by hash, 0 to 1)",
        *(rounded(facts["mean"]), rounded(facts["std"]), facts["stats_samples"]),
    )
    classes = facts["classes"]
    log.info(
        "classes   %s",
        f"{len(classes)}: {', '.join(classes[:8])}{', ...' * (len(classes) > 8)}" if classes else "no names",
    )
    same = facts["duplicates"]
    log.info("twins     %d images lie in several splits, %d are repeated in all", same["across"], same["extra"])
    for names in same["first"]:
        log.info("          the same bytes: %s", ", ".join(names))


def listed(counts: dict[str, int]) -> str:
    """The keys, most frequent first, each with its count where there are several."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{key} ({count})" for key, count in counts.items()) or "unknown"


def span(values: Sequence[int]) -> str:
    """`[smallest, median, largest]` in short."""
    return f"{values[0]}" if values and values[0] == values[-1] else "-".join(map(str, values[::2])) or "unknown"


def rounded(values: Sequence[float]) -> str:
    """Statistics with four digits."""
    return "[" + ", ".join(f"{value:.4f}" for value in values) + "]"


if __name__ == "__main__":
    app.main("inspect", run)
