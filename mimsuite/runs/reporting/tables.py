"""The tables of a report: what was run, metrics side by side, where configs differ, scores by class, layer and size."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mimsuite.pictures.curves import run_key
from mimsuite.runs.reporting.facts import RunFacts
from mimsuite.runs.reporting.verdicts import shown
from mimsuite.settings.read import is_int, is_number

PLACES = ("out", "resume", "overwrite")  # keys in which runs differ whatever they compute
MOST_METRICS = 8  # columns of the comparison
TEXT_COLUMNS = ("run", "task", "status", "loss")
MAIN = (
    *("test/top1", "test/map", "test/r2", "probe/top1", "probe/map", "probe/r2", "random/probe/top1", "knn/top1"),
    *("test/loss", "test/loss_mean_colour", "val/top1", "val/map", "val/r2", "val/loss", "val/loss_mean_colour"),
    *("val/loss_mean_target", "val/psnr", "train/loss"),
)
COST = {
    "perf/img_per_s": "images per second",
    "perf/data_wait": "time spent waiting for data",
    "perf/mfu": "MFU (share of the device's peak)",
}
HIDING = {
    "drop": "hidden patches are left out of the encoder",
    "replace": "hidden cells are replaced by mask tokens",
    "sparse": "hidden cells are zero in every map",
}


def facts_of(run: RunFacts, loss: str) -> dict[str, str]:
    """What was run, on what, and what it took."""
    row, found, config = run.row, dict[str, str](), run.config
    data = config.get("data", "")
    found["data"] = "embedded emoji-64" if data in ("null", "") else data
    found["images"] = images_of(run)
    found["split"] = str(run.summary.get("split", ""))
    found["model"] = row["model"] or ""
    init = config.get("init", "")
    found["starts from"] = "random weights" if init == "null" else init
    found["loss"] = loss
    found["masks"] = masks_of(config) if row["task"] == "pretrain" else ""
    if row["steps"] is not None:
        found["steps"] = f"{row['steps']:,}" + ("" if row["of"] is None else f" of {row['of']:,}")
        batch = config.get("batch", "")
        found["steps"] += f", each of {batch} images" if batch.isdigit() else ""
    if row["task"] in ("pretrain", "finetune"):
        found["images seen"] = f"{run.summary['images']:,}" if isinstance(run.summary.get("images"), int) else ""
        found["learning rate"] = config.get("lr", "")
    found["seed"] = config.get("seed", "")
    found["time"] = "" if row["hours"] is None else duration(row["hours"])
    for name, label in COST.items():
        if name in run.metrics:
            found[label] = f"{run.metrics[name]:.3g}" if name == "perf/img_per_s" else f"{run.metrics[name]:.0%}"
    found["device"] = str(run.environment.get("device", ""))
    found["written"] = row["updated"] or ""
    return {label: value for label, value in found.items() if value}


def images_of(run: RunFacts) -> str:
    """How many images of which size, as far as the run says it."""
    counts = [f"{count:,} of {part}" for part, count in run.images.items()]
    judged = run.probe.get("images", run.summary.get("images"))
    if not counts and run.row["task"] not in ("pretrain", "finetune") and is_int(judged):
        counts = [f"{judged:,}"]
    size = run.summary.get("image_size", run.config.get("image_size", ""))
    sides = json.loads(size) if isinstance(size, str) and size.startswith("[") else size
    if isinstance(sides, Sequence) and len(sides) == 2 and all(map(is_number, sides)):
        counts.append(f"{sides[0]} x {sides[1]} pixels")
    channels = run.config.get("channels", "")
    counts.append(f"{channels} channel{'' if channels == '1' else 's'}" if channels.isdigit() else "")
    return ", ".join(filter(None, counts))


def masks_of(config: Mapping[str, str]) -> str:
    """Kind, ratio and unit of the masks, and what becomes of hidden cells."""
    kind, ratio, unit = (config.get(f"mask.{key}", "") for key in ("_target_", "ratio", "unit"))
    words = [kind.rpartition(".")[2]]
    words.append(f"ratio {ratio}" if ratio else "")
    words.append(f"units of {unit} pixels" if unit.isdigit() else "")
    words.append(HIDING.get(config.get("objective.mask_mode", ""), ""))
    return ", ".join(filter(None, words))


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
        layer, score = number_of(head.get("layer")), number_of(head.get("held_out"))
        if layer is None or score is None:
            continue
        place = (int(layer), head.get("pool", ""))
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


def number_of(text: str | None) -> float | None:
    """A finite number in a cell of a table; None of another text."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def classes_of(run: RunFacts) -> list[tuple[str, str, str]]:
    """Name, score and images of each class in a probe or an evaluation, the worst first; what is not known is empty."""
    known = [
        (score, row["class"], row.get("images", ""))
        for row in run.per_class
        if (score := number_of(row.get("accuracy") or row.get("average_precision"))) is not None and "class" in row
    ]
    rows, names = run.probe.get("rows"), run.probe.get("classes")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], Mapping) else {}
    linear = first.get("linear")
    scores = linear.get("per_class") if isinstance(linear, Mapping) else None
    if isinstance(scores, list) and isinstance(names, list) and len(scores) == len(names):
        known += [(float(score), str(name), "") for score, name in zip(scores, names, strict=True) if is_finite(score)]
    return [(name, shown("top1", score), images) for score, name, images in sorted(known)]


