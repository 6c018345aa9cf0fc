"""The metrics of a validation pass, summed up batch by batch and over processes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.utilities import dim_zero_cat

from mimsuite.metrics.scores import BEST, metric_names, scores_of
from mimsuite.words import LabelKind


class MeanLoss(MeanMetric):
    """The weighted mean of the losses of batches; NaN where one of them is, which torchmetrics would leave out."""

    def __init__(self) -> None:
        super().__init__(nan_strategy=math.nan)


class RunningMetrics(Metric):
    """The `metrics.scores.metric_names` of a kind of labels; the same values as of `scores_of`.

    Where that refuses predictions that are not finite, the metrics are NaN: a run may recover from them. Of classes
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
        self.predictions: list[Tensor]
        self.labels: list[Tensor]
        if kind == "classes":
            self.add_state("counts", torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")
        else:
            self.add_state("predictions", [], dist_reduce_fx="cat")
            self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            predictions: `(B, K)` floats, larger = more likely, or the predicted numbers.
            labels: `(B,)` int64 classes under K, or `(B, K)` floats.
        """
        if self.kind == "classes":
            best = predictions.topk(min(BEST, self.outputs), dim=1).indices == labels[:, None]
            images = best.new_tensor(len(best), dtype=torch.int64)
            self.counts += torch.stack([best[:, 0].sum(), best.sum(), images, count_not_finite(predictions)])
        else:
            self.predictions.append(predictions)
            self.labels.append(labels.reshape(len(labels), self.outputs).to(predictions))  # one type in all processes

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Exchanges with other processes; one that saw no image gives empty states of the others' form."""
        if self.kind != "classes" and not self.predictions:
            self.update(*(torch.zeros(0, self.outputs, device=self.device) for _ in range(2)))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, float]:
        """Returns the metrics by name; NaN where no image was seen, or predictions were not finite."""
        nothing = dict.fromkeys(metric_names(self.kind, self.outputs), math.nan)
        if self.kind == "classes":
            first, five, images, bad = self.counts.tolist()
            found = {"top1": first / max(1, images), "top5": five / max(1, images)}
            return nothing if bad or not images else {name: found[name] for name in nothing}
        predictions = dim_zero_cat(self.predictions) if len(self.predictions) else torch.zeros(0, self.outputs)
        if not len(predictions) or count_not_finite(predictions):
            return nothing
        return scores_of(predictions, dim_zero_cat(self.labels), self.kind).metrics


def count_not_finite(predictions: Tensor) -> Tensor:
    """How many images have predictions `(B, K)` that are not all finite, a scalar int64."""
    return (~predictions.isfinite().all(1)).sum()
