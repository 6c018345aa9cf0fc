"""`mimsuite probe`: kNN and linear probe of a frozen encoder, beside random initialisation and raw pixels."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from omegaconf import DictConfig

from mimsuite import app, build, build_model
from mimsuite.data.index import DataIndex, Selection
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.init_weights import Weights, find_weights
from mimsuite.run import RunFolder, cache_folder, check_out, speak, write_json
from mimsuite.settings import FALLBACK_SIZE, check_choice, check_flag, pair, sides, whole
from mimsuite.version import __version__

if TYPE_CHECKING:
    from torch import nn

    from mimsuite.evaluation.features import Features

log = logging.getLogger("mimsuite")

K = 20
PIXELS = 8


@dataclass(frozen=True)
class Row:
    """What one kind of features is worth: accuracies from 0 to 1."""

    features: str
    knn_top1: float
    probe_top1: float
    probe_top5: float
    l2: float


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Probes an encoder; returns the content of `summary.json`."""
    speak()
    overwrite = check_flag(cfg, "overwrite")
    baselines = check_flag(cfg, "baselines")
    check_out(cfg.out, overwrite=overwrite)
    pool = cast(Literal["mean", "cls"], check_choice(cfg, "pool", ("mean", "cls")))
    batch = whole(cfg, "batch")
    seed = whole(cfg, "seed", least=0)
    workers = whole(cfg, "workers", auto=build.auto_workers(), least=0)
    weights = find_weights(cfg.init)
    index = open_data(cfg.data)
    check_data(index, weights, cfg)
    size = weights.image_size or (FALLBACK_SIZE, FALLBACK_SIZE) if cfg.image_size == "auto" else sides(cfg.image_size)
    train = index.select("train")
    test = index.select("test") if cfg.split == "auto" else Selection(str(cfg.split))
    index.num_samples(test)
    probe = Probe(weights, index, train, test, size, pool, batch, workers, seed, baselines)
    with RunFolder(cfg.out, overwrite=overwrite) as folder:
        folder.log_to_file()
        folder.describe(cfg, overrides, {})
        log.info("mimsuite %s probe of %s -> %s", __version__, cfg.init, cfg.out)
        log.info("image     %s px, pool %s", pair(size), pool)
        log.info("data      %s: fit on %s, report on %s", index.root, spoken(index, train), spoken(index, test))
        rows = table(probe)
        write_tables(folder.path, rows)
        log.info("%s", spoken_table(rows))
        return folder.summary("probe", "done", 0, figures(rows), k=K, pool=pool, image_size=list(size))


@dataclass(frozen=True)
class Probe:
    """A probe, decided and checked, before torch is imported."""

    weights: Weights
    index: DataIndex
    train: Selection
    test: Selection
    image_size: tuple[int, int]
    pool: Literal["mean", "cls"]
    batch: int
    workers: int
    seed: int
    baselines: bool


def check_data(index: DataIndex, weights: Weights, cfg: DictConfig) -> None:
    """Refuses data that the encoder cannot take or that carries no labels."""
    channels = weights.config.get("num_channels", 3)
    if channels != index.channels:
        raise InputError(
            f"init={cfg.init} takes {channels} channels but the images have {index.channels}; "
            "use other weights or other data"
        )
    if not index.has_labels:
        raise InputError(
            f"data={cfg.data} has no labels; a probe needs one class per image (.cls or .json in the shards)"
        )


def spoken(index: DataIndex, selection: Selection) -> str:
    """A selection with its size, for a log line."""
    return f"{selection.split} ({index.num_samples(selection):,})"


def table(probe: Probe) -> list[Row]:
    """Features, kNN and linear probe of the encoder and of what it is to be compared with."""
    import torch

    from mimsuite.data.datamodule import eval_loader
    from mimsuite.evaluation.features import (
        cached_features,
        extract_features,
        fingerprint,
        raw_pixel_features,
    )

    weights, index, size, pool = probe.weights, probe.index, probe.image_size, probe.pool
    device = build.torch_device()
    normalize = build_model.normalizer(index, weights).to(device)
    how = f"{size} {normalize.mean.flatten().tolist()} {normalize.std.flatten().tolist()} {normalize.maximum}"

    def features(kind: str, encoder: nn.Module | None, part: Selection) -> Features:
        def compute() -> Features:
            log.info("features  %s, %s", kind, spoken(index, part))
            loader = eval_loader(index, part, image_size=size, batch=probe.batch, workers=probe.workers, labels=True)
            if encoder is None:
                return raw_pixel_features(loader, PIXELS)
            return extract_features(encoder, loader, normalize, device, pool)

        words = f"{how} {pool}" if encoder is not None else f"{size} {PIXELS}"
        state = encoder.state_dict() if encoder is not None else {}
        mark = fingerprint(state, words, f"{part} {data_words(index, part)}")
        return cached_features(cache_folder() / "features", mark, compute)

    def row(kind: str, encoder: nn.Module | None) -> Row:
        train, test = (features(kind, encoder, part) for part in (probe.train, probe.test))
        return measure(kind, train, test, device)

    config = build_model.config_of(weights)
    rows = [row("pretrained", build_model.encoder(weights, config, size).to(device))]
    if probe.baselines:
        torch.manual_seed(probe.seed)
        rows.append(row("random initialisation", build_model.encoder(None, config, size).to(device)))
        rows.append(row(f"{PIXELS}x{PIXELS} pixels", None))
    return rows


def measure(kind: str, train: Features, test: Features, device: str) -> Row:
    """kNN and linear probe of one kind of features."""
    from mimsuite.evaluation.knn import knn_accuracy
    from mimsuite.evaluation.logistic import linear_probe

    knn = knn_accuracy(train, test, ks=[K], device=device)[K]
    found = linear_probe(train, test, device=device)
    return Row(kind, knn, found.top1, found.top5, found.strength)


def data_words(index: DataIndex, part: Selection) -> str:
    """What names the images of a selection and their order."""
    return " ".join(
        f"{Path(s.path).name} {s.bytes} {s.sha256 or os.stat(s.path).st_mtime_ns}" for s in index.splits[part.split]
    )


def figures(rows: Sequence[Row]) -> dict[str, float]:
    """The metrics of `summary.json`: plain names for the encoder, prefixed ones for what it is compared with."""
    metrics: dict[str, float] = {}
    for row in rows:
        prefix = "" if row is rows[0] else f"{row.features.split()[0]}/"
        metrics |= {
            f"{prefix}knn/top1": row.knn_top1,
            f"{prefix}probe/top1": row.probe_top1,
            f"{prefix}probe/top5": row.probe_top5,
        }
    return metrics


def write_tables(folder: Path, rows: Sequence[Row]) -> None:
    """Writes `probe.csv` and `probe.json`, one row per kind of features."""
    table = [asdict(row) for row in rows]
    with (folder / "probe.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    write_json(folder / "probe.json", {"k": K, "rows": table})


def spoken_table(rows: Sequence[Row]) -> str:
    """The figures as people read them."""
    lines = [f"{'features':22} {f'kNN (k={K})':>11} {'linear':>8} {'top-5':>8}"]
    lines += [f"{r.features:22} {r.knn_top1:>11.1%} {r.probe_top1:>8.1%} {r.probe_top5:>8.1%}" for r in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    app.main("probe", run)
