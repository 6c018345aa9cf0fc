"""`mimsuite probe`: kNN, linear, attentive and few-shot probes of a frozen encoder, beside what they must beat."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig

from mimsuite import app
from mimsuite.data.index import DataIndex, Selection
from mimsuite.data.open import open_data
from mimsuite.data.storage import cache_folder, write_json
from mimsuite.errors import InputError
from mimsuite.models.device import torch_device
from mimsuite.models.load import check_channels, config_of, load_encoder, normalizer
from mimsuite.runs.folder import RunFolder, check_out, speak
from mimsuite.runs.processes import command_line, end_with_parent, launch, leads, team
from mimsuite.settings.machine import auto_workers
from mimsuite.settings.read import FALLBACK_SIZE, format_size, read_flag, read_int, read_size
from mimsuite.version import __version__
from mimsuite.weights.init import Weights, find_weights

if TYPE_CHECKING:
    from torch import nn

    from mimsuite.evaluation.features.passes import FeaturePass
    from mimsuite.evaluation.features.views import Features, View
    from mimsuite.evaluation.probes.attentive import AttentiveResult
    from mimsuite.evaluation.probes.few_shot import FewShot
    from mimsuite.evaluation.probes.linear import LinearResult, Recipe

log = logging.getLogger("mimsuite")

PIXELS = 8
KNN_K = 20
POOLS = ("mean", "cls", "both")
NORMS = ("batchnorm", "layernorm", "none")
DEPTHS = ("last", "middle", "quarters", "all")
COLUMNS = ("features", "probe", "layer", "pool", "norm", "lr", "k", "shots", "metric", "held_out", "test", "deviation")


@dataclass(frozen=True)
class ProbeSettings:
    """A probe, decided and checked, before torch is imported.

    Attributes:
        views: `(layer, pool)` of the matrix.
        knn_view: of kNN.
        recipe: keyword arguments of `evaluation.linear.Recipe`.
        shots: images per class of the few-shot probes.
    """

    weights: Weights
    index: DataIndex
    train: Selection
    test: Selection
    image_size: tuple[int, int]
    depth: int
    views: tuple[tuple[int, str], ...]
    knn_view: tuple[int, str]
    recipe: dict[str, Any]
    shots: tuple[int, ...]
    attentive: bool
    baselines: bool
    batch: int
    workers: int
    seed: int
    devices: int


@dataclass(frozen=True)
class ProbeResult:
    """What one kind of features is worth."""

    features: str
    knn: dict[int, dict[str, float]]
    knn_view: View
    probed: LinearResult
    few: dict[int, FewShot]
    attended: AttentiveResult | None


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Probes an encoder; returns the content of `summary.json`."""
    speak()
    end_with_parent()
    overwrite = read_flag(cfg, "overwrite")
    if leads():
        check_out(cfg.out, overwrite=overwrite)
    plan = decide(cfg)
    if plan.devices > 1 and team() is None:
        code = launch("probe", command_line("probe", overrides), plan.devices, 1)
        file = Path(cfg.out) / "summary.json"
        return (json.loads(file.read_text()) if file.is_file() else {}) | {"exit_code": code}
    with RunFolder(cfg.out, overwrite=overwrite, leads=leads()) as folder:
        folder.log_to_file()
        folder.describe(cfg, overrides, {"processes": plan.devices})
        log.info("mimsuite %s probe of %s -> %s", __version__, cfg.init, cfg.out)
        log.info("data      %s: fit on %s, report on %s", plan.index.root, *map(spoken_part(plan), ("train", "test")))
        heads = len(plan.views) * len(plan.recipe["norms"]) * len(plan.recipe["lrs"])
        log.info(
            "image     %s px; %d heads: layers %s, pool %s, %s, %d rates, %d epochs",
            *(format_size(plan.image_size), heads, listed(layer for layer, _ in plan.views)),
            *(listed(pool for _, pool in plan.views), listed(plan.recipe["norms"]), len(plan.recipe["lrs"])),
            plan.recipe["epochs"],
        )
        found = probe(plan)
        if not folder.leads:
            return {"exit_code": 0}
        write(folder.path, plan, found)
        log.info("%s", spoken_table(found))
        best = found[0].probed.best
        return folder.summary(
            "probe",
            "done",
            0,
            figures(found),
            k=max(found[0].knn),
            layer=best.view.layer,
            pool=best.view.pool,
            norm=best.norm,
            lr=best.lr,
            image_size=list(plan.image_size),
        )


