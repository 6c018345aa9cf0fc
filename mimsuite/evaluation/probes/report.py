"""What a probe writes: the table of all heads, the results, pictures, the winning head, and a table for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimsuite.data.storage import write_json, write_rows
from mimsuite.evaluation.features.views import hash_of_inputs
from mimsuite.evaluation.probes.linear import best_by_layer
from mimsuite.evaluation.probes.measure import ProbeResult
from mimsuite.evaluation.probes.saved_head import save_head
from mimsuite.metrics.scores import METRICS, wilson_interval
from mimsuite.models.load import make_normalizer
from mimsuite.pictures.confusion import draw_confusion, write_confusion
from mimsuite.pictures.probes import ChosenHead, draw_probe
from mimsuite.settings.probe import ProbeSettings
from mimsuite.settings.probe_head import HeadFacts
from mimsuite.settings.views import View

COLUMNS = ("features", "probe", "layer", "pool", "norm", "lr", "k", "shots", "metric", "held_out", "test", "deviation")
INTERVAL = ("low", "high")  # of an accuracy in `test`: 95 %


def write_report(folder: Path, settings: ProbeSettings, results: Sequence[ProbeResult]) -> None:
    """Writes `probe.csv`, `probe.json`, pictures and the winning head.

    Args:
        folder: the run's.
        settings: of the probe.
        results: of the encoder, and of what it is compared with.
    """
    encoder, metric = results[0].linear, main_metric(results[0])
    names = class_names(settings, encoder.task.outputs)
    columns = (*COLUMNS, *INTERVAL)
    write_rows(folder / "probe.csv", columns, ([row.get(name, "") for name in columns] for row in table_rows(results)))
    content: dict[str, Any] = {"metric": metric, "kind": encoder.task.kind, "classes": names}
    content |= {"images": len(encoder.task.test)}
    write_json(folder / "probe.json", content | {"rows": [json_row(result) for result in results]})
    draw_heads(folder / "probe.png", settings, results)
    if encoder.scores.confusion is not None:
        write_confusion(encoder.scores.confusion, folder / "confusion.csv", names)
        draw_confusion(encoder.scores.confusion, folder / "confusion.png", names)
    save_head(folder, encoder.head, head_facts(settings, results[0], names))


def main_metric(result: ProbeResult) -> str:
    """The metric that heads are chosen by."""
    return METRICS[result.linear.task.kind][0]


def interval_of(result: ProbeResult, value: float) -> tuple[float, float] | None:
    """The 95 % interval of an accuracy on the test images; None of other metrics, which are not shares of images."""
    task = result.linear.task
    return wilson_interval(value, len(task.test)) if task.kind == "classes" else None


def class_names(settings: ProbeSettings, outputs: int) -> Sequence[str] | None:
    """Names of the outputs, where the data has them."""
    classes = settings.index.classes
    return classes[:outputs] if classes and len(classes) >= outputs else None


def summary_metrics(results: Sequence[ProbeResult]) -> dict[str, float]:
    """The metrics of `summary.json`: plain names for the encoder, prefixed ones for what it is compared with."""
    metrics: dict[str, float] = {}
    for result in results:
        prefix = "" if result is results[0] else f"{result.features.split()[0]}/"
        metrics |= {f"{prefix}knn/{name}": value for name, value in result.knn[max(result.knn)].items()}
        metrics |= {f"{prefix}probe/{name}": value for name, value in result.linear.scores.metrics.items()}
        for shots, few in result.few_shot.items():
            metrics |= {f"{prefix}shots{shots}/top1": few.mean, f"{prefix}shots{shots}/top1_std": few.std}
        if result.attentive is not None:
            metrics |= {f"{prefix}attentive/{name}": value for name, value in result.attentive.scores.metrics.items()}
    return metrics


def summary_facts(settings: ProbeSettings, results: Sequence[ProbeResult]) -> dict[str, Any]:
    """What `summary.json` says of the winning head beside its metrics."""
    view, norm, lr = results[0].linear.best
    return {
        "k": max(results[0].knn),
        "layer": view.layer,
        "pool": view.pool,
        "norm": norm,
        "lr": lr,
        "image_size": list(settings.image_size),
    }


def view_columns(view: View) -> dict[str, Any]:
    """The columns of a view; none for the images themselves."""
    return {"layer": view.layer, "pool": view.pool} if view.layer else {}


def table_rows(results: Sequence[ProbeResult]) -> list[dict[str, Any]]:
    """The lines of `probe.csv`: every trial; only the chosen one has a metric on the test split."""
    return [row for result in results for row in result_rows(result)]


def result_rows(result: ProbeResult) -> list[dict[str, Any]]:
    """The lines of one kind of features."""
    metric, linear, attentive = main_metric(result), result.linear, result.attentive
    common, where = {"features": result.features, "metric": metric}, view_columns(result.knn_view)

    def tested(value: float) -> dict[str, float]:
        interval = interval_of(result, value)
        return {"test": value} | ({} if interval is None else dict(zip(INTERVAL, interval, strict=True)))

    rows: list[dict[str, Any]] = [{"probe": "knn", "k": k} | tested(m[metric]) | where for k, m in result.knn.items()]
    for trial, held in linear.held_out.items():
        row = {"probe": "linear", "norm": trial.norm, "lr": trial.lr, "held_out": "" if math.isnan(held) else held}
        test = tested(linear.scores.metrics[metric]) if trial == linear.best else {}
        rows.append(row | view_columns(trial.view) | test)
    for shots, few in result.few_shot.items():
        rows.append({"probe": "few-shot", "shots": shots, "test": few.mean, "deviation": few.std})
        rows[-1] |= view_columns(linear.best.view)
    for lr, held in attentive.held_out.items() if attentive else ():
        row = {"probe": "attentive", "layer": result.knn_view.layer, "pool": "grid", "lr": lr}
        row["held_out"] = "" if math.isnan(held) else held
        rows.append(row | (tested(attentive.scores.metrics[metric]) if attentive and lr == attentive.lr else {}))
    return [common | row for row in rows]


def json_row(result: ProbeResult) -> dict[str, Any]:
    """One row of `probe.json`."""
    linear, attentive = result.linear, result.attentive
    best, per_class = linear.best, linear.scores.per_class
    content: dict[str, Any] = {
        "features": result.features,
        "knn": {str(k): value for k, value in result.knn.items()},
        "linear": {
            "heads": len(linear.held_out),
            "layer": best.view.layer or None,
            "pool": best.view.pool if best.view.layer else None,
            "norm": best.norm,
            "lr": best.lr,
            "held_out": linear.held_out[best],
            "test": linear.scores.metrics,
            "interval": interval_of(result, linear.scores.metrics[main_metric(result)]),
            "per_class": None if per_class is None else [finite_or_none(value) for value in per_class.tolist()],
        },
    }
    if result.few_shot:
        content["few_shot"] = {
            str(n): {"mean": few.mean, "std": few.std, "draws": few.accuracies} for n, few in result.few_shot.items()
        }
    if attentive is not None:
        content["attentive"] = {
            "lr": attentive.lr,
            "epochs": attentive.epochs,
            "held_out": attentive.held_out[attentive.lr],
            "test": attentive.scores.metrics,
        }
    return content


def finite_or_none(value: float) -> float | None:
    """A number as JSON has it: NaN, of a class without images, is no JSON, and many programs refuse it."""
    return value if math.isfinite(value) else None


def draw_heads(out: Path, settings: ProbeSettings, results: Sequence[ProbeResult]) -> None:
    """Draws the best score of each layer, beside those of what the encoder is compared with."""
    linear, metric = results[0].linear, main_metric(results[0])
    view, norm, lr = linear.best
    value = linear.scores.metrics[metric]
    draw_probe(
        best_by_layer(linear.held_out),
        ChosenHead(view.layer, view.pool, linear.held_out[linear.best], value, interval_of(results[0], value)),
        out,
        metric=metric,
        num_layers=settings.depth,
        split=str(settings.test),
        images=len(linear.task.test),
        title=f"best of {len(linear.held_out)} heads: layer {view.layer}, {view.pool}, {norm_words(norm)}, lr {lr:g}",
        baselines={result.features: result.linear.scores.metrics[metric] for result in results[1:]},
    )


def head_facts(settings: ProbeSettings, result: ProbeResult, names: Sequence[str] | None) -> HeadFacts:
    """What `head.json` says of the winning head."""
    linear, weights = result.linear, settings.weights
    normalize, init = make_normalizer(settings.index, weights), Path(weights.init)
    return HeadFacts(
        init=str(init.absolute()) if init.exists() else weights.init,
        model_type=weights.config["model_type"],
        layer=linear.best.view.layer,
        pool=linear.best.view.pool,
        image_size=list(settings.image_size),
        mean=normalize.mean.flatten().tolist(),
        std=normalize.std.flatten().tolist(),
        maximum=int(normalize.maximum),
        layernorm=linear.head.layernorm,
        kind=linear.task.kind,
        classes=names,
        alpha=settings.index.alpha,
        init_channels=None if weights.channels is None else weights.channels.rule,
        init_position=weights.position,
        weights=hash_of_inputs(weights.state(), "", ""),
    )


def norm_words(norm: str) -> str:
    """How the inputs of a head are normalised, in words."""
    return "no norm" if norm == "none" else norm


def text_table(results: Sequence[ProbeResult]) -> str:
    """The main metrics as a table for the terminal; of accuracies with their 95 % intervals."""
    names, k = list(results[0].linear.scores.metrics), max(results[0].knn)
    accuracy = results[0].linear.task.kind == "classes"
    head = [f"{f'linear {names[0]}':>12}", *((f"{'95 %':>14}",) if accuracy else ()), *(f"{n:>12}" for n in names[1:])]
    lines = [f"{'features':22} {f'kNN (k={k})':>11} " + " ".join(head) + "  chosen"]
    for result in results:
        (view, norm, lr), metrics = result.linear.best, result.linear.scores.metrics
        chosen = f"layer {view.layer}, {view.pool}, " if view.layer else ""
        text = f"{result.features:22} {result.knn[max(result.knn)][names[0]]:>11.3f} {metrics[names[0]]:>12.3f}"
        interval = interval_of(result, metrics[names[0]])
        text += "" if interval is None else f" {'{:.3f}-{:.3f}'.format(*interval):>14}"
        text += "".join(f" {metrics[n]:>12.3f}" for n in names[1:])
        lines.append(f"{text}  {chosen}{norm_words(norm)}, lr {lr:g}")
        lines += [f"{f'  {n} per class':22} {few.mean:>24.3f} +- {few.std:.3f}" for n, few in result.few_shot.items()]
        if result.attentive is not None:
            lines.append(f"{'  attentive':22} {result.attentive.scores.metrics[names[0]]:>24.3f}")
    if accuracy:
        images = len(results[0].linear.task.test)  # those that could be decoded
        lines.append(f"95 %: confidence interval of the accuracy, which was measured on {images:,} images")
    return "\n".join(lines)
