"""What a model predicted of some masked images, with all that a picture of it needs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mimsuite.masked.normalization import Normalize
from mimsuite.masked.targets import Target


@dataclass(frozen=True)
class MaskedPrediction:
    """Images, masks, and what a model predicted.

    Attributes:
        images: `(N, C, H, W)` uint8 or int32.
        mask: `(N, rows, columns)` bool, True = hidden, one cell per mask unit.
        prediction: the whole prediction, in the places and channels of the target, float32.
        loss: the masked loss over all images, a scalar.
        loss_name: which error it is, one of `mimsuite.words.LOSSES`.
        target: what is predicted.
        cell: `(h, w)` pixels of a cell that the head writes.
        normalize: integer images to normalised floats.
    """

    images: Tensor
    mask: Tensor
    prediction: Tensor
    loss: Tensor
    loss_name: str
    target: Target
    cell: tuple[int, int]
    normalize: Normalize
