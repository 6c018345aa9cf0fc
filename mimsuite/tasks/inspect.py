"""`mimsuite inspect`: counts, classes, sizes, statistics and a contact sheet of a data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.open import open_data
from mimsuite.data.progress import reported
from mimsuite.data.storage import write_json
from mimsuite.data.tar import printable
from mimsuite.errors import InputError
from mimsuite.runs.console import speak
from mimsuite.settings.inspect import FACTS, SHEET, read_inspect

log = logging.getLogger("mimsuite")

SHOWN = 20  # faults that are printed
FAULTS = {
    "unlabelled": "have no label",
    "wrong_labels": "have a wrong label",
    "keys_twice": "have a key that another sample of the split has, too",
    "keys_not_utf8": "have a key that is not UTF-8",
    "no_sample": "are not samples: the ending of a file begins at the first dot of its name",
}


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Looks at a data set; returns what it writes to `inspect.json`, with `exit_code` 2 where `verify` finds faults."""
    speak()
    settings = read_inspect(cfg)
    if settings.index and settings.data is not None:
        write_beside(settings.data)
    try:
        index = open_data(settings.data)
    except InputError:
        faults = find_shard_faults(settings.data) if settings.verify else []
        if not faults:
            raise
        return finish(settings.out, {"problems": faults})
    from mimsuite.data.checks.inspect import summary
    from mimsuite.data.checks.verify import verify
    from mimsuite.pictures.contact import draw_data
    from mimsuite.pictures.saving import save_image

    facts = summary(index)
    report(facts)
    if settings.verify:
        with reported("verify") as progress:
            facts |= {"problems": [problem._asdict() for problem in verify(index, progress)]}
    save_image(draw_data(index, settings.count), settings.out / SHEET)
    return finish(settings.out, facts)


def write_beside(data: str) -> None:
    """Writes an index beside shards that have none."""
    from mimsuite.data.scan import index_beside

    index_beside(data)
    log.info("wrote index.json and the .idx.npy tables to %s", data)


def find_shard_faults(data: str | None) -> list[dict[str, Any]]:
    """What is wrong with the shards of data that cannot be opened; nothing for a folder of images."""
    from mimsuite.data.checks.verify import check_shards
    from mimsuite.data.sources import is_image_folder

    if data is None or is_image_folder(data):
        return []
    return [problem._asdict() for problem in check_shards(data)]


def finish(out: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes `inspect.json`, and prints what `verify` found."""
    problems = facts.get("problems")
    for problem in (problems or [])[:SHOWN]:
        place = f"{problem['shard']}, offset {problem['offset']}" if problem["offset"] >= 0 else problem["shard"]
        log.info("WRONG     %s%s: %s", place, f", {problem['key']}" if problem["key"] else "", problem["reason"])
    if problems:
        log.info("%d faults; all of them are in %s", len(problems), out / FACTS)
        facts |= {"exit_code": 2}
    elif problems is not None:
        log.info("verified  every image can be decoded, every known checksum is right")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FACTS, facts)
    log.info("%s in %s", "contact sheet and numbers" if (out / SHEET).exists() else "the list of faults", out)
    return facts


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
    log.info("copies    %d images are in several splits; %d copies in all", same["across"], same["extra"])
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
