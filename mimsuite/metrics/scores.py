"""How good predictions are: accuracies of classes, average precision of label sets, R2 and error of numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.errors import InputError, RunError
from mimsuite.words import LabelKind

METRICS: dict[LabelKind, tuple[str, ...]] = {
    "classes": ("top1", "top5"),
    "multilabel": ("map",),
    "regression": ("r2", "mae"),
}
"""The metrics of each kind of labels; the first is the one to choose by (all but `mae`: more is better)."""

BEST = 5
"""The classes that `top5` looks at; of so few classes or fewer it would be 1, and is left out."""

MOST_CONFUSED = 2_000
"""Most classes for which a confusion matrix is counted: of 20,000 it would have 3 GB."""


def metric_names(kind: LabelKind, outputs: int) -> tuple[str, ...]:
    """The metrics of labels with so many outputs."""
    return tuple(name for name in METRICS[kind] if name != "top5" or outputs > BEST)


class Scores(NamedTuple):
    """How good predictions are.

    Attributes:
        metrics: the `metric_names` -> values; all but `mae` (in the labels' unit) at most 1.
        confusion: `(K, K)` int64, images of class `row` that were taken for class `column`; None without classes, and
            for more than `MOST_CONFUSED` of them.
        per_class: `(K,)` float64, the accuracy of each class, or the average precision of each label; NaN where the
            images have none of it; None for numbers.
        loss: mean of `image_losses`; NaN where nobody measured it.
    """

    metrics: dict[str, float]
    confusion: Tensor | None
    per_class: Tensor | None
    loss: float = math.nan


class Tally:
    """Collects predictions and labels batch by batch; every image counts once, whatever the batches' sizes."""

    def __init__(self, kind: LabelKind, outputs: int) -> None:
        """Starts from nothing.

        Args:
            kind: what the labels are.
            outputs: K, classes or columns of the targets.
        """
        self._kind: LabelKind = kind
        classes, table = kind == "classes", outputs <= MOST_CONFUSED
        self._counts = torch.zeros(outputs, outputs, dtype=torch.int64) if classes and table else None
        self._right, self._seen = (torch.zeros(outputs if classes else 0, dtype=torch.int64) for _ in range(2))
        self._five, self._images = 0, 0
        self._losses: list[float] = []
        self._kept: list[tuple[Tensor, Tensor]] = []

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            predictions: `(B, K)` floats, larger = more likely, or the predicted numbers.
            labels: `(B,)` int64 classes under K, or `(B, K)` floats.

        Raises:
            RunError: predictions that are not finite.
        """
        if bad := int((~predictions.isfinite().all(1)).sum()):
            raise RunError(
                f"scores of {bad} of {len(predictions)} images are not finite; the weights may have diverged"
            )
        self._images += len(predictions)
        losses = image_losses(predictions, labels.to(predictions.device), self._kind)
        self._losses.append(float(losses.cpu().double().sum()))
        if self._kind != "classes":
            self._kept.append((predictions.cpu().double(), labels.cpu().double().reshape(len(labels), -1)))
            return
        labels, outputs, predicted = labels.to(predictions.device), len(self._seen), predictions.argmax(1)
        if self._counts is not None:
            pairs = (labels * outputs + predicted).bincount(minlength=outputs**2)
            self._counts += pairs.reshape(outputs, outputs).cpu()
        self._seen += labels.bincount(minlength=outputs).cpu()
        self._right += labels[labels == predicted].bincount(minlength=outputs).cpu()
        best = predictions.topk(min(BEST, outputs), dim=1).indices
        self._five += int((best == labels[:, None]).sum())

    def add(self, other: Tally) -> None:
        """Adds the batches of another, as if they had followed those of this one."""
        if self._counts is not None and other._counts is not None:
            self._counts += other._counts
        self._right, self._seen = self._right + other._right, self._seen + other._seen
        self._five, self._images = self._five + other._five, self._images + other._images
        self._losses += other._losses
        self._kept += other._kept

    def compute(self) -> Scores:
        """Returns the scores of all predictions so far.

        Raises:
            InputError: no images; label sets without any label; numbers that are all equal.
        """
        if not self._images:
            raise InputError("no predictions to score: there are no images; check data= and split=")
        return self._scores()._replace(loss=sum(self._losses) / self._images)

    def _scores(self) -> Scores:
        if self._kind == "classes":
            return self._accuracies()
        predictions, labels = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        return _precision(predictions, labels) if self._kind == "multilabel" else _regression(predictions, labels)

    def _accuracies(self) -> Scores:
        metrics = {"top1": int(self._right.sum()) / self._images, "top5": self._five / self._images}
        kept = metric_names("classes", len(self._seen))
        return Scores({name: metrics[name] for name in kept}, self._counts, self._right.double() / self._seen)


def scores_of(predictions: Tensor, labels: Tensor, kind: LabelKind) -> Scores:
    """Returns how good `predictions (N, K)` are against `labels`; arguments as of `Tally.update`."""
    tally = Tally(kind, predictions.shape[1])
    tally.update(predictions, labels)
    return tally.compute()


def image_losses(predictions: Tensor, labels: Tensor, kind: LabelKind) -> Tensor:
    """The loss of each image, `(B,)`; arguments as of `Tally.update`.

    Cross entropy of classes; binary cross entropy, mean over the labels of a set; mean squared error of numbers.
    """
    if kind == "classes":
        return F.cross_entropy(predictions, labels, reduction="none")
    labels = labels.to(predictions.dtype).reshape(len(labels), -1)
    if kind == "multilabel":
        return F.binary_cross_entropy_with_logits(predictions, labels, reduction="none").mean(1)
    return (predictions - labels).square().mean(1)


def wilson_interval(share: float, images: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy that was measured on so many images (Wilson 1927)."""
    spread = 1.96**2 / images
    centre = (share + spread / 2) / (1 + spread)
    half = 1.96 * math.sqrt((share * (1 - share) + spread / 4) / images) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _precision(predictions: Tensor, labels: Tensor) -> Scores:
    """Mean over the labels that some image has: the average precision of a label that none has is not defined."""
    from torchmetrics.functional.classification import binary_average_precision

    found = labels.any(0)
    if not found.any():
        raise InputError("none of the images has a label, so average precision is not defined; check the labels")
    per_class = torch.full((labels.shape[1],), torch.nan, dtype=torch.float64)
    for label in found.nonzero()[:, 0].tolist():
        # Ranks, for torchmetrics squeezes predictions outside [0, 1], and large ones would become equal.
        ranks = torch.unique(predictions[:, label], return_inverse=True)[1].double() / len(predictions)
        per_class[label] = binary_average_precision(ranks, labels[:, label].long())
    return Scores({"map": float(per_class[found].mean())}, None, per_class)


def _regression(predictions: Tensor, labels: Tensor) -> Scores:
    """R2 is the mean over the columns."""
    from torchmetrics.functional import mean_absolute_error, r2_score

    if (labels == labels[0]).all(0).any():
        raise InputError(
            f"all {len(labels)} labels are {labels[0].tolist()}, so R2 is not defined; take images whose labels differ"
        )
    metrics = {"r2": float(r2_score(predictions, labels)), "mae": float(mean_absolute_error(predictions, labels))}
    return Scores(metrics, None, None)
