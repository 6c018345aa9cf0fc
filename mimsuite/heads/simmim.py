"""SimMIM's decoder: a 1x1 convolution to the pixels of a cell, then PixelShuffle (Xie et al.

2022, section 3.3).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.encoders.layers import is_plain
from mimsuite.masked.patches import fold_patches, gather_patches


class _Fold(nn.Module):
    """`fold_patches` as a module."""

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, patches: Tensor) -> Tensor:
        return fold_patches(patches, self.stride)

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


class SimMIMHead(nn.Sequential):
    """Predicts the pixels of every cell of a feature map; its parameters are `0.weight` and `0.bias`.

    Args:
        num_features: D, the width of the feature map.
        stride: pixels per cell (places of the target), one number or `(sh, sw)`.
        num_channels: C of the images (of the target).
    """

    def __init__(self, num_features: int, stride: int | tuple[int, int], num_channels: int) -> None:
        down, across = (stride, stride) if isinstance(stride, int) else stride
        super().__init__(nn.Conv2d(num_features, num_channels * down * across, 1), _Fold((down, across)))

    def forward(self, grid: Tensor, cls: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """Returns the picture `(B, C, h * sh, w * sw)` from features `grid (B, D, h, w)`; uses nothing else."""
        picture: Tensor = self[1](self[0](grid))
        return picture

    def hidden_only(
        self, grid: Tensor, cls: Tensor | None, hidden: Tensor, where: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Returns some cells of the picture, `(K, C * sh * sw)`, order channel, row, column.

        `where` are image, row and column of each, three `(K,)` int64 tensors.
        """
        convolution = self[0]
        if not isinstance(convolution, nn.Conv2d) or not is_plain(convolution, nn.Conv2d):
            return gather_patches(self(grid), (grid.shape[-2], grid.shape[-1]), where)
        return F.linear(grid.permute(0, 2, 3, 1)[where], convolution.weight.flatten(1), convolution.bias)
