"""`mimsuite report`: one HTML file about one or several runs."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.folders import count_of
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError
from mimsuite.runs.console import log_to_console
from mimsuite.settings.losses import name_sweep
from mimsuite.settings.outputs import writing
from mimsuite.settings.plot import name_runs
from mimsuite.settings.report import ReportSettings, read_report

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the report; returns its place, and what it says of each run under `runs`."""
    log_to_console()
    settings = read_report(cfg)
    folders = run_folders(settings)
    from mimsuite.runs.reporting.facts import read_facts
    from mimsuite.runs.reporting.page import write_report
    from mimsuite.runs.reporting.verdicts import judge_run

    names = name_sweep(dict(zip(name_runs(folders), folders, strict=True)))
    runs = [read_facts(folder, to_text(name)) for folder, name in zip(folders, names.values(), strict=True)]
    with writing("out", settings.out):
        write_report(runs, settings.out)
    said = {facts.name: [verdict.text for verdict in judge_run(facts)] for facts in runs}
    for name, lines in said.items():
        for line in lines:
            log.info("%s  %s", name, line)
    size = settings.out.stat().st_size / 1e6
    log.info("report of %s in %s (%.1f MB)", count_of(len(runs), "run"), settings.out, size)
    return {"out": str(settings.out), "runs": said}


def run_folders(settings: ReportSettings) -> list[Path]:
    """The run folders that are meant: each of `runs=` that is one, else those that it holds.

    Raises:
        InputError: a folder that holds no run.
    """
    from mimsuite.runs.listing import find_runs

    found: dict[Path, Path] = {}
    for folder in settings.folders:
        here, problems = find_runs(folder)
        for problem in problems:
            log.warning("%s", problem)
        if not here:
            raise InputError(f"runs={folder} holds no run; give the folder of a run: what a task wrote to its out=")
        for one in [folder] if folder in here else sorted(here, key=by_numbers):
            found.setdefault(one.resolve(), one)
    return list(found.values())


def by_numbers(folder: Path) -> list[str | int]:
    """The place of a folder in an order in which 10 comes after 9."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", str(folder)))]


if __name__ == "__main__":
    app.main("report", run)
