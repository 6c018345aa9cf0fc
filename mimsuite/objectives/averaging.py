"""Averaged weights: an exponential moving average (EMA) of a model that follows its training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mimsuite.errors import InputError
from mimsuite.objectives.spreading import part_of


class AveragedWeights(nn.Module):
    """A moving average of a model's weights; after n steps it keeps `min(decay, (1 + n) / (10 + n))` of itself.

    The first step is taken over whole. Buffers are copied: running statistics are averages already. Like torch's
    `AveragedModel`, whose names in state dicts it has, but it never waits for the device.

    Args:
        model: what is averaged.
        decay: the most that it keeps of itself in a step.

    Attributes:
        module: the averaged model; its parameters need no gradient.
        n_averaged: steps so far.

    Raises:
        InputError: a decay outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"objective.ema={decay} is not in [0, 1); use 0.9998, or null for none")
        super().__init__()
        self.decay = decay
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.n_averaged: Tensor
        self.register_buffer("n_averaged", torch.tensor(0))

    @torch.no_grad()
    def update(self, model: nn.Module, skipped: Tensor) -> None:
        """Moves towards the model after a step; not at all if `skipped`, a bool scalar on the device, is True."""
        n = self.n_averaged.to(torch.float32 if skipped.device.type == "mps" else torch.float64)
        kept = ((1 + n) / (10 + n)).clamp(max=self.decay)
        taken = torch.where(n == 0, 1, 1 - kept) * ~skipped
        for own, now in zip(self.module.parameters(), model.parameters(), strict=True):
            part_of(own).lerp_(part_of(now), taken.to(own.dtype))
        self.n_averaged += ~skipped
        for mean, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            mean.copy_(buffer)
