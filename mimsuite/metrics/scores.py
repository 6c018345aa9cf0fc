"""What predictions are worth: accuracies of classes, average precision of label sets, R2 and error of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from mimsuite.errors import InputError, RunError

if TYPE_CHECKING:
    from mimsuite.evaluation.features.views import Features

LabelKind = Literal["classes", "multilabel", "regression"]

METRICS: dict[LabelKind, tuple[str, ...]] = {
    "classes": ("top1", "top5"),
    "multilabel": ("map",),
    "regression": ("r2", "mae"),
}
"""The figures of each kind of labels; the first is the one to choose by (all but `mae`: more is better)."""


MOST_CONFUSED = 2_000
"""Classes up to which it is counted which is taken for which: of 20,000 the table would have 3 GB."""


class Scores(NamedTuple):
    """What predictions are worth.

    Attributes:
        figures: the names of `METRICS` -> values; all but `mae` (in the labels' unit) at most 1.
        confusion: `(K, K)` int64, images of class `row` that were taken for class `column`; None without classes, and
            for more than `MOST_CONFUSED` of them.
        per_class: `(K,)` float64, the accuracy of each class, or the average precision of each label; NaN where the
            images have none of it; None for numbers.
    """

    figures: dict[str, float]
    confusion: Tensor | None
    per_class: Tensor | None


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
    """What is to be predicted.

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
    """Returns what the labels of two splits ask for.

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
    if kind != other or ours.shape[1:] != theirs.shape[1:]:
        raise InputError(
            f"the training labels are {kind} of shape {tuple(ours.shape)}, the test labels {other} of shape "
            f"{tuple(theirs.shape)}; label both splits in the same way"
        )
    outputs = int(max(ours.max(), theirs.max())) + 1 if kind == "classes" else ours.shape[1]
    return LabelTask(kind, outputs, ours, theirs)


class Tally:
    """Collects scores and labels batch by batch; every image counts once, whatever the batches' sizes."""

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
        self._five = 0
        self._kept: list[tuple[Tensor, Tensor]] = []

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            scores: `(B, K)` floats, larger = more likely, or the predicted numbers.
            labels: `(B,)` int64 classes under K, or `(B, K)` floats.

        Raises:
            RunError: scores that are not finite.
        """
        if bad := int((~scores.isfinite().all(1)).sum()):
            raise RunError(f"scores of {bad} of {len(scores)} images are not finite; the weights may have diverged")
        if self._kind != "classes":
            self._kept.append((scores.cpu().double(), labels.cpu().double().reshape(len(labels), -1)))
            return
        labels, outputs, predicted = labels.to(scores.device), len(self._seen), scores.argmax(1)
        if self._counts is not None:
            pairs = (labels * outputs + predicted).bincount(minlength=outputs**2)
            self._counts += pairs.reshape(outputs, outputs).cpu()
        self._seen += labels.bincount(minlength=outputs).cpu()
        self._right += labels[labels == predicted].bincount(minlength=outputs).cpu()
        best = scores.topk(min(5, outputs), dim=1).indices
        self._five += int((best == labels[:, None]).sum())

    def compute(self) -> Scores:
        """Returns what all scores so far are worth.

        Raises:
            InputError: no images; label sets without any label; numbers that are all equal.
        """
        if self._kind == "classes":
            return self._accuracies()
        if not self._kept:
            raise InputError("no predictions to judge: there are no images; check data= and split=")
        scores, labels = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        return _precision(scores, labels) if self._kind == "multilabel" else _regression(scores, labels)

    def _accuracies(self) -> Scores:
        images = int(self._seen.sum())
        if not images:
            raise InputError("no predictions to judge: there are no images; check data= and split=")
        figures = {"top1": int(self._right.sum()) / images, "top5": self._five / images}
        return Scores(figures, self._counts, self._right.double() / self._seen)


def worth(scores: Tensor, labels: Tensor, kind: LabelKind) -> Scores:
    """Returns what `scores (N, K)` are worth against `labels`, as of `Tally.update`."""
    tally = Tally(kind, scores.shape[1])
    tally.update(scores, labels)
    return tally.compute()


def _precision(scores: Tensor, labels: Tensor) -> Scores:
    """Mean over the labels that some image has: the average precision of a label that none has is not defined."""
    from torchmetrics.functional.classification import binary_average_precision

    found = labels.any(0)
    if not found.any():
        raise InputError("none of the images has a label, so average precision is not defined; check the labels")
    per_class = torch.full((labels.shape[1],), torch.nan, dtype=torch.float64)
    for label in found.nonzero()[:, 0].tolist():
        # Ranks, for torchmetrics squeezes scores outside [0, 1], and large ones would become equal.
        ranks = torch.unique(scores[:, label], return_inverse=True)[1].double() / len(scores)
        per_class[label] = binary_average_precision(ranks, labels[:, label].long())
    return Scores({"map": float(per_class[found].mean())}, None, per_class)


def _regression(scores: Tensor, labels: Tensor) -> Scores:
    """R2 is the mean over the columns."""
    from torchmetrics.functional import mean_absolute_error, r2_score

    if (labels == labels[0]).all(0).any():
        raise InputError(
            f"all {len(labels)} labels are {labels[0].tolist()}, so R2 is not defined; take images whose labels differ"
        )
    figures = {"r2": float(r2_score(scores, labels)), "mae": float(mean_absolute_error(scores, labels))}
    return Scores(figures, None, None)
