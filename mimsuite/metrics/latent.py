"""How well features are predicted over a split: loss, cosine, and the loss of a target that is always the same."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from mimsuite.masked.latent import latent_error

BINS = 1024  # of the values of a channel: a squared error of 1 is off by less than 0.0003
RESOLUTION = 2.0**-20


class LatentMetrics(Metric):
    """Sums over the predicted cells of all batches and processes, in whole numbers: exactly, and in any order.

    The mean target is known only at the end, and most errors from it do not follow from sums. Therefore the values of
    each channel are counted in `BINS` steps; of a normalised cell none is beyond the square root of its channels.

    Args:
        features: C, channels of the target.
        width: of a layer; the target may have several side by side.
        loss: name of the error, one of `mimsuite.words.LOSSES`.
        beta: of "smooth_l1".
        exchanges: whether `compute` sums over all processes; they must then call it together.
    """

    full_state_update = False

    def __init__(self, features: int, width: int, loss: str, beta: float, *, exchanges: bool = True) -> None:
        super().__init__(sync_on_compute=exchanges)
        self.loss, self.beta, self.most = loss, beta, math.sqrt(width)
        self.errors: Tensor
        self.cosines: Tensor
        self.cells: Tensor
        self.lost: Tensor
        self.counts: Tensor
        for name in ("errors", "cosines", "cells", "lost"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(features * BINS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Adds cells: predictions `(K, C)` and targets `(K, C)`."""
        error = latent_error(predicted, target, self.loss, self.beta, reduction="none").mean(1)
        cosine = torch.cosine_similarity(predicted.float(), target.float(), dim=1)
        finite = error.isfinite() & cosine.isfinite()
        self.lost += (~finite).sum()
        for name, values in (("errors", error), ("cosines", cosine)):
            steps = (torch.where(finite, values, 0) / RESOLUTION).round().long()
            setattr(self, name, getattr(self, name) + steps.sum())
        self.cells += len(target)
        place = ((target.float().nan_to_num() / self.most + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
        channel = torch.arange(target.shape[1], device=target.device) * BINS
        self.counts += torch.bincount((place + channel).flatten(), minlength=len(self.counts))

    def merge(self, other: LatentMetrics) -> None:
        """Adds what another process has seen."""
        for name in ("errors", "cosines", "cells", "lost", "counts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def compute(self) -> dict[str, float]:
        """`loss`; `cosine` of prediction and target; `loss_mean_target`, that of the mean target in every cell.

        NaN where no cell was seen, or a prediction was not finite.
        """
        cells = int(self.cells)
        if not cells or self.lost:
            return dict.fromkeys(("loss", "cosine", "loss_mean_target"), math.nan)
        counts = self.counts.cpu().double().view(-1, BINS) / cells
        values = ((torch.arange(BINS, dtype=torch.float64) + 0.5) * (2 / BINS) - 1) * self.most
        mean = (counts * values).sum(1, keepdim=True)
        errors = latent_error(mean.expand_as(counts), values.expand_as(counts), self.loss, self.beta, reduction="none")
        return {
            "loss": int(self.errors) * RESOLUTION / cells,
            "cosine": int(self.cosines) * RESOLUTION / cells,
            "loss_mean_target": float((counts * errors).sum(1).mean()),
        }
