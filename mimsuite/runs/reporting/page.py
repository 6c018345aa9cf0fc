"""The report as one HTML file: no script, font or picture comes from elsewhere, and all text is escaped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mimsuite.data.storage import write_text
from mimsuite.runs.reporting.charts import curves_of, sheet_files, sheets_of, stills_of
from mimsuite.runs.reporting.facts import RunFacts
from mimsuite.runs.reporting.tables import (
    classes_of,
    compare_metrics,
    differences,
    environment_of,
    facts_of,
    heat_map,
    keys_of,
    sizes_of,
)
from mimsuite.runs.reporting.verdicts import judge_run, shown
from mimsuite.settings.losses import name_losses
from mimsuite.version import __version__

SHEETS, STILLS = 2_400_000, 1_200_000  # bytes of reconstructions and of other pictures in a file of at most 5 MB

EXPLAINED = {
    "val/loss_mean_colour": "val/loss_mean_colour is what a model must fall below: the loss of one colour per image, "
    "the mean of its visible pixels (of normalised pixels and gradients: that of flat cells).",
    "val/loss_mean_target": "val/loss_mean_target is the loss of one prediction for all cells, the mean of the "
    "teacher's features.",
    "quality/rankme": "RankMe: the effective number of dimensions of the features, at most their width.",
    "quality/alpha_req": "alpha-ReQ: how fast the variances of the features fall; near 1 is best.",
    "quality/cosine": "Where the mean cosine between images comes near 1, all images have the same features.",
}


def write_report(runs: Sequence[RunFacts], out: Path) -> None:
    """Writes the report of some runs to a file, which is replaced whole."""
    environment = Environment(
        loader=PackageLoader("mimsuite.runs.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.j2").render(describe_report(runs))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)


def describe_report(runs: Sequence[RunFacts]) -> dict[str, Any]:
    """What the template shows."""
    losses = name_losses({run.name: run.folder for run in runs}, {run.name: run.series for run in runs})
    several = len(runs) > 1
    budgets = SHEETS // max(1, sum(bool(sheet_files(run.folder)) for run in runs)), STILLS // len(runs)
    curved = {run.name: run.series for run in runs if run.series}
    described = [describe_run(run, losses, budgets, several) for run in runs]
    for one, (colour, sign) in zip(described, keys_of(runs), strict=True):
        one |= {"colour": colour, "sign": sign}
    return {
        "title": f"{len(runs)} runs" if several else runs[0].name,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": __version__,
        "notes": [text for name, text in EXPLAINED.items() if any(name in run.series for run in runs)],
        "runs": described,
        "curves": curves_of(curved, losses) if several else None,
        "table": compare_metrics(runs, losses) if several else None,
        "differences": differences(runs) if several else None,
    }


def describe_run(run: RunFacts, losses: Mapping[str, str], budgets: tuple[int, int], several: bool) -> dict[str, Any]:
    """One run, as the template shows it; the budgets are of its sheets and of its other pictures."""
    return {
        "name": run.name,
        "task": run.row["task"] or "run",
        "status": run.row["status"],
        "verdicts": judge_run(run),
        "facts": list(facts_of(run, losses.get(run.name, "")).items()),
        "metrics": [(name, shown(name, value)) for name, value in sorted(run.metrics.items())],
        "curves": None if several else curves_of({run.name: run.series}, losses),
        "sheets": sheets_of(run.folder, budgets[0]),
        "stills": list(stills_of(run.folder, budgets[1]).items()),
        "heat": heat_map(run.heads),
        "sizes": sizes_of(run),
        "classes": classes_of(run),
        "given": run.given,
        "config": sorted(run.config.items()),
        "environment": environment_of(run.environment),
        "problems": run.problems,
    }
