"""Gradient clipping, and steps that are skipped because loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def poison_if_not_finite(loss: Tensor) -> Tensor:
    """Returns the loss; one that is infinite becomes NaN, and so do its gradients, in every process of the run.

    An infinite loss may have finite gradients, and of several processes only one would know.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def clip_or_skip(parameters: Iterable[nn.Parameter], limit: float | None) -> tuple[Tensor, bool]:
    """Clips gradients by their global norm; if that is not finite, removes them, so that the optimizer changes nothing.

    Args:
        parameters: with their gradients, already averaged over processes and micro-batches.
        limit: largest norm; None for no clipping.

    Returns:
        The norm before clipping, and whether the gradients were removed.
    """
    kept = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(kept, float("inf") if limit is None else limit)
    if norm.isfinite():
        return norm, False
    for parameter in kept:
        parameter.grad = None
    return norm, True
