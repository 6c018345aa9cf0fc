"""Metrics of masked image modeling: PSNR of hidden pixels, and the loss that a flat colour would reach."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from mimsuite.masked.losses import masked_error, widen
from mimsuite.masked.patches import expand_mask
from mimsuite.masked.targets import Target

SMALLEST_ERROR = 1e-10
RESOLUTION = 2.0**-20  # dB


def hidden_psnr(prediction: Tensor, pixels: Tensor, mask: Tensor, peak: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each image over its hidden pixels, in dB.

    Args:
        prediction: `(B, C, H, W)` in [0, 1]; values outside are clipped, as they would be in a picture.
        pixels: the true image, likewise.
        mask: `(B, gh, gw)` bool, True = hidden, on a grid that divides the image.
        peak: of each channel, `(1, C, 1, 1)`: the part of [0, 1] that its values take, which errors are divided by, as
            12-bit data in 16 bits would look almost perfect otherwise; None: 1.

    Returns:
        `(B,)` float32 or wider; at most 100 (a perfect prediction); NaN where nothing is hidden.
    """
    hidden = _pixel_mask(mask, pixels)
    error = widen(prediction).clamp(0, 1) - widen(pixels).clamp(0, 1)
    if peak is not None:
        error = error / peak
    error = error.square().masked_fill(~hidden, 0)
    mean = error.sum((1, 2, 3)) / (hidden.sum((1, 2, 3)) * pixels.shape[1])
    return -10 * mean.clamp_min(SMALLEST_ERROR).log10()


class HiddenPSNR(Metric):
    """Mean of `hidden_psnr` over all images with something hidden, across batches and processes.

    Summed in whole steps of `RESOLUTION`: exactly, in any order, and on devices that know no float64.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, *, exchanges: bool = True) -> None:
        """Starts from nothing.

        Args:
            exchanges: whether `compute` sums over all processes; they must then call it together.
        """
        super().__init__(sync_on_compute=exchanges)
        self.total: Tensor
        self.images: Tensor
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, pixels: Tensor, mask: Tensor, peak: Tensor | None = None) -> None:
        """Adds a batch; arguments as in `hidden_psnr`."""
        psnr = hidden_psnr(prediction, pixels, mask, peak)
        psnr = psnr[~psnr.isnan()]
        self.total += (psnr / RESOLUTION).round().long().sum()
        self.images += len(psnr)

    def compute(self) -> Tensor:
        """Returns the mean, a scalar in dB, float64 on the CPU; NaN of no image."""
        return self.total.cpu().double() * RESOLUTION / self.images.cpu()


def flat_loss(target: Target, pixels: Tensor, mask: Tensor, cell: tuple[int, int], loss: str) -> Tensor:
    """The masked loss of an image of one colour, in the space of the target: what a model must beat.

    Of pixels that of `visible_mean_loss`. Of pixels that are normalised per cell, and of gradients, it is that of
    zeros: so far a flat cell of the right brightness is from the target, and a flat image has no gradients.

    Args:
        target: what is predicted.
        pixels: `(B, C, H, W)` normalised floats.
        mask: `(B, gh, gw)` bool, True = hidden, on a grid that divides the image.
        cell: `(h, w)` pixels of a cell of the feature map.
        loss: one of `words.LOSSES`.

    Returns:
        A scalar, comparable with the model's masked loss.
    """
    if target.name == "pixels":
        return visible_mean_loss(pixels, mask, loss)
    wanted = target.dense(pixels, cell)
    return masked_error(torch.zeros_like(wanted), wanted, mask, loss)


def visible_mean_loss(pixels: Tensor, mask: Tensor, loss: str = "l1") -> Tensor:
    """Masked loss of predicting, in every image, the mean colour of its visible pixels.

    Args:
        pixels: `(B, C, H, W)` normalised floats.
        mask: `(B, gh, gw)` bool, True = hidden, on a grid that divides the image.
        loss: one of `words.LOSSES`.

    Returns:
        A scalar, comparable with `losses.masked_error`. An image without visible pixels is predicted as 0, the
        mean of the data.
    """
    visible = ~_pixel_mask(mask, pixels)
    total = widen(pixels).masked_fill(~visible, 0).sum((2, 3), keepdim=True)
    colour = total / visible.sum((2, 3), keepdim=True).clamp_min(1)
    return masked_error(colour.expand_as(pixels), pixels, mask, loss)


def _pixel_mask(mask: Tensor, pixels: Tensor) -> Tensor:
    """Returns `mask` repeated to pixels, `(B, 1, H, W)` bool."""
    return expand_mask(mask, (pixels.shape[-2], pixels.shape[-1])).bool().unsqueeze(1)
