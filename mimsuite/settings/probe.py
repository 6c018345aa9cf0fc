"""What a probe does: the values of `conf/probe.yaml`, read once and checked against encoder and data. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig

from mimsuite.config.instantiate import trusted_targets
from mimsuite.data.index import DataIndex, Selection
from mimsuite.data.label_table import label_facts, read_labels
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.models.load import check_channels, config_of, warn_of_preprocessing
from mimsuite.settings.class_match import LABEL_NOUNS
from mimsuite.settings.given_labels import read_labelled
from mimsuite.settings.images import choose_split, read_image_size
from mimsuite.settings.init_keys import fit_weights
from mimsuite.settings.labels import check_labels, unseen_classes
from mimsuite.settings.machine import read_workers
from mimsuite.settings.outputs import check_apart, check_outside, check_run_folder
from mimsuite.settings.read import (
    is_int,
    is_number,
    read,
    read_choice,
    read_choices,
    read_data,
    read_flag,
    read_int,
    read_number,
)
from mimsuite.settings.resolve import plain_values
from mimsuite.settings.views import VECTOR_POOLS, View, choose_views, read_layers
from mimsuite.weights.init import Weights, find_weights
from mimsuite.words import DEPTHS, PROBE_NORMS, PROBE_OPTIMIZERS, Norm, Pool, ProbeOptimizer


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
        devices: processes that compute the features; None: one per GPU.
        warnings: what is wrong with the labels of the images that are reported on.
        config: what `config.yaml` holds.
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
    devices: int | None
    warnings: tuple[str, ...]
    config: Mapping[str, Any]


def read_probe(cfg: DictConfig, overrides: Sequence[str] = (), *, leads: bool = True) -> ProbeSettings:
    """Reads and checks every key.

    Args:
        cfg: the composed config.
        overrides: the command line's `key=value` arguments.
        leads: whether this process writes `out`, which must be free then.

    Raises:
        InputError: a value that the task, the encoder or the data does not take.
    """
    overwrite = read_flag(cfg, "overwrite")
    check_apart(str(cfg.init), str(cfg.out))
    if leads:
        check_run_folder(cfg.out, overwrite=overwrite)
    weights = find_weights(cfg.init).trusting(trusted_targets(cfg, overrides))
    data = read_data(cfg)
    check_outside(cfg.out, data)
    index = open_data(data, weights.alpha or "white")
    weights = fit_weights(cfg, weights, index)
    check_channels(index, weights)
    warn_of_preprocessing(weights, "those of the data")
    index = read_labelled(cfg, index, "a probe")
    image_size = read_image_size(read(cfg, "image_size"), weights.image_size)
    train, test = index.select("train"), choose_report(index, str(cfg.split))
    shots = read_shots(cfg)
    warnings = check_probe_labels(index, train, test, shots)
    tokens = config_of(weights).class_tokens
    devices = read_int(cfg, "devices", auto=0) or None
    views, knn_view = read_views(cfg, tokens)
    return ProbeSettings(
        out=Path(cfg.out),
        overwrite=overwrite,
        weights=weights,
        index=index,
        train=train,
        test=test,
        image_size=image_size,
        depth=len(tokens),
        views=views,
        knn_view=knn_view,
        recipe=read_recipe(cfg),
        shots=shots,
        attentive=read_flag(cfg, "attentive"),
        baselines=read_flag(cfg, "baselines"),
        batch=read_int(cfg, "batch"),
        workers=read_workers(cfg, devices),
        seed=read_int(cfg, "seed", least=0),
        devices=devices,
        warnings=warnings,
        config=plain_values(cfg),
    )


def check_probe_labels(
    index: DataIndex, train: Selection, test: Selection, shots: Sequence[int] = ()
) -> tuple[str, ...]:
    """Reads the labels before any feature is computed; returns warnings about those that are reported on.

    Raises:
        InputError: labels of several kinds, or a single class; classes in `test` that cannot be counted; shots that
            the labels do not allow.
    """
    facts = label_facts(index, read_labels(index, index.records(train)))
    reported = read_labels(index, index.records(test))
    check_labels(index, facts, reported, test.split)
    if shots:
        if facts.kind != "classes":
            raise InputError(
                f"shots={list(shots)} is for one class per image, and the labels are {LABEL_NOUNS[facts.kind]}; remove "
                "shots="
            )
        assert facts.counts is not None
        images = facts.counts.tolist()
        occurring = {label for label in reported if isinstance(label, int)} | {n for n, c in enumerate(images) if c}
        check_shots(shots, images, sorted(occurring), facts.names)
    return unseen_classes(facts, reported, test.split)


def check_shots(
    shots: Sequence[int], images: Sequence[int], occurring: Sequence[int], names: Sequence[str] | None
) -> None:
    """Refuses more images per class than some class has.

    Args:
        shots: numbers of images per class.
        images: training images of each class.
        occurring: the classes that have images, of training or of the report.
        names: of the classes; None for their numbers.

    Raises:
        InputError: such a number.
    """
    rarest = min(occurring, key=lambda label: images[label])
    fewest = images[rarest]
    name = f"{rarest} ({names[rarest]})" if names is not None and rarest < len(names) else str(rarest)
    if fewest == 0:
        raise InputError(f"class {name} has no training images to draw shots from; remove shots=, or add some")
    for number in shots:
        if not 1 <= number <= fewest:
            raise InputError(
                f"shots={number}, but class {name} has {fewest} training images; use 1 to {fewest}, or add images"
            )


def choose_report(index: DataIndex, split: str) -> Selection:
    """The images that a probe reports on; the heads learn from `train`, and from none of these.

    Raises:
        InputError: no such split, or one that the heads learn from.
    """
    others = [name for name in ("test", "val") if name in index.splits]
    if split == "train" and others:
        raise InputError(
            f"split=train: the heads learn from these images, and would be evaluated on what they know; use "
            f"split={others[0]}"
        )
    return choose_split(index, "auto" if split == "train" else split)


def read_views(cfg: DictConfig, tokens: Sequence[bool]) -> tuple[tuple[View, ...], View]:
    """The views of the linear heads, and the one of kNN.

    Args:
        cfg: read are `layers`, `pool` and those of `preset`.
        tokens: whether each layer of the encoder has a class token.

    Raises:
        InputError: layers or class tokens that the encoder does not have.
    """
    layers, pool = ("preset." * (read(cfg, key) == "auto") + key for key in ("layers", "pool"))
    depths = read(cfg, layers)
    pools = () if read(cfg, pool) == "auto" else read_choices(cfg, pool, VECTOR_POOLS)
    views = choose_views(read_layers(depths, len(tokens)), pools, tokens, chosen=depths not in DEPTHS)
    knn_pool = pools[0] if pools and (pools[0] == "mean" or tokens[-1]) else "mean"
    return views, View(len(tokens), cast("Pool", knn_pool))


def read_recipe(cfg: DictConfig) -> LinearRecipe:
    """How linear heads are trained.

    Args:
        cfg: read is `preset`.

    Raises:
        InputError: a value of the wrong kind.
    """
    given = read(cfg, "preset.lrs")
    lrs = given if isinstance(given, list) else [given]
    if not lrs or not all(is_number(lr) and 0 < lr < math.inf for lr in lrs):
        raise InputError(f"preset.lrs={given} is not a list of numbers above 0; use preset.lrs=[0.03,0.1,0.3]")
    epochs = read_int(cfg, "preset.epochs")
    return LinearRecipe(
        norms=cast("tuple[Norm, ...]", read_choices(cfg, "preset.norms", PROBE_NORMS)),
        lrs=tuple(float(lr) for lr in dict.fromkeys(lrs)),
        epochs=epochs,
        batch=read_int(cfg, "preset.batch"),
        optimizer=read_choice(cfg, "preset.optimizer", PROBE_OPTIMIZERS),
        warmup=read_number(cfg, "preset.warmup", below=epochs, use="a number of epochs below preset.epochs, or 0"),
    )


def read_shots(cfg: DictConfig) -> tuple[int, ...]:
    """Images per class, ascending.

    Raises:
        InputError: not whole numbers from 1.
    """
    value = read(cfg, "shots")
    given = value if isinstance(value, list) else [value]
    if not all(is_int(n) and n > 0 for n in given):
        raise InputError(f"shots={value} is not a list of whole numbers from 1; use shots=[1,5,10], or [] for none")
    return tuple(sorted(set(given)))
