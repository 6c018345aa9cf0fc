"""Latent targets: a teacher's features as what is predicted, and how far a prediction is from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.masked.losses import widen
from mimsuite.masked.normalization import Normalize

EPS = 1e-5  # of all normalisations, as torch's LayerNorm


def combine_layers(maps: Sequence[Tensor], combine: str) -> Tensor:
    """Makes one target of the maps of several layers; without parameters, in float32 or wider.

    Args:
        maps: each `(B, D, h, w)`.
        combine: "mean": each is normalised over its cells, per channel and image, and of their mean each cell over its
            channels (data2vec 2.0, Baevski et al. 2023, section 3.3); "stack": each cell of each is normalised over
            its channels, and the layers stand side by side (Bootleg, 2026).

    Returns:
        `(B, D, h, w)`, or with "stack" `(B, layers * D, h, w)`.
    """
    wide = [widen(x) for x in maps]
    if combine == "stack":
        return torch.cat([norm_cells(x) for x in wide], 1)
    normed = [over_cells(x) for x in wide]
    return norm_cells(torch.stack(normed).mean(0) if len(normed) > 1 else normed[0])


def over_cells(x: Tensor) -> Tensor:
    """A map `(B, D, h, w)` whose every channel has mean 0 and deviation 1 over the cells of each image."""
    variance, mean = torch.var_mean(x, dim=(2, 3), unbiased=False, keepdim=True)
    return (x - mean) * (variance + EPS).rsqrt()


def norm_cells(x: Tensor) -> Tensor:
    """A map `(B, D, h, w)` whose every cell has mean 0 and deviation 1 over its channels."""
    variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
    return (x - mean) * (variance + EPS).rsqrt()


def latent_error(predicted: Tensor, target: Tensor, loss: str, beta: float, reduction: str = "mean") -> Tensor:
    """The mean error of all values, a scalar in float32 or wider.

    Args:
        predicted: of some cells, `(K, C)`.
        target: likewise.
        loss: one of `words.LOSSES`.
        beta: where "smooth_l1" turns from a square to a line.
        reduction: "none" for the error of every value instead.
    """
    predicted, target = widen(predicted), widen(target)
    if loss == "smooth_l1":
        return F.smooth_l1_loss(predicted, target, reduction=reduction, beta=beta)
    return (F.mse_loss if loss == "mse" else F.l1_loss)(predicted, target, reduction=reduction)


def take_cells(x: Tensor, where: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Some cells of a map `(B, C, h, w)`, `(K, C)`.

    `where` are image, row and column of each, three `(K,)` int64 tensors; of several views of the images, numbered on
    from B, each is that of its image.
    """
    image, row, column = where
    return x.permute(0, 2, 3, 1)[image % len(x), row, column]


def cell_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """The cosine between two maps `(B, C, h, w)` in every cell, `(B, h, w)`."""
    return F.cosine_similarity(widen(predicted), widen(target), dim=1)


@dataclass(frozen=True)
class PredictedFeatures:
    """Images, masks, and the features that a model predicted where it saw nothing.

    Attributes:
        images: `(N, C, H, W)` uint8 or int32.
        mask: `(N, rows, columns)` bool, True = hidden, one cell per mask unit.
        hidden: `(N, h, w)` bool, the cells that are predicted.
        predicted: `(N, D, h, w)` float32, 0 in other cells.
        target: the teacher's features of the whole images, likewise.
        loss: the latent loss over all images, a scalar.
        width: channels of a layer; the target may be several side by side.
        normalize: integer images to normalised floats.
    """

    images: Tensor
    mask: Tensor
    hidden: Tensor
    predicted: Tensor
    target: Tensor
    loss: Tensor
    width: int
    normalize: Normalize
