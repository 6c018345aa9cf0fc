"""The report as one HTML file: no script, font or picture comes from elsewhere, and all text is escaped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mimsuite.data.storage import write_text
from mimsuite.runs.reporting.charts import curves_of, sheets_of, stills_of
from mimsuite.runs.reporting.facts import RunFacts
from mimsuite.runs.reporting.verdicts import judge_run, shown
from mimsuite.settings.losses import name_losses
from mimsuite.version import __version__

BUDGET = 3_600_000  # bytes of pictures of reconstructions and others in one file, whose limit is 5 MB
PLACES = ("out", "resume", "overwrite")  # keys in which runs differ whatever they compute
MOST_METRICS = 8  # columns of the comparison
MAIN = (
    *("test/top1", "test/map", "test/r2", "probe/top1", "probe/map", "probe/r2", "random/probe/top1", "knn/top1"),
    *("val/top1", "val/map", "val/r2", "val/loss", "val/loss_mean_colour", "val/psnr", "train/loss"),
)
COST = {
    "perf/img_per_s": "images per second",
    "perf/data_wait": "part of the time spent waiting for data",
    "perf/mfu": "MFU",
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
    budget = BUDGET // len(runs)
    several = len(runs) > 1
    curved = {run.name: run.series for run in runs if run.series}
    return {
        "title": f"{len(runs)} runs" if several else runs[0].name,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": __version__,
        "runs": [describe_run(run, losses, budget, several) for run in runs],
        "curves": curves_of(curved, losses) if several else None,
        "table": compare_metrics(runs) if several else None,
        "differences": differences(runs) if several else [],
    }


def describe_run(run: RunFacts, losses: Mapping[str, str], budget: int, several: bool) -> dict[str, Any]:
    """One run, as the template shows it."""
    sheets = sheets_of(run.folder, budget * 2 // 3)
    return {
        "name": run.name,
        "task": run.row["task"] or "run",
        "status": run.row["status"],
        "verdicts": judge_run(run),
        "facts": list(facts_of(run, losses.get(run.name, "")).items()),
        "metrics": [(name, shown(name, value)) for name, value in sorted(run.metrics.items())],
        "curves": None if several else curves_of({run.name: run.series}, losses),
        "sheets": sheets,
        "stills": list(stills_of(run.folder, budget // 3).items()),
        "heat": heat_map(run.heads),
        "classes": classes_of(run),
        "given": run.given,
        "config": sorted(run.config.items()),
        "environment": environment_of(run.environment),
        "problems": run.problems,
    }


def facts_of(run: RunFacts, loss: str) -> dict[str, str]:
    """What was run, on what, and what it took."""
    row, found = run.row, dict[str, str]()
    data = run.config.get("data", "")
    found["data"] = "embedded emoji-64" if data in ("null", "") else data
    found["model"] = row["model"] or row["init"] or ""
    found["starts from"] = "" if run.config.get("init", "null") == "null" else run.config["init"]
    found["loss"] = loss
    if row["steps"] is not None:
        found["steps"] = f"{row['steps']:,}" + ("" if row["of"] is None else f" of {row['of']:,}")
    found["images seen"] = f"{run.summary['images']:,}" if isinstance(run.summary.get("images"), int) else ""
    found["seed"] = run.config.get("seed", "")
    found["time"] = "" if row["hours"] is None else duration(row["hours"])
    for name, label in COST.items():
        if name in run.metrics:
            found[label] = f"{run.metrics[name]:.3g}"
    found["device"] = str(run.environment.get("device", ""))
    found["written"] = row["updated"] or ""
    return {label: value for label, value in found.items() if value}


def duration(hours: float) -> str:
    """Hours for people."""
    if hours < 1 / 30:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h"


def environment_of(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions and machine, as pairs."""
    libraries = environment.get("libraries")
    plain = {key: value for key, value in environment.items() if not isinstance(value, (dict, list))}
    return [(str(k), str(v)) for k, v in (plain | (libraries if isinstance(libraries, dict) else {})).items()]


def heat_map(heads: Sequence[Mapping[str, str]]) -> dict[str, Any] | None:
    """The best held-out score of each layer and pooling of a probe, and how warm its cell is (0 to 1)."""
    best: dict[tuple[int, str], float] = {}
    for head in heads:
        if head.get("features") != "pretrained" or head.get("probe") != "linear":
            continue
        try:
            layer, score = int(head["layer"]), float(head["held_out"])
        except (KeyError, ValueError):
            continue
        place = (layer, head.get("pool", ""))
        best[place] = max(score, best.get(place, score))
    if not best:
        return None
    low, high = min(best.values()), max(best.values())
    layers, pools = sorted({layer for layer, _ in best}), sorted({pool for _, pool in best})
    metric = next(head["metric"] for head in heads if head.get("features") == "pretrained")
    return {
        "metric": metric,
        "layers": layers,
        "rows": [(pool, [_cell(best.get((layer, pool)), low, high, metric) for layer in layers]) for pool in pools],
    }


def _cell(score: float | None, low: float, high: float, metric: str) -> tuple[str, float]:
    if score is None:
        return "", 0.0
    return shown(metric, score), 1.0 if high == low else (score - low) / (high - low)


def classes_of(run: RunFacts) -> list[tuple[str, str]]:
    """The score of each class in a probe, the worst first."""
    rows, names = run.probe.get("rows"), run.probe.get("classes")
    if not isinstance(rows, list) or not isinstance(names, list) or not rows:
        return []
    linear = rows[0].get("linear") if isinstance(rows[0], Mapping) else None
    scores = linear.get("per_class") if isinstance(linear, Mapping) else None
    if not isinstance(scores, list) or len(scores) != len(names):
        return []
    known = [(float(score), str(name)) for score, name in zip(scores, names, strict=True) if score is not None]
    return [(name, shown("top1", score)) for score, name in sorted(known)]


def compare_metrics(runs: Sequence[RunFacts]) -> dict[str, Any]:
    """The main metrics of several runs, a row for each."""
    having = [name for name in MAIN if any(name in run.metrics for run in runs)][:MOST_METRICS]
    return {
        "columns": ["run", "task", "status", "steps", "time", *having],
        "rows": [
            [
                run.name,
                run.row["task"] or "",
                run.row["status"],
                "" if run.row["steps"] is None else f"{run.row['steps']:,}",
                "" if run.row["hours"] is None else duration(run.row["hours"]),
                *(shown(name, run.metrics[name]) if name in run.metrics else "" for name in having),
            ]
            for run in runs
        ],
    }


def differences(runs: Sequence[RunFacts]) -> list[tuple[str, list[str]]]:
    """The keys of the configs in which runs of one task differ, and each run's value."""
    keys = sorted({key for run in runs for key in run.config if key not in PLACES})
    values = {key: {(run.row["task"], run.config.get(key)) for run in runs} for key in keys}
    tasks = {run.row["task"] for run in runs}
    return [(key, [run.config.get(key, "") for run in runs]) for key in keys if len(values[key]) > len(tasks)]
