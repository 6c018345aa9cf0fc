"""`mimsuite runs`: a table of the runs below a folder."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.folders import count_of
from mimsuite.data.tar import to_text
from mimsuite.runs.console import log_to_console
from mimsuite.runs.listing import Row, best_rows, find_runs, read_run, sort_rows
from mimsuite.settings.runs import RunsSettings, read_runs

COLUMNS = ("run", "task", "model", "data", "steps", "status", "hours", "updated", "metrics")
WIDEST, LONGEST = 24, 60  # characters of a model or of data; of a name
SHOWN = 2  # metrics of a run
MAIN = (
    *("test/top1", "test/map", "test/r2", "probe/top1", "probe/map", "probe/r2", "knn/top1"),
    *("val/top1", "val/map", "val/r2", "val/loss", "val/psnr", "train/loss"),
)

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Prints the table, or JSON; returns its rows under `runs`."""
    log_to_console()
    settings = read_runs(cfg)
    rows, problems, total = list_rows(settings)
    if settings.json:
        log.info("%s", json.dumps([finite(row) for row in rows], indent=2))
        return {"runs": rows}
    print_table(rows, settings.best)
    for row in rows:
        if row["problem"]:
            log.warning("%-9s %s: %s", row["status"], printable(row["name"]), printable(row["problem"]))
    for problem in problems:
        log.warning("%s", problem)
    losses = sorted({row["loss"] for row in rows if row["loss"]})
    if settings.best and settings.best.endswith("loss") and len(losses) > 1:
        log.warning("%s is not the same in all runs: %s; compare those with one loss", settings.best, ", ".join(losses))
    states = Counter(row["status"] for row in rows)
    counts = ": " + ", ".join(f"{count} {status}" for status, count in sorted(states.items())) if rows else ""
    among = f"{len(rows):,} of " if len(rows) < total else ""
    log.info("%s%s below %s%s", among, count_of(total, "run"), to_text(str(settings.path)), counts)
    return {"runs": rows}


def run_rows(cfg: DictConfig, overrides: Sequence[str] = ()) -> list[Row]:
    """The rows of the table."""
    return list_rows(read_runs(cfg))[0]


def list_rows(settings: RunsSettings) -> tuple[list[Row], list[str], int]:
    """The rows in the order that is wanted, a line for each folder that cannot be read, and how many runs there are."""
    folders, problems = find_runs(settings.path)
    found = [row for folder in folders if (row := read_run(folder, settings.path)) is not None]
    rows = [row for row in found if row["status"] in settings.statuses]
    rows = [row for row in sort_rows(rows, settings.sort) if settings.tasks is None or row["task"] in settings.tasks]
    best = rows if settings.best is None else best_rows(rows, settings.best, larger=settings.larger)
    return best, problems, len(found)


def print_table(rows: Sequence[Row], best: str | None) -> None:
    """Prints a line per run, in columns."""
    if not rows:
        return
    lines = [COLUMNS, *(describe(row, best) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        log.info("%s", "  ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)).rstrip())


def describe(row: Row, best: str | None) -> tuple[str, ...]:
    """The texts of one line."""
    metrics = row["metrics"]
    names = [name for name in dict.fromkeys((best, *MAIN, *metrics)) if name in metrics][:SHOWN]
    of, hours = row["of"], row["hours"]
    return (
        shorten(row["name"], LONGEST),
        row["task"] or "-",
        shorten(row["model"] or row["init"]),
        shorten(row["data"]),
        "-" if row["steps"] is None else f"{row['steps']:,}" + ("" if of is None else f"/{of:,}"),
        row["status"],
        "-" if hours is None else f"{hours:.2f}" if hours >= 0.01 else "<0.01",
        (row["updated"] or "-")[:16],
        "  ".join(f"{name} {metrics[name]:.4g}" for name in names),
    )


def shorten(text: str | None, most: int = WIDEST) -> str:
    """A word for a column: the end of a long path."""
    shown = printable(text) if text else "-"
    return shown if len(shown) <= most else "..." + shown[-(most - 3) :]


def printable(text: str) -> str:
    """A name without signs that would move the cursor of a terminal."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in to_text(text))


def finite(value: Any) -> Any:
    """Values that JSON has: null stands for what is not a finite number."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    app.main("runs", run)
