"""Penalties on features that are alike, added to the loss of any objective; they look at the whole batch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from mimsuite.errors import InputError
from mimsuite.masked.quality import draw_directions, sigreg, uniformity
from mimsuite.words import PENALTIES

DIRECTIONS = 256  # of sigreg, drawn anew in each step


@dataclass(frozen=True)
class FeaturePenalties:
    """What is added to a loss.

    Args:
        uniformity: weight of the mean squared cosine between images; 0 for none.
        sigreg: weight of the distance to a normal distribution; 0 for none.
    """

    uniformity: float
    sigreg: float

    @property
    def named(self) -> list[str]:
        """Names of those that are asked for."""
        return [name for name in PENALTIES if getattr(self, name)]

    def check(self, micro_batches: int) -> None:
        """Refuses a batch that comes in several micro-batches, as images of different ones are never compared.

        Raises:
            InputError: several, and a penalty is asked for.
        """
        if self.named and micro_batches > 1:
            name = self.named[0]
            raise InputError(
                f"objective.{name}={getattr(self, name)} compares all images of a batch, which comes in "
                f"{micro_batches} micro-batches; use micro_batch=BATCH/DEVICES, a smaller batch, or objective.{name}=0"
            )

    def added(self, loss: Tensor, features: Tensor, seed: int) -> Tensor:
        """The loss and the penalties; the gradient of several processes, averaged, is that of one with all images.

        Args:
            loss: a scalar.
            features: `(B, D)` of this process's images.
            seed: of this step, the same in all processes.
        """
        if not self.named:
            return loss
        features = over_processes(features)
        with without_autocast(features.device.type):
            if self.uniformity:
                loss = loss + self.uniformity * uniformity(features)
            if self.sigreg:
                directions = draw_directions(features.shape[1], DIRECTIONS, seed, features.device)
                loss = loss + self.sigreg * sigreg(features, directions)
        return loss


def without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """Where products of float32 are not rounded to bfloat16; torch's meta device knows no autocast."""
    return contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def over_processes(features: Tensor) -> Tensor:
    """The features of all processes, in their order, with gradient."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return features
    if torch.distributed.get_world_size() == 1:
        return features
    return torch.cat(all_gather(features))  # type: ignore[no-untyped-call]