def is_finite(score: Any) -> bool:
    """Whether a score is known; earlier versions wrote NaN for a class without images."""
    return is_number(score) and math.isfinite(score)


def sizes_of(run: RunFacts) -> dict[str, Any] | None:
    """The metrics of an evaluation at several image sizes."""
    rows = run.summary.get("sizes")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and "image_size" in row for row in rows):
        return None
    names = [name for name in rows[0] if name != "image_size"]
    return {
        "columns": names,
        "rows": [
            (
                " x ".join(map(str, row["image_size"])),
                [shown(name, row[name]) for name in names if is_number(row[name])],
            )
            for row in rows
        ],
    }


def compare_metrics(runs: Sequence[RunFacts], losses: Mapping[str, str]) -> dict[str, Any]:
    """The main metrics of several runs, a row for each; which loss they have where it is not the same in all."""
    having = [name for name in MAIN if any(name in run.metrics for run in runs)][:MOST_METRICS]
    several = len(set(filter(None, losses.values()))) > 1
    texts = TEXT_COLUMNS if several else TEXT_COLUMNS[:-1]
    return {
        "columns": [*texts, "steps", "time", *having],
        "texts": len(texts),
        "rows": [
            [
                *(run.name, run.row["task"] or "", run.row["status"]),
                *([losses.get(run.name, "")] if several else []),
                "" if run.row["steps"] is None else f"{run.row['steps']:,}",
                "" if run.row["hours"] is None else duration(run.row["hours"]),
                *(shown(name, run.metrics[name]) if name in run.metrics else "" for name in having),
            ]
            for run in runs
        ],
    }


def differences(runs: Sequence[RunFacts]) -> dict[str, Any] | None:
    """The keys of the configs in which runs of one task differ, and each run's value; None where there are none.

    The longer side is the vertical one: of many runs each has a row, of few each a column.
    """
    keys = sorted({key for run in runs for key in run.config if key not in PLACES})
    values = {key: {(run.row["task"], run.config.get(key)) for run in runs} for key in keys}
    tasks = {run.row["task"] for run in runs}
    apart = [key for key in keys if len(values[key]) > len(tasks)]
    if not apart:
        return None
    names = [run.name for run in runs]
    cells = [[run.config.get(key, "") for key in apart] for run in runs]
    if len(runs) > len(apart):
        return {"corner": "run", "columns": apart, "rows": list(zip(names, cells, strict=True))}
    turned = [list(column) for column in zip(*cells, strict=True)]
    return {"corner": "key", "columns": names, "rows": list(zip(apart, turned, strict=True))}


def keys_of(runs: Sequence[RunFacts]) -> list[tuple[str, str]]:
    """Colour and sign by which each run is known in the curves; a run without curves has neither."""
    drawn = [run.name for run in runs if run.series]
    return [run_key(drawn.index(run.name)) if run.series else ("", "") for run in runs]
