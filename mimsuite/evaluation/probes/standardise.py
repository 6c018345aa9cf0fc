"""Mean and deviation of features and targets, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 4096  # samples at a time that are made float64


def feature_statistics(x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation `(D,)` in float64; the latter is 1 where it would be 0.

    Args:
        x: `(N, D)` floats.
        rows: `(M,)` int64, the samples to take; None for all.
    """
    chosen = torch.arange(len(x)) if rows is None else rows
    places = torch.split(chosen, _CHUNK)
    mean = torch.stack([x[p].double().sum(0) for p in places]).sum(0) / len(chosen)
    std = (torch.stack([(x[p].double() - mean).square().sum(0) for p in places]).sum(0) / len(chosen)).sqrt()
    constant = std <= 1e-6 * mean.abs()
    return mean, torch.where(constant, torch.ones_like(std), std)
