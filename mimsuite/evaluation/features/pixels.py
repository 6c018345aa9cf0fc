"""The images themselves as features: the baseline without a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.settings.views import View
from mimsuite.types import FeatureMap

PIXELS = View(0, "mean")
"""The view of shrunk images: they are one cell each, so its mean is the cell."""


class PixelLayer(nn.Module):
    """Layer 0 of every encoder: images shrunk to a few pixels, bilinear and antialiased, as one cell."""

    def __init__(self, size: int, maximum: int) -> None:
        """Takes the side of the shrunk images in pixels, and the value that becomes 1."""
        super().__init__()
        self.size, self.maximum = size, maximum

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> tuple[FeatureMap, ...]:
        """Shrinks `pixels (B, C, H, W)`; a map of `(B, C * size * size, 1, 1)` for every layer, which must be 0."""
        if set(layers) - {0}:
            raise ValueError(f"layers={list(layers)}: images have layer 0 only")
        sides = (self.size, self.size)
        small = F.interpolate(pixels, sides, mode="bilinear", antialias=True, align_corners=False)
        return (FeatureMap((small.flatten(1) / self.maximum)[..., None, None], None),) * len(layers)


def round_as_stored(x: Tensor) -> Tensor:
    """Pixels `(N, D)` in float16 with one float32 scale per dimension, as 0.1.0 kept them: its metrics come again."""
    scale = x.abs().amax(0).clamp_min(torch.finfo(torch.float32).tiny)
    return (x / scale).half().float() * scale
