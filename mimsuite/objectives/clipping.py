"""Gradient clipping, and losses that are not finite in one process only."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mimsuite.objectives.spreading import part_of, summed


def poison_if_not_finite(loss: Tensor) -> Tensor:
    """Returns the loss; one that is infinite becomes NaN, and so do its gradients, in every process of the run.

    An infinite loss may have finite gradients, and of several processes only one would know.
    """
    return loss * (1 + 0 * loss.detach())  # the factor of a finite loss is 1, of another NaN


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Clips gradients by their global norm, without waiting for the device.

    Args:
        parameters: with their gradients, already averaged over processes and micro-batches.
        limit: largest norm; None for no clipping.

    Returns:
        The norm before clipping, a scalar, equal in all processes; if it is not finite, the gradients are not usable.
    """
    parameters, most = list(parameters), float("inf") if limit is None else limit
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients or not isinstance(gradients[0], DTensor):
        return torch.nn.utils.clip_grad_norm_(parameters, most)
    parts = [part_of(gradient) for gradient in gradients]
    norm = torch.nn.utils.get_total_norm(parts)
    norm = summed(norm.double().square(), gradients[0]).sqrt().to(norm.dtype)  # a square may be out of float32's range
    torch._foreach_mul_(parts, (most / (norm + 1e-6)).clamp(max=1.0))  # as torch does
    return norm
