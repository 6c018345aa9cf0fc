"""Masks between grids, and pixels between images and patches in PixelShuffle order (channel, row, column)."""

from __future__ import annotations

from torch import Tensor

from mimsuite.errors import InputError


def expand_mask(mask: Tensor, to: tuple[int, int]) -> Tensor:
    """Repeats every cell of a mask so that it covers a finer grid, or the pixels.

    Args:
        mask: `(B, gh, gw)`, True = hidden (any dtype is kept).
        to: `(h, w)`, cells or pixels; whole multiples of `(gh, gw)`.

    Returns:
        `(B, h, w)`, the dtype of `mask`.

    Raises:
        InputError: `mask` is not 3-D, or `to` is not a whole multiple of its grid.
    """
    if mask.ndim != 3:
        raise InputError(f"mask has shape {tuple(mask.shape)}; expected (batch, rows, columns)")
    batch, rows, columns = mask.shape
    height, width = to
    if not rows or not columns or height % rows or width % columns:
        raise InputError(
            f"mask grid {rows}x{columns} does not divide the grid {height}x{width}; "
            f"use a mask whose cells are whole multiples of the finer cells"
        )
    if (rows, columns) == (height, width):
        return mask
    cells = mask[:, :, None, :, None].expand(batch, rows, height // rows, columns, width // columns)
    return cells.reshape(batch, height, width)


def reduce_mask(mask: Tensor, to: tuple[int, int]) -> Tensor:
    """Returns `(B, h, w)` bool on the coarser grid `to`: True where any cell of `mask` is True.

    Raises:
        InputError: `mask` is not 3-D, or its grid is not a whole multiple of `to`.
    """
    if mask.ndim != 3:
        raise InputError(f"mask has shape {tuple(mask.shape)}; expected (batch, rows, columns)")
    batch, rows, columns = mask.shape
    height, width = to
    if not height or not width or rows % height or columns % width:
        raise InputError(
            f"mask grid {rows}x{columns} is not a whole multiple of the grid {height}x{width}; "
            f"reduce to a grid that divides it"
        )
    return mask.reshape(batch, height, rows // height, width, columns // width).any(4).any(2)


def fit_mask(mask: Tensor, to: tuple[int, int]) -> Tensor:
    """Brings a mask to a finer or a coarser grid: see `expand_mask` and `reduce_mask`."""
    coarser = mask.ndim == 3 and (to[0] < mask.shape[1] or to[1] < mask.shape[2])
    return reduce_mask(mask, to) if coarser else expand_mask(mask, to)


def gather_patches(images: Tensor, grid: tuple[int, int], where: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Cuts some cells out of images.

    Args:
        images: `(B, C, H, W)`.
        grid: `(h, w)`, a regular grid over the image; must divide `(H, W)`.
        where: three `(K,)` int64 tensors: image, row and column of each cell.

    Returns:
        `(K, C * H/h * W/w)`, in the order channel, row, column.

    Raises:
        InputError: `grid` does not divide the image.
    """
    batch, channels, height, width = images.shape
    rows, columns = grid
    if not rows or not columns or height % rows or width % columns:
        raise InputError(f"grid {rows}x{columns} does not divide an image of {height}x{width} pixels; crop it first")
    cells = images.reshape(batch, channels, rows, height // rows, columns, width // columns)
    return cells.permute(0, 2, 4, 1, 3, 5)[where].flatten(1)


def fold_patches(patches: Tensor, stride: tuple[int, int]) -> Tensor:
    """Puts patch vectors back into an image: `PixelShuffle` (Shi et al. 2016) for rectangular patches too.

    Args:
        patches: `(B, C * sh * sw, h, w)`; along dimension 1 the order is channel, row, column.
        stride: `(sh, sw)`, pixels per cell.

    Returns:
        `(B, C, h * sh, w * sw)`.

    Raises:
        InputError: dimension 1 is not a multiple of `sh * sw`.
    """
    batch, depth, rows, columns = patches.shape
    down, across = stride
    if depth % (down * across):
        raise InputError(f"{depth} values per patch are not a multiple of {down}x{across} pixels; check the stride")
    channels = depth // (down * across)
    split = patches.reshape(batch, channels, down, across, rows, columns)
    return split.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels, rows * down, columns * across)


def as_grid_mask(mask: Tensor, batch: int, grid: tuple[int, int]) -> Tensor:
    """Brings a mask in any accepted form to `(B, gh, gw)` bool, True = hidden.

    Args:
        mask: `(B, gh * gw)`, or `(B, rows, columns)` on a grid that divides `grid`; bool, or numbers 0 and 1.
            One mask for a batch of several images counts for each.
        batch: B.
        grid: `(gh, gw)`.

    Raises:
        InputError: a shape that does not fit.
    """
    rows, columns = grid
    if mask.ndim == 2 and mask.shape[1] == rows * columns:
        mask = mask.reshape(-1, rows, columns)
    if mask.ndim != 3 or mask.shape[0] not in (1, batch):
        raise InputError(
            f"mask has shape {tuple(mask.shape)}; expected ({batch}, {rows * columns}) or ({batch}, {rows}, {columns})"
        )
    return expand_mask(mask.bool(), grid).expand(batch, rows, columns)
