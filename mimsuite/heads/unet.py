"""SparK's decoder (Tian et al. 2023, section 3.2): a U-Net that fills hidden cells at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.encoders.cvt_layers import norm_map
from mimsuite.masked.patches import expand_mask
from mimsuite.types import Scale

# Shapes: B images, maps (B, E, h, w) from the coarsest to the finest, C channels of the picture.


class UNetDecoder(nn.Module):
    """Predicts a picture from the maps of an encoder.

    From the coarsest map on, the width halves as the resolution doubles; each doubling has two 3x3 convolutions, and
    before it the projection of the encoder's map of that size is added. Norms are per image, so that nothing depends on
    the other images of a batch, and per channel, as SparK's BatchNorm: hidden cells all start from one token, so most
    channels have a mean far from zero, and in a norm that they share these means drown what differs between cells.

    Args:
        scales: the encoder's maps, the coarsest first; their strides are powers of two.
        num_channels: C.
        hidden_size: width at the coarsest map; a multiple of its stride.
        fills: whether hidden cells hold nothing, so that a learned token takes their place at every scale.
    """

    def __init__(self, scales: Sequence[Scale], num_channels: int, *, hidden_size: int, fills: bool) -> None:
        super().__init__()
        coarsest = scales[0].stride
        widths = [hidden_size >> level for level in range(coarsest.bit_length())]  # down to single pixels
        self.levels = [(coarsest // scale.stride).bit_length() - 1 for scale in scales]
        self.scales = nn.ModuleList(
            ScaleInput(scale.width, widths[level], fills=fills)
            for scale, level in zip(scales, self.levels, strict=True)
        )
        self.doublings = nn.ModuleList(Doubling(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.pixels = nn.Conv2d(widths[-1], num_channels, 1)

    def forward(self, maps: Sequence[Tensor], hidden: Tensor | None = None) -> Tensor:
        """Returns the picture `(B, C, H, W)`.

        Args:
            maps: of the encoder, in the order of `scales`.
            hidden: `(B, rows, columns)` bool, True = hidden, on a grid that divides all of them; None: all is visible.
        """
        inputs = {level: scale(x, hidden) for level, scale, x in zip(self.levels, self.scales, maps, strict=True)}
        x = inputs[0]
        for level, double in enumerate(self.doublings, start=1):
            x = double(x)
            x = x + inputs[level] if level in inputs else x
        picture: Tensor = self.pixels(x)
        return picture


class ScaleInput(nn.Module):
    """What the U-Net takes of one map: its norm, the token in hidden cells, a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, *, fills: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.mask_token = nn.Parameter(torch.empty(1, inputs, 1, 1)) if fills else None
        self.projection = nn.Conv2d(inputs, outputs, 1)
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """Returns `(B, outputs, h, w)` from `(B, inputs, h, w)`."""
        x = norm_map(self.norm, x)
        if self.mask_token is not None and hidden is not None:
            cells = expand_mask(hidden, (x.shape[-2], x.shape[-1])).unsqueeze(1)
            x = torch.where(cells, self.mask_token.to(x.dtype), x)
        out: Tensor = self.projection(x)
        return out


class Doubling(nn.Module):
    """Twice the resolution, then two 3x3 convolutions, the second to another width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(inputs, inputs, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(inputs, inputs)
        self.convolution2 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, outputs, 2 h, 2 w)` from `(B, inputs, h, w)`."""
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = F.relu(self.norm1(self.convolution1(x)))
        out: Tensor = self.norm2(self.convolution2(x))
        return out