# --- what is to be done --------------------------------------------------------------------------------------------


def decide(cfg: DictConfig) -> ProbeSettings:
    """Checks every key.

    Raises:
        InputError: a value that the task, the encoder or the data does not take.
    """
    weights = find_weights(cfg.init)
    index = open_data(cfg.data)
    check_data(index, weights, cfg)
    size = (
        weights.image_size or (FALLBACK_SIZE, FALLBACK_SIZE) if cfg.image_size == "auto" else read_size(cfg.image_size)
    )
    test = index.select("test") if cfg.split == "auto" else Selection(str(cfg.split))
    index.num_samples(test)
    tokens = config_of(weights).class_tokens
    depths = cfg.preset.layers if cfg.layers == "auto" else cfg.layers
    pool = cfg.preset.pool if cfg.pool == "auto" else cfg.pool
    pools = [] if pool == "auto" else words(pool, "pool", POOLS)
    layers = numbered(depths, len(tokens))
    views = pooled_views(layers, pools, tokens, chosen=depths not in DEPTHS)
    knn_pool = pools[0] if pools and (pools[0] == "mean" or tokens[-1]) else "mean"
    running = team()
    return ProbeSettings(
        weights=weights,
        index=index,
        train=index.select("train"),
        test=test,
        image_size=size,
        depth=len(tokens),
        views=views,
        knn_view=(len(tokens), knn_pool),
        recipe=recipe_of(cfg.preset),
        shots=tuple(shot_numbers(cfg.shots)),
        attentive=read_flag(cfg, "attentive"),
        baselines=read_flag(cfg, "baselines"),
        batch=read_int(cfg, "batch"),
        workers=read_int(cfg, "workers", auto=auto_workers(), least=0),
        seed=read_int(cfg, "seed", least=0),
        devices=running.size if running else read_int(cfg, "devices", auto=1),
    )


def check_data(index: DataIndex, weights: Weights, cfg: DictConfig) -> None:
    """Refuses data that the encoder cannot take or that carries no labels."""
    check_channels(index, weights)
    if not index.has_labels:
        raise InputError(f"data={cfg.data} has no labels; a probe needs one per image (.cls or .json in the shards)")


def words(value: Any, key: str, allowed: Sequence[str]) -> list[str]:
    """A word or a list of words, each once."""
    given = [str(v) for v in value] if isinstance(value, (list, tuple, ListConfig)) else [str(value)]
    if not given or set(given) - set(allowed):
        raise InputError(f"{key}={value} is unknown; {key} takes {', '.join(allowed)}, or a list of them")
    return list(dict.fromkeys(given))


