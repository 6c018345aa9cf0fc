"""Averaged weights: an exponential moving average (EMA) of a model that follows its training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mimsuite.errors import InputError

Tensors = tuple[Tensor, ...] | list[Tensor]


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """A moving average of a model's weights; after n steps it keeps `min(decay, (1 + n) / (10 + n))` of itself.

    Buffers are copied: running statistics are averages already.

    Raises:
        InputError: a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise InputError(f"objective.ema={decay} is not in [0, 1); use 0.9998, or null for none")

    @torch.no_grad()
    def move(means: Tensors, now: Tensors, steps: Tensor | int) -> None:
        done = int(steps)  # once for all parameters: on a GPU it waits for the device
        torch._foreach_lerp_(means, now, 1 - min(decay, (1 + done) / (10 + done)))

    made = AveragedModel(model, multi_avg_fn=move)
    made.requires_grad_(False)
    return made
