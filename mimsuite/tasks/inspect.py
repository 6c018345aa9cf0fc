"""`mimsuite inspect`: counts, classes, sizes, statistics and a contact sheet of a data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.open import open_data
from mimsuite.data.progress import report_progress
from mimsuite.data.storage import write_json
from mimsuite.data.stores.names import scheme_of
from mimsuite.errors import InputError
from mimsuite.runs.console import log_to_console, report_next
from mimsuite.settings.inspect import FACTS, SHEET, read_inspect
from mimsuite.words import Alpha

log = logging.getLogger("mimsuite")

SHOWN = 20  # faults that are printed


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Looks at a data set; returns what it writes to `inspect.json`, with `exit_code` 2 where `verify` finds faults."""
    log_to_console()
    settings = read_inspect(cfg)
    if settings.index and isinstance(settings.data, str):
        write_beside(settings.data, settings.out, settings.alpha)
    try:
        index = open_data(settings.data)
    except InputError:
        faults = find_shard_faults(settings.data) if settings.verify else []
        if not faults:
            raise
        (settings.out / SHEET).unlink(missing_ok=True)  # of an earlier look: none is drawn now
        return write_facts(settings.out, {"problems": faults})
    from mimsuite.data.checks.describe import describe_facts
    from mimsuite.data.checks.inspect import summarize_data
    from mimsuite.data.checks.verify import verify
    from mimsuite.pictures.contact import draw_data
    from mimsuite.pictures.saving import save_image

    facts = summarize_data(index)
    for line in describe_facts(facts):
        log.info("%s", line)
    if settings.verify:
        with report_progress("verify") as progress:
            facts |= {"problems": [problem._asdict() for problem in verify(index, progress)]}
    save_image(draw_data(index, settings.count), settings.out / SHEET)
    facts = write_facts(settings.out, facts)
    if not facts.get("problems"):
        report_next("pretrain on it", "pretrain", data=settings.data, out="runs/first")
    return facts


def write_beside(data: str, out: Path, alpha: Alpha) -> None:
    """Writes an index beside shards that have none; of shards on another machine that takes no files, into `out`."""
    from mimsuite.data.remote.opening import index_remote
    from mimsuite.data.scan import index_beside

    place = data
    if scheme_of(data):
        place = index_remote(data, out, alpha)
    else:
        index_beside(data, alpha)
    log.info("wrote index.json and its tables to %s", place)


def find_shard_faults(data: str | Sequence[str] | None) -> list[dict[str, Any]]:
    """What is wrong with the shards of data that cannot be opened; nothing for a folder of images."""
    from mimsuite.data.checks.verify import check_shards
    from mimsuite.data.folders import images_of

    if data is None:
        return []
    if not isinstance(data, str):
        return [fault for address in data for fault in find_shard_faults(address)]
    if not scheme_of(data) and images_of(data) is not None:
        return []
    return [problem._asdict() for problem in check_shards(data)]


def write_facts(out: Path, facts: dict[str, Any]) -> dict[str, Any]:
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


if __name__ == "__main__":
    app.main("inspect", run)
