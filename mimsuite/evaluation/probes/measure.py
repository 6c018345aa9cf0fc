"""The measurements of a probe: first the features of all that is compared, then the probes on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mimsuite.evaluation.features.passes import FeaturePass, encoder_pass, pixel_pass
from mimsuite.evaluation.features.pixels import PIXELS, round_as_stored
from mimsuite.evaluation.features.stored import StoredFeatures
from mimsuite.evaluation.features.views import Features
from mimsuite.evaluation.probes.attentive import AttentiveResult, attentive_probe
from mimsuite.evaluation.probes.few_shot import FewShot, few_shot
from mimsuite.evaluation.probes.knn import knn_metrics
from mimsuite.evaluation.probes.linear import LinearResult, probe_matrix
from mimsuite.models.load import config_of, load_encoder
from mimsuite.settings.probe import ProbeSettings
from mimsuite.settings.views import View

SIDE = 8  # pixels of the shrunk images


@dataclass(frozen=True)
class Compared:
    """One kind of features that is compared with others.

    Attributes:
        name: of the features, for people.
        views: of the linear probe.
        knn_view: of kNN.
        grid: of the attentive probe, or None without one.
        train, test: the features of both splits.
    """

    name: str
    views: tuple[View, ...]
    knn_view: View
    grid: View | None
    train: StoredFeatures
    test: StoredFeatures


@dataclass(frozen=True)
class ProbeResult:
    """What the probes of one kind of features found.

    Attributes:
        features: their name.
        knn: k -> metrics.
        knn_view: the features of kNN.
        linear: the best of the linear heads.
        few_shot: images per class -> accuracy.
        attentive: the attentive head, where one was trained.
    """

    features: str
    knn: dict[int, dict[str, float]]
    knn_view: View
    linear: LinearResult
    few_shot: dict[int, FewShot]
    attentive: AttentiveResult | None


def read_features(settings: ProbeSettings, device: str) -> list[Compared]:
    """The features of the encoder and of what it is compared with; computed where they are not stored.

    Of several processes all call it.

    Args:
        settings: of the probe.
        device: where encoders compute.
    """
    config = config_of(settings.weights)
    grid = View(settings.depth, "grid") if settings.attentive else None
    found = [
        of_encoder(settings, "pretrained", load_encoder(settings.weights, config, settings.image_size), device, grid)
    ]
    if settings.baselines:
        torch.manual_seed(settings.seed)
        random = load_encoder(None, config, settings.image_size)
        found += [of_encoder(settings, "random initialisation", random, device, None), of_pixels(settings)]
    return found


def of_encoder(settings: ProbeSettings, name: str, encoder: nn.Module, device: str, grid: View | None) -> Compared:
    """The features of an encoder."""
    reader = encoder_pass(
        *(settings.weights, settings.index, encoder, settings.image_size),
        device=device,
        batch=settings.batch,
        workers=settings.workers,
    )
    wanted = [*dict.fromkeys((*settings.views, settings.knn_view)), *([grid] if grid else [])]
    return Compared(name, settings.views, settings.knn_view, grid, *read_splits(settings, reader, wanted))


def of_pixels(settings: ProbeSettings) -> Compared:
    """The images themselves, shrunk."""
    reader = pixel_pass(
        *(settings.index, settings.image_size), size=SIDE, batch=settings.batch, workers=settings.workers
    )
    return Compared(f"{SIDE}x{SIDE} pixels", (PIXELS,), PIXELS, None, *read_splits(settings, reader, [PIXELS]))


def read_splits(
    settings: ProbeSettings, reader: FeaturePass, views: Sequence[View]
) -> tuple[StoredFeatures, StoredFeatures]:
    """Features of the training and of the test images."""
    train, test = (reader.read(settings.index, part, views) for part in (settings.train, settings.test))
    return train, test


def load_features(stored: StoredFeatures, view: View) -> Features:
    """The features of a split."""
    found = stored.features(view)
    return found._replace(x=round_as_stored(found.x)) if view == PIXELS else found


def run_probes(settings: ProbeSettings, compared: Compared, device: str) -> ProbeResult:
    """kNN, the linear heads, and what else is asked for."""
    splits, seed = (compared.train, compared.test), settings.seed
    knn = knn_metrics(*(load_features(split, compared.knn_view) for split in splits), device=device)
    train, test = ({view: load_features(split, view) for view in compared.views} for split in splits)
    linear = probe_matrix(train, test, settings.recipe, seed=seed, device=device)
    best, few = linear.best.view, dict[int, FewShot]()
    if settings.shots:
        few = few_shot(train[best], test[best], settings.shots, names=settings.index.classes, device=device)
    attentive = None
    if compared.grid is not None:
        cells = load_features(compared.train, compared.grid), load_features(compared.test, compared.grid)
        attentive = attentive_probe(*cells, seed=seed, device=device)
    return ProbeResult(compared.name, knn, compared.knn_view, linear, few, attentive)
