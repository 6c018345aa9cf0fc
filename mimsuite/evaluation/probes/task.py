"""What a probe predicts: the kind of the labels, how many outputs, and the targets of both splits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import Features
from mimsuite.evaluation.probes.standardise import feature_statistics
from mimsuite.words import LabelKind


def label_kind(labels: Tensor, name: str) -> LabelKind:
    """Tells what labels are, as a loader gives them.

    `(N,)` integers are classes; `(N, K)` floats, all 0 or 1 and K at least 2, are label sets; other floats, `(N,)` or
    `(N, K)`, are numbers to be predicted.

    Args:
        labels: of all images of a split.
        name: of the images, for the error.

    Raises:
        InputError: none of these.
    """
    if labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool:
        return "classes"
    if labels.ndim in (1, 2) and labels.is_floating_point():
        sets = labels.ndim == 2 and labels.shape[1] > 1 and bool(((labels == 0) | (labels == 1)).all())
        return "multilabel" if sets else "regression"
    raise InputError(
        f"the {name} labels are {labels.dtype} of shape {tuple(labels.shape)}; give (images,) integers as classes, "
        "(images, classes) zeros and ones as floats, or floats to be predicted"
    )


class LabelTask(NamedTuple):
    """What a probe predicts.

    Attributes:
        kind: what the labels are.
        outputs: K, the classes (the highest label and one), or the columns of the targets.
        train: `(N,)` int64 classes, or `(N, K)` float32.
        test: likewise.
    """

    kind: LabelKind
    outputs: int
    train: Tensor
    test: Tensor


def task_of(train: Features, test: Features) -> LabelTask:
    """Returns what the labels of two splits are.

    Raises:
        InputError: no labels, or two splits with labels of different kinds or widths.
    """
    sides = []
    for features, name in ((train, "training"), (test, "test")):
        if features.labels is None:
            raise InputError(f"the {name} images have no labels; kNN and probes need a label per image")
        labels = features.labels
        kind = label_kind(labels, name)
        sides.append((kind, labels.long() if kind == "classes" else labels.float().reshape(len(labels), -1)))
    (kind, ours), (other, theirs) = sides
    if (kind, other) == ("regression", "classes"):  # numbers that happen to be whole ones in this split
        other, theirs = kind, theirs.float()[:, None]
    if kind != other or ours.shape[1:] != theirs.shape[1:]:
        raise InputError(
            f"the training labels are {kind} of shape {tuple(ours.shape)}, the test labels {other} of shape "
            f"{tuple(theirs.shape)}; label both splits in the same way"
        )
    outputs = int(max(ours.max(), theirs.max())) + 1 if kind == "classes" else ours.shape[1]
    return LabelTask(kind, outputs, ours, theirs)


def training_targets(task: LabelTask, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the targets of the chosen samples, with the `(K,)` mean and deviation that numbers are standardised by.

    Args:
        task: what is predicted.
        rows: `(N,)` int64, numbers of the samples.
    """
    targets = task.train[rows]
    offset, spread = (make(task.outputs, dtype=torch.float64) for make in (torch.zeros, torch.ones))
    if task.kind == "regression":
        offset, spread = feature_statistics(targets, torch.arange(len(targets)))
        targets = ((targets.double() - offset) / spread).float()
    return targets, offset, spread
