"""Few-shot: how well a linear classifier does that saw one, five or ten images of each class."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mimsuite.data.hashing import mix_hashes, splitmix64
from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import Features, check_comparable, class_labels
from mimsuite.evaluation.probes.logistic import accuracy, fit_linear
from mimsuite.settings.probe import check_shots

SHOTS = (1, 5, 10)
SEEDS = (0, 1, 2, 3, 4)
# Fixed, because the few images leave none to choose by. On Imagenette, for ViTs pretrained by SimMIM and MAE, a CvT and
# raw pixels, 0.1 lay within 1.4 points of the better of 1 and 0.01 at 5 and 10 shots (one deviation between draws: 0.2
# to 2.9). There, standardising by the few images was as good as by all training images, and unit vectors instead were
# up to 5 points worse (MAE).
STRENGTH = 0.1
_SALT = 0x53484F54


class FewShot(NamedTuple):
    """The accuracy that a number of images per class gives.

    Attributes:
        mean: accuracy on the test features, 0 to 1, over the draws.
        std: its standard deviation between draws (of the sample).
        accuracies: of each draw, in the order of the seeds.
    """

    mean: float
    std: float
    accuracies: tuple[float, ...]


def few_shot(
    train: Features,
    test: Features,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    *,
    names: Sequence[str] | None = None,
    strength: float = STRENGTH,
    device: torch.device | str = "cpu",
) -> dict[int, FewShot]:
    """Fits a logistic regression to `shots` training images of each class, drawn once per seed.

    Features are standardised by the drawn images alone, and the L2 strength is fixed, so nothing is selected. Every
    draw is scored on all test features.

    Args:
        train: features with classes, to draw from.
        test: features with classes.
        shots: numbers of images per class.
        seeds: one draw each, at least two; the draw for more shots holds that for fewer.
        names: of the classes, for errors.
        strength: L2 penalty, as of `fit_linear`.
        device: where to compute.

    Raises:
        InputError: no classes as labels, features of two kinds, one seed, or a class with fewer images than shots.
    """
    check_comparable(train, test)
    labels, test_labels = class_labels(train, "training"), class_labels(test, "test")
    if len(set(seeds)) < 2:
        raise InputError(f"seeds={list(seeds)} gives no deviation between draws; use two different seeds or more")
    classes = _check(labels, test_labels, shots, names)
    test_x, found = test.x.float(), {}
    for number in shots:
        reached = []
        for seed in seeds:
            rows = draw_images(labels, train.ids, number, seed)
            fitted = fit_linear(train.x[rows].float(), labels[rows], classes, strength, device=device)
            reached.append(accuracy(fitted.logits(test_x), test_labels))
        found[number] = FewShot(statistics.fmean(reached), statistics.stdev(reached), tuple(reached))
    return found


def draw_images(labels: Tensor, ids: Tensor, shots: int, seed: int) -> Tensor:
    """Draws `shots` images of each class: those whose ids hash lowest, so the order of the images does not matter.

    Args:
        labels: `(N,)` int64 classes.
        ids: `(N,)` int64 sample ids.
        shots: images per class; a class with fewer gives all.
        seed: another seed gives another draw.

    Returns:
        `(M,)` int64, the rows of the images, class by class.
    """
    keys = ids.numpy().view(np.uint64) ^ np.uint64(mix_hashes(_SALT, seed))
    rank = torch.from_numpy(splitmix64(keys).view(np.int64))
    members = [(labels == label).nonzero()[:, 0] for label in torch.unique(labels)]
    return torch.cat([m[rank[m].argsort(stable=True)[:shots]] for m in members])


def _check(labels: Tensor, test_labels: Tensor, shots: Sequence[int], names: Sequence[str] | None) -> int:
    """Returns the number of classes, if every one that occurs has enough training images."""
    classes = int(max(labels.max(), test_labels.max())) + 1
    images = labels.bincount(minlength=classes)
    occurring = (images + test_labels.bincount(minlength=classes)).nonzero()[:, 0]
    check_shots(shots, images.tolist(), occurring.tolist(), names)
    return classes
