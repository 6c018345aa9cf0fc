"""The figures of a validation pass, summed up batch by batch and over processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from mimsuite.metrics.scores import METRICS, LabelKind, worth


class Figures(Metric):
    """What `evaluation.scores.METRICS` names for a kind of labels; the same values as of `scores.worth`.

    Where that would refuse scores that are not finite, the figures are NaN: a run may recover from them. Of classes
    only counts are kept, so that it stays small for tens of thousands of them.
    """

    full_state_update = False

    def __init__(self, kind: LabelKind, outputs: int) -> None:
        """Starts from nothing.

        Args:
            kind: what the labels are.
            outputs: K, classes or columns of the targets.
        """
        super().__init__()
        self.kind, self.outputs = kind, outputs
        self.counts: Tensor
        self.scores: list[Tensor]
        self.labels: list[Tensor]
        if kind == "classes":
            self.add_state("counts", torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")
        else:
            self.add_state("scores", [], dist_reduce_fx="cat")
            self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            scores: `(B, K)` floats, larger = more likely, or the predicted numbers.
            labels: `(B,)` int64 classes under K, or `(B, K)` floats.
        """
        if self.kind == "classes":
            best = scores.topk(min(5, self.outputs), dim=1).indices == labels[:, None]
            images = best.new_tensor(len(best), dtype=torch.int64)
            self.counts += torch.stack([best[:, 0].sum(), best.sum(), images, broken(scores)])
        else:
            self.scores.append(scores)
            self.labels.append(labels.reshape(len(labels), -1))

    def compute(self) -> dict[str, float]:
        """Returns the figures by name; NaN where no image was seen, or scores were not finite."""
        nothing = dict.fromkeys(METRICS[self.kind], math.nan)
        if self.kind == "classes":
            first, five, images, bad = self.counts.tolist()
            return nothing if bad or not images else {"top1": first / images, "top5": five / images}
        if not len(self.scores) or broken(scores := dim_zero_cat(self.scores)):
            return nothing
        return worth(scores, dim_zero_cat(self.labels), self.kind).figures


def broken(scores: Tensor) -> Tensor:
    """How many images have scores `(B, K)` that are not all finite, a scalar int64."""
    return (~scores.isfinite().all(1)).sum()