def numbered(value: Any, depth: int) -> list[int]:
    """Numbers of layers, ascending, from a word or a list."""
    if isinstance(value, (list, tuple, ListConfig)):
        if not value or any(isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= depth for n in value):
            raise InputError(f"layers={value}: this encoder's layers are 1 to {depth}; use numbers from these")
        return sorted(set(value))
    if value not in DEPTHS:
        raise InputError(
            f"layers={value} is unknown; layers takes {', '.join(DEPTHS)}, or a list of numbers from 1 to {depth}"
        )
    quarters = sorted({max(1, round(depth * quarter / 4)) for quarter in (1, 2, 3, 4)})
    return {
        "last": [depth],
        "middle": [max(1, depth // 2)],
        "quarters": quarters,
        "all": list(range(1, depth + 1)),
    }[str(value)]


def pooled_views(
    layers: Sequence[int], pools: Sequence[str], tokens: Sequence[bool], *, chosen: bool
) -> tuple[tuple[int, str], ...]:
    """`(layer, pool)` of every view.

    Args:
        layers: numbers from 1.
        pools: what is asked for; empty for the mean, and the class token where there is one.
        tokens: whether each layer has a class token.
        chosen: whether the user named these very layers; else those that lack what is asked for are left out.
    """
    found = [(n, p) for n in layers for p in pools or POOLS[:2] if p == "mean" or tokens[n - 1]]
    lacking = [n for n in layers if not tokens[n - 1]]
    if pools and lacking and "mean" not in pools and (chosen or not found):
        raise InputError(
            f"pool={','.join(pools)}, but layer {lacking[0]} of this encoder has no class token; use pool=mean"
        )
    return tuple(found)


def recipe_of(preset: DictConfig) -> dict[str, Any]:
    """The keyword arguments of `evaluation.linear.Recipe`, checked."""
    lrs = list(preset.lrs) if isinstance(preset.lrs, ListConfig) else [preset.lrs]
    if not lrs or any(isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 < v < math.inf for v in lrs):
        raise InputError(f"preset.lrs={preset.lrs} is no list of numbers above 0; use preset.lrs=[0.03,0.1,0.3]")
    epochs, warmup = read_int(preset, "epochs", name="preset.epochs"), preset.warmup
    if isinstance(warmup, bool) or not isinstance(warmup, (int, float)) or not 0 <= warmup < epochs:
        raise InputError(f"preset.warmup={warmup} is no number of epochs from 0 to below preset.epochs={epochs}; use 0")
    optimizer = str(preset.optimizer)
    if optimizer not in ("newton", "sgd", "lars"):
        raise InputError(f"preset.optimizer={optimizer} is unknown; it takes newton, sgd, lars")
    return {
        "norms": words(preset.norms, "preset.norms", NORMS),
        "lrs": [float(lr) for lr in dict.fromkeys(lrs)],
        "epochs": epochs,
        "batch": read_int(preset, "batch", name="preset.batch"),
        "optimizer": optimizer,
        "warmup": float(warmup),
    }


def shot_numbers(value: Any) -> list[int]:
    """Images per class, ascending."""
    given = list(value) if isinstance(value, (list, tuple, ListConfig)) else [value]
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in given):
        raise InputError(f"shots={value} is no list of whole numbers from 1; use shots=[1,5,10], or [] for none")
    return sorted(set(given))


# --- doing it ------------------------------------------------------------------------------------------------------


def probe(plan: ProbeSettings) -> list[ProbeResult]:
    """Features first, of all that is compared; then, in the first process alone, the probes."""
    import torch
    from torch import distributed

    running = team()
    if running is not None and running.size > 1:
        distributed.init_process_group("gloo")
    try:
        config = config_of(plan.weights)
        encoder = load_encoder(plan.weights, config, plan.image_size)
        views = wanted_views(plan)
        every = {"pretrained": read(plan, encoder, views + grid_view(plan))}
        if plan.baselines:
            torch.manual_seed(plan.seed)
            fresh = load_encoder(None, config, plan.image_size)
            every["random initialisation"] = read(plan, fresh, views)
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
    if not leads():
        return []
    found = [measure(plan, name, *parts) for name, parts in every.items()]
    if plan.baselines:
        found.append(measure_pixels(plan))
    return found


def wanted_views(plan: ProbeSettings) -> list[View]:
    """The views of matrix and kNN."""
    from mimsuite.evaluation.features.views import View

    return [View(*v) for v in dict.fromkeys((*plan.views, plan.knn_view))]  # type: ignore[arg-type]


def grid_view(plan: ProbeSettings) -> list[View]:
    """All cells of the last layer, where the attentive probe needs them."""
    from mimsuite.evaluation.features.views import View

    return [View(plan.depth, "grid")] if plan.attentive else []


def read(plan: ProbeSettings, encoder: nn.Module, views: Sequence[View]) -> list[dict[View, Features]]:
    """Features of the training and of the test images."""
    passing = reader(plan, encoder)
    parts = [passing.read(plan.index, part, views) for part in (plan.train, plan.test)]
    return [{view: stored.features(view) for view in views} for stored in parts] if leads() else []


def reader(plan: ProbeSettings, encoder: nn.Module) -> FeaturePass:
    """How features are computed."""
    from mimsuite.evaluation.features.passes import feature_pass

    device, running = torch_device(), team()
    if device == "cuda" and running is not None:
        device = f"cuda:{running.rank % running.local}"
    return feature_pass(
        plan.weights,
        plan.index,
        encoder,
        plan.image_size,
        device=device,
        batch=plan.batch,
        workers=plan.workers,
    )


def measure(plan: ProbeSettings, name: str, train: dict[View, Features], test: dict[View, Features]) -> ProbeResult:
    """kNN, the matrix, and what else is asked for."""
    from mimsuite.evaluation.features.views import View
    from mimsuite.evaluation.probes.attentive import attentive_probe
    from mimsuite.evaluation.probes.few_shot import few_shot
    from mimsuite.evaluation.probes.knn import knn_figures
    from mimsuite.evaluation.probes.linear import probe_matrix

    device = torch_device()
    at: View = View(*plan.knn_view)  # type: ignore[arg-type]
    at = at if at in train else next(iter(train))
    knn = knn_figures(train[at], test[at], device=device)
    matrix = [view for view in train if tuple(view) in plan.views] or [at]
    ours, theirs = ({view: part[view] for view in matrix} for part in (train, test))
    probed = probe_matrix(ours, theirs, recipe(plan), seed=plan.seed, device=device)
    best = probed.best.view
    few = few_shot(train[best], test[best], plan.shots, names=plan.index.classes, device=device) if plan.shots else {}
    grid = View(plan.depth, "grid")
    attended = attentive_probe(train[grid], test[grid], seed=plan.seed, device=device) if grid in train else None
    return ProbeResult(name, knn, at, probed, few, attended)


def recipe(plan: ProbeSettings) -> Recipe:
    """How the heads are trained."""
    from mimsuite.evaluation.probes.linear import Recipe

    return Recipe(**plan.recipe)


def measure_pixels(plan: ProbeSettings) -> ProbeResult:
    """The same for the images themselves, shrunk."""
    from mimsuite.data.datamodule import eval_loader
    from mimsuite.evaluation.features.passes import data_words
    from mimsuite.evaluation.features.views import View, cached_features, fingerprint, raw_pixel_features

    def features(part: Selection) -> Features:
        def compute() -> Features:
            loader = eval_loader(
                plan.index, part, image_size=plan.image_size, batch=plan.batch, workers=plan.workers, labels=True
            )
            return raw_pixel_features(loader, PIXELS)

        mark = fingerprint({}, f"{plan.image_size} {PIXELS}", data_words(plan.index, part))
        return cached_features(cache_folder() / "features", mark, compute)

    name = f"{PIXELS}x{PIXELS} pixels"
    train, test = ({View(0, "mean"): features(part)} for part in (plan.train, plan.test))
    return measure(plan, name, train, test)


# --- what is written -----------------------------------------------------------------------------------------------


def figures(found: Sequence[ProbeResult]) -> dict[str, float]:
    """The metrics of `summary.json`: plain names for the encoder, prefixed ones for what it is compared with."""
    metrics: dict[str, float] = {}
    for one in found:
        prefix = "" if one is found[0] else f"{one.features.split()[0]}/"
        metrics |= {f"{prefix}knn/{name}": value for name, value in one.knn[max(one.knn)].items()}
        metrics |= {f"{prefix}probe/{name}": value for name, value in one.probed.worth.figures.items()}
        for shots, few in one.few.items():
            metrics |= {f"{prefix}shots{shots}/top1": few.mean, f"{prefix}shots{shots}/top1_std": few.std}
        if one.attended is not None:
            metrics |= {f"{prefix}attentive/{name}": value for name, value in one.attended.worth.figures.items()}
    return metrics


def rows(found: Sequence[ProbeResult]) -> list[dict[str, Any]]:
    """The lines of `probe.csv`: every trial, of which the chosen one alone has a figure on the test split."""
    lines: list[dict[str, Any]] = []
    for one in found:
        metric = main_metric(one)
        place = {"layer": one.knn_view.layer or "", "pool": one.knn_view.pool if one.knn_view.layer else ""}
        common = {"features": one.features, "metric": metric}
        lines += [common | place | {"probe": "knn", "k": k, "test": value[metric]} for k, value in one.knn.items()]
        for trial, held in one.probed.held_out.items():
            line = {"probe": "linear", "norm": trial.norm, "lr": trial.lr, "held_out": "" if math.isnan(held) else held}
            line |= {"layer": trial.view.layer, "pool": trial.view.pool} if trial.view.layer else {}
            line |= {"test": one.probed.worth.figures[metric]} if trial == one.probed.best else {}
            lines.append(common | line)
        best = one.probed.best.view
        for shots, few in one.few.items():
            line = {"probe": "few-shot", "shots": shots, "test": few.mean, "deviation": few.std}
            lines.append(common | line | ({"layer": best.layer, "pool": best.pool} if best.layer else {}))
        if one.attended is not None:
            for lr, held in one.attended.held_out.items():
                line = {"probe": "attentive", "layer": one.knn_view.layer, "pool": "grid", "lr": lr, "held_out": held}
                line |= {"test": one.attended.worth.figures[metric]} if lr == one.attended.lr else {}
                lines.append(common | line)
    return lines


def summary_of(one: ProbeResult) -> dict[str, Any]:
    """One row of `probe.json`."""
    best, probed = one.probed.best, one.probed
    content: dict[str, Any] = {
        "features": one.features,
        "knn": {str(k): value for k, value in one.knn.items()},
        "linear": {
            "heads": len(probed.held_out),
            "layer": best.view.layer or None,
            "pool": best.view.pool if best.view.layer else None,
            "norm": best.norm,
            "lr": best.lr,
            "held_out": probed.held_out[best],
            "test": probed.worth.figures,
            "per_class": None if probed.worth.per_class is None else probed.worth.per_class.tolist(),
        },
    }
    if one.few:
        content["few_shot"] = {
            str(n): {"mean": few.mean, "std": few.std, "draws": few.accuracies} for n, few in one.few.items()
        }
    if one.attended is not None:
        attended = one.attended
        content["attentive"] = {
            "lr": attended.lr,
            "epochs": attended.epochs,
            "held_out": attended.held_out[attended.lr],
            "test": attended.worth.figures,
        }
    return content


def main_metric(one: ProbeResult) -> str:
    """The figure that trials are chosen by."""
    from mimsuite.metrics.scores import METRICS

    return METRICS[one.probed.task.kind][0]


def write(folder: Path, plan: ProbeSettings, found: Sequence[ProbeResult]) -> None:
    """Writes tables, pictures and the winning head."""
    from mimsuite.evaluation.probes.linear import best_by_layer
    from mimsuite.evaluation.probes.saved_head import HeadFacts, save_head
    from mimsuite.pictures.confusion import draw_confusion, write_confusion
    from mimsuite.pictures.probes import ChosenHead, draw_probe

    with (folder / "probe.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows(found))
    own, metric = found[0].probed, main_metric(found[0])
    classes = plan.index.classes
    names = classes[: own.task.outputs] if classes and len(classes) >= own.task.outputs else None
    write_json(
        folder / "probe.json",
        {"metric": metric, "kind": own.task.kind, "classes": names, "rows": [summary_of(one) for one in found]},
    )
    levels = {one.features: one.probed.worth.figures[metric] for one in found[1:]}
    (view, norm, lr), count = own.best, len(own.held_out)
    draw_probe(
        best_by_layer(own.held_out),
        ChosenHead(view.layer, view.pool, own.held_out[own.best], own.worth.figures[metric]),
        folder / "probe.png",
        metric=metric,
        num_layers=plan.depth,
        title=f"best of {count} heads: layer {view.layer}, {view.pool}, {norm}, lr {lr:g}",
        baselines=levels,
    )
    if own.worth.confusion is not None:
        write_confusion(own.worth.confusion, folder / "confusion.csv", names)
        draw_confusion(own.worth.confusion, folder / "confusion.png", names)
    normalize = normalizer(plan.index, plan.weights)
    init = Path(plan.weights.init)
    facts = HeadFacts(
        init=str(init.absolute()) if init.exists() else plan.weights.init,
        model_type=plan.weights.config["model_type"],
        layer=own.best.view.layer,
        pool=own.best.view.pool,
        image_size=list(plan.image_size),
        mean=normalize.mean.flatten().tolist(),
        std=normalize.std.flatten().tolist(),
        maximum=int(normalize.maximum),
        layernorm=own.head.layernorm,
        kind=own.task.kind,
        classes=names,
    )
    save_head(folder, own.head, facts)


def spoken_part(plan: ProbeSettings) -> Any:
    """Says a split with its size."""
    parts: Mapping[str, Selection] = {"train": plan.train, "test": plan.test}
    return lambda name: f"{parts[name].split} ({plan.index.num_samples(parts[name]):,})"


def listed(values: Any) -> str:
    """Each value once."""
    return ", ".join(dict.fromkeys(map(str, values)))


def spoken_table(found: Sequence[ProbeResult]) -> str:
    """The figures as people read them."""
    names = list(found[0].probed.worth.figures)
    k = max(found[0].knn)
    lines = [f"{'features':22} {f'kNN (k={k})':>11} " + " ".join(f"{f'linear {n}':>12}" for n in names) + "  chosen"]
    for one in found:
        best, values = one.probed.best, one.probed.worth.figures
        chosen = f"layer {best.view.layer}, {best.view.pool}, " if best.view.layer else ""
        text = f"{one.features:22} {one.knn[max(one.knn)][names[0]]:>11.3f} "
        lines.append(text + " ".join(f"{values[n]:>12.3f}" for n in names) + f"  {chosen}{best.norm}, lr {best.lr:g}")
        lines += [f"{f'  {n} per class':22} {few.mean:>24.3f} +- {few.std:.3f}" for n, few in one.few.items()]
        if one.attended is not None:
            lines.append(f"{'  attentive':22} {one.attended.worth.figures[names[0]]:>24.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    app.main("probe", run)
