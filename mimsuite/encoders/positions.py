"""Positions of a Vision Transformer's tokens: sines and cosines, resizing a table, and relative position biases."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.errors import InputError


def resize_positions(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], mode: str = "hf", *, class_token: bool = True
) -> Tensor:
    """Resizes a position table; the class token's position is kept.

    Args:
        table: `(1, T, D)`.
        old: grid of the table.
        new: grid wanted.
        mode: "hf": bicubic; "timm": bicubic with antialiasing; "jax": linear between the corners.
        class_token: whether the table begins with one.

    Raises:
        InputError: an unknown mode.
    """
    first = int(class_token)
    cells = table[:, first:].transpose(1, 2).reshape(1, -1, *old)
    cells = cells.to(torch.promote_types(cells.dtype, torch.float32))
    if mode in ("hf", "timm"):
        resized = F.interpolate(cells, size=new, mode="bicubic", align_corners=False, antialias=mode == "timm")
    elif mode == "jax":
        resized = F.interpolate(cells, size=new, mode="bilinear", align_corners=True)
    else:
        raise InputError(f"mode={mode!r} is not one of hf, timm, jax")
    return torch.cat([table[:, :first], resized.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def sincos_positions(grid: tuple[int, int], width: int, *, class_token: bool) -> Tensor:
    """Sines and cosines of column (first half) and row (second half) at geometric frequencies (MAE's published code).

    Args:
        grid: `(gh, gw)`.
        width: D, a multiple of 4.
        class_token: whether the table begins with one, whose position is 0.

    Returns:
        `(1, T, D)` float32.
    """
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid)
    frequencies = 10_000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    parts = []
    for place in (columns.repeat(grid[0]), rows.repeat_interleave(grid[1])):
        angle = place[:, None] * frequencies
        parts += [angle.sin(), angle.cos()]
    table = torch.cat(parts, 1).float()
    return F.pad(table, (0, 0, int(class_token), 0))[None]


class RelativePositionBias(nn.Module):
    """One learned bias per head and relative position, shared by all blocks or of one (BEiT, Bao et al. 2022; SimMIM).

    Args:
        grid: rows and columns of patches; there are no other sizes.
        heads: of the attention.
        class_token: whether the tokens begin with one.
    """

    relative_position_index: Tensor

    def __init__(self, grid: tuple[int, int], heads: int, class_token: bool) -> None:
        super().__init__()
        index, rows = _relative_index(grid, class_token)
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, heads))
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, count: int) -> Tensor:
        """Returns the bias of every pair of tokens, `(heads, T, T)`.

        Raises:
            InputError: `count` tokens are not those of its grid.
        """
        if len(self.relative_position_index) != count:
            raise InputError(
                f"{count} tokens, but relative position biases for {len(self.relative_position_index)}; they cannot "
                "be interpolated: use images of the size that the model is made for"
            )
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)


def _relative_index(grid: tuple[int, int], class_token: bool) -> tuple[Tensor, int]:
    """Row of the bias table for every pair of tokens, `(T, T)` int64, and the number of rows.

    The last three rows serve class token to patch, patch to class token, and class token to itself.
    """
    rows, columns = grid
    r, c = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    down, across = r[:, None] - r[None, :] + rows - 1, c[:, None] - c[None, :] + columns - 1
    index, count = down * (2 * columns - 1) + across, (2 * rows - 1) * (2 * columns - 1)
    if not class_token:
        return index, count
    index = F.pad(index, (1, 0, 1, 0))
    index[0, :], index[:, 0], index[0, 0] = count, count + 1, count + 2
    return index, count + 3
