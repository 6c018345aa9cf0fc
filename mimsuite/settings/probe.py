"""What a probe does: the values of `conf/probe.yaml`, read once and checked against encoder and data. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, ListConfig

from mimsuite.data.index import DataIndex, Selection
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.models.load import check_channels, config_of
from mimsuite.settings.images import choose_split, read_image_size
from mimsuite.settings.machine import auto_workers
from mimsuite.settings.outputs import check_run_folder
from mimsuite.settings.read import read_flag, read_int
from mimsuite.settings.views import VECTOR_POOLS, View, choose_views, is_list, read_layers, read_words
from mimsuite.weights.init import Weights, find_weights
from mimsuite.words import DEPTHS, PROBE_NORMS, PROBE_OPTIMIZERS, Norm, ProbeOptimizer


@dataclass(frozen=True)
class LinearRecipe:
    """How linear heads are trained.

    Attributes:
        norms: "batchnorm" and "layernorm" without affine parameters, "none".
        lrs: base learning rates; the peak is `lr * batch / 256`.
        epochs: passes over the training features.
        batch: samples per step, at most, and at most a 64th of the training samples (16 are always allowed): MAE's
            batch of 16,384 is a 78th of ImageNet. Cutting it does not cut the learning rate, so that few samples get
            about as many steps of about the same length as many. An epoch is cut into equal parts, which differ by one
            sample at most.
        optimizer: "sgd" (momentum); "lars" as in MAE: on weights, not on biases, with a trust of 0.001; or "newton",
            which is SGD times the inverse covariance of the inputs.
        warmup: epochs in which the learning rate rises from 0, before it falls to 0 along a cosine.
    """

    norms: Sequence[Norm]
    lrs: Sequence[float]
    epochs: int
    batch: int
    optimizer: ProbeOptimizer = "sgd"
    warmup: float = 0.0


@dataclass(frozen=True)
class ProbeSettings:
    """A probe, decided and checked.

    Attributes:
        out: the run folder.
        overwrite: whether it may replace a run there.
        weights: the encoder's.
        index: the data.
        train: what heads learn from; a part of it is held out to choose by.
        test: what is reported on.
        image_size: `(H, W)` pixels of the centre crops.
        depth: layers of the encoder.
        views: layers and poolings that linear heads take.
        knn_view: what kNN takes.
        recipe: how linear heads are trained.
        shots: images per class of the few-shot probes.
        attentive: whether an attentive head is trained.
        baselines: whether a random encoder and raw pixels are probed, too.
        batch: images per forward pass.
        workers: loader processes.
        seed: decides the random encoder and the order of samples.
        devices: processes that compute the features.
    """

    out: Path
    overwrite: bool
    weights: Weights
    index: DataIndex
    train: Selection
    test: Selection
    image_size: tuple[int, int]
    depth: int
    views: tuple[View, ...]
    knn_view: View
    recipe: LinearRecipe
    shots: tuple[int, ...]
    attentive: bool
    baselines: bool
    batch: int
    workers: int
    seed: int
    devices: int


def read_probe(cfg: DictConfig, *, writes: bool = True) -> ProbeSettings:
    """Reads and checks every key.

    Args:
        cfg: the composed config.
        writes: whether this process writes `out`, so that it must be free.

    Raises:
        InputError: a value that the task, the encoder or the data does not take.
    """
    overwrite = read_flag(cfg, "overwrite")
    if writes:
        check_run_folder(cfg.out, overwrite=overwrite)
    weights = find_weights(cfg.init)
    index = open_data(cfg.data)
    check_channels(index, weights)
    if not index.has_labels:
        raise InputError(f"data={cfg.data} has no labels; a probe needs one per image (.cls or .json in the shards)")
    image_size = read_image_size(cfg.image_size, weights.image_size)
    test = choose_split(index, str(cfg.split))
    tokens = config_of(weights).class_tokens
    views, knn_view = read_views(cfg, tokens)
    return ProbeSettings(
        out=Path(cfg.out),
        overwrite=overwrite,
        weights=weights,
        index=index,
        train=index.select("train"),
        test=test,
        image_size=image_size,
        depth=len(tokens),
        views=views,
        knn_view=knn_view,
        recipe=read_recipe(cfg.preset),
        shots=read_shots(cfg.shots),
        attentive=read_flag(cfg, "attentive"),
        baselines=read_flag(cfg, "baselines"),
        batch=read_int(cfg, "batch"),
        workers=read_int(cfg, "workers", auto=auto_workers(), least=0),
        seed=read_int(cfg, "seed", least=0),
        devices=read_int(cfg, "devices", auto=1),
    )


def read_views(cfg: DictConfig, tokens: Sequence[bool]) -> tuple[tuple[View, ...], View]:
    """The views of the linear heads, and the one of kNN.

    Args:
        cfg: read are `layers`, `pool` and those of `preset`.
        tokens: whether each layer of the encoder has a class token.
    """
    depths = cfg.preset.layers if cfg.layers == "auto" else cfg.layers
    pool = cfg.preset.pool if cfg.pool == "auto" else cfg.pool
    pools = [] if pool == "auto" else read_words(pool, "pool", VECTOR_POOLS)
    views = choose_views(read_layers(depths, len(tokens)), pools, tokens, chosen=depths not in DEPTHS)
    knn_pool = pools[0] if pools and (pools[0] == "mean" or tokens[-1]) else "mean"
    return views, View(len(tokens), knn_pool)  # type: ignore[arg-type]


def read_recipe(preset: DictConfig) -> LinearRecipe:
    """How linear heads are trained, from a choice of `conf/preset`.

    Raises:
        InputError: a value of the wrong kind.
    """
    lrs = list(preset.lrs) if isinstance(preset.lrs, ListConfig) else [preset.lrs]
    if not lrs or any(isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 < v < math.inf for v in lrs):
        raise InputError(f"preset.lrs={preset.lrs} is not a list of numbers above 0; use preset.lrs=[0.03,0.1,0.3]")
    epochs, warmup = read_int(preset, "epochs", name="preset.epochs"), preset.warmup
    if isinstance(warmup, bool) or not isinstance(warmup, (int, float)) or not 0 <= warmup < epochs:
        raise InputError(
            f"preset.warmup={warmup} is not a number of epochs from 0 to below preset.epochs={epochs}; use 0"
        )
    optimizer = str(preset.optimizer)
    if optimizer not in PROBE_OPTIMIZERS:
        raise InputError(f"preset.optimizer={optimizer} is unknown; it takes {', '.join(PROBE_OPTIMIZERS)}")
    return LinearRecipe(
        norms=cast("list[Norm]", read_words(preset.norms, "preset.norms", PROBE_NORMS)),
        lrs=[float(lr) for lr in dict.fromkeys(lrs)],
        epochs=epochs,
        batch=read_int(preset, "batch", name="preset.batch"),
        optimizer=optimizer,
        warmup=float(warmup),
    )


def read_shots(value: Any) -> tuple[int, ...]:
    """Images per class, ascending.

    Raises:
        InputError: not whole numbers from 1.
    """
    given = list(value) if is_list(value) else [value]
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in given):
        raise InputError(f"shots={value} is not a list of whole numbers from 1; use shots=[1,5,10], or [] for none")
    return tuple(sorted(set(given)))
