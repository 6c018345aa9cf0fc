"""SimMIM's decoder for maps with holes: a token in hidden cells, a look at their neighbours, then pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.encoders.cvt_layers import norm_map
from mimsuite.heads.simmim import SimMIMHead
from mimsuite.masked.patches import expand_mask

REACH, BLOCKS = 2, 2  # cells to each side that a block looks at, and blocks


class FilledHead(nn.Module):
    """Predicts the pixels of every cell of a map whose hidden cells hold nothing.

    A 1x1 convolution alone would write the same into all of them: so each becomes a learned token, which two depthwise
    blocks, as of a ConvNeXt (Liu et al. 2022), mix with its neighbours.

    Args:
        num_features: D, the width of the map.
        stride: `(sh, sw)`, pixels per cell (places of the target).
        num_channels: C of the images (of the target).
    """

    def __init__(self, num_features: int, stride: tuple[int, int], num_channels: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, num_features, 1, 1))
        self.mixing = nn.ModuleList(Mixing(num_features) for _ in range(BLOCKS))
        self.head = SimMIMHead(num_features, stride, num_channels)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, grid: Tensor, cls: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """Returns the picture `(B, C, h * sh, w * sw)`.

        Args:
            grid: `(B, D, h, w)`; values in hidden cells are ignored.
            cls: not used.
            hidden: `(B, rows, columns)` bool on a grid that divides `(h, w)`; None: all is visible.
        """
        picture: Tensor = self.head(self._filled(grid, hidden))
        return picture

    def hidden_only(
        self, grid: Tensor, cls: Tensor | None, hidden: Tensor, where: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Returns some cells of the picture, as `SimMIMHead.hidden_only`."""
        return self.head.hidden_only(self._filled(grid, hidden), cls, hidden, where)

    def _filled(self, grid: Tensor, hidden: Tensor | None) -> Tensor:
        x = grid
        if hidden is not None:
            cells = expand_mask(hidden, (grid.shape[-2], grid.shape[-1])).unsqueeze(1)
            x = torch.where(cells, self.mask_token.to(x.dtype), x)
        for block in self.mixing:
            x = block(x)
        return x


class Mixing(nn.Module):
    """A depthwise convolution, LayerNorm, an activation and a 1x1 convolution, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 2 * REACH + 1, padding=REACH, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape `(B, D, h, w)`."""
        out: Tensor = x + self.pointwise(F.gelu(norm_map(self.norm, self.depthwise(x))))
        return out
