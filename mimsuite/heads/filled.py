"""SimMIM's decoder for maps with holes: a token in hidden cells, a look at their neighbours, then pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.heads.simmim import SimMIMHead
from mimsuite.masked.patches import expand_mask


class FilledHead(nn.Module):
    """Predicts the pixels of every cell of a map whose hidden cells hold nothing.

    A 1x1 convolution alone would write the same into all of them: so each becomes a learned token, to which a small
    block adds what it sees of its neighbours, up to three cells away.

    Args:
        num_features: D, the width of the map.
        stride: `(sh, sw)`, pixels per cell (places of the target).
        num_channels: C of the images (of the target).
    """

    def __init__(self, num_features: int, stride: tuple[int, int], num_channels: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, num_features, 1, 1))
        self.mixing = Mixing(num_features)
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
        mixed: Tensor = self.mixing(x)
        return mixed


class Mixing(nn.Module):
    """What a cell gets from its neighbours, added to it: convolutions on an eighth of the width.

    The two 3x3 convolutions, the second with a gap, look three cells far.

    Args:
        width: of the map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        middle = max(1, width // 8)
        self.reduce = nn.Conv2d(width, middle, 1)
        self.near = nn.Conv2d(middle, middle, 3, padding=1)
        self.far = nn.Conv2d(middle, middle, 3, padding=2, dilation=2)
        self.norm = nn.GroupNorm(1, middle)
        self.expand = nn.Conv2d(middle, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape `(B, D, h, w)`."""
        near = F.relu(self.near(self.reduce(x)))
        out: Tensor = x + self.expand(F.relu(self.norm(self.far(near))))
        return out
