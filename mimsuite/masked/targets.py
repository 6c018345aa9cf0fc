"""What a masked image model predicts: pixels, pixels normalised per cell, or histograms of oriented gradients.

A target is a picture, perhaps of other channels and coarser than the image, so that one head and one loss serve all.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.masked.geometry import HOG_CELL
from mimsuite.masked.losses import widen
from mimsuite.masked.modes import MODES, choose_mode
from mimsuite.masked.patches import expand_mask, gather_patches, reduce_mask
from mimsuite.types import Encoder, EncoderConfig

Pair = tuple[int, int]
NORM_EPS = 1e-6  # added to the variance, as MAE does
HOG_BINS, HOG_EPS = 9, 1e-5
_MOST_PAIRS = 2**23  # pairs of cells that are compared at once


class Target(Protocol):
    """What is to be predicted of normalised pixels `(B, C, H, W)`.

    Attributes:
        name: as a model's config has it.
        scale: pixels of the image per place of the target, down and across.
        mode: how a prediction becomes a picture by default, see `mimsuite.masked.modes.MODES`.
    """

    name: str
    scale: int
    mode: str

    def channels(self, channels: int) -> int:
        """C of the target, from that of the image."""
        ...

    def dense(self, pixels: Tensor, cell: Pair) -> Tensor:
        """The whole target, `(B, channels(C), H / scale, W / scale)`, in float32 or wider.

        `cell` is the `(h, w)` of a cell of the feature map in pixels.
        """
        ...

    def cells(self, pixels: Tensor, grid: Pair, where: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Some cells of it, `(K, channels * places)`, order channel, row, column.

        `grid` is that of the feature map; `where` are image, row and column of each cell, three `(K,)` int64 tensors.
        """
        ...

    def picture(
        self, prediction: Tensor, pixels: Tensor, mask: Tensor, cell: Pair, mode: str = "auto"
    ) -> Tensor | None:
        """`(B, C, H, W)` to be shown with the data's statistics, from a prediction; None where the target has no pixels.

        No mode but "oracle_stats" looks at hidden pixels.

        Raises:
            InputError: a mode that the target does not have.
        """
        ...


class Pixels:
    """The normalised pixels themselves (SimMIM, Xie et al. 2022, section 3.4)."""

    name, scale, mode = "pixels", 1, MODES["pixels"][0]

    def channels(self, channels: int) -> int:
        """C."""
        return channels

    def dense(self, pixels: Tensor, cell: Pair) -> Tensor:
        """The pixels."""
        return widen(pixels)

    def cells(self, pixels: Tensor, grid: Pair, where: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The pixels of some cells."""
        return widen(gather_patches(pixels, grid, where))

    def picture(self, prediction: Tensor, pixels: Tensor, mask: Tensor, cell: Pair, mode: str = "auto") -> Tensor:
        """The prediction."""
        choose_mode(self.name, mode)
        return prediction


class NormPixels:
    """Each cell's pixels minus their mean, by their deviation, over all channels (MAE, He et al. 2022, section 3)."""

    name, scale, mode = "norm_pixels", 1, MODES["norm_pixels"][0]

    def channels(self, channels: int) -> int:
        """C."""
        return channels

    def dense(self, pixels: Tensor, cell: Pair) -> Tensor:
        """The normalised cells, put together."""
        mean, deviation = cell_statistics(pixels, cell)
        return (widen(pixels) - expand_cells(mean, cell)) / expand_cells(deviation, cell)

    def cells(self, pixels: Tensor, grid: Pair, where: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Some normalised cells."""
        values = widen(gather_patches(pixels, grid, where))
        variance, mean = torch.var_mean(values, dim=1, keepdim=True)
        return (values - mean) / (variance + NORM_EPS).sqrt()

    def picture(self, prediction: Tensor, pixels: Tensor, mask: Tensor, cell: Pair, mode: str = "auto") -> Tensor:
        """The prediction with mean and deviation of each cell: its own where visible, else of the nearest visible ones.

        In the mode "oracle_stats" with those of the cell itself, also where it is hidden, which gives a part of the
        answer away (MAE's own pictures do so); in the mode "raw" the prediction as it is.
        """
        mode = choose_mode(self.name, mode)
        if mode == "raw":
            return prediction
        statistics = torch.stack(cell_statistics(pixels, cell), 1)
        if mode == "predicted_stats":
            size = (pixels.shape[-2], pixels.shape[-1])
            grid = (size[0] // cell[0], size[1] // cell[1])
            hidden = reduce_mask(expand_mask(mask.bool(), size), grid)  # also cells that are hidden in part
            statistics = nearest_visible(statistics, hidden, fill=(0.0, 1.0))
        mean, deviation = statistics.unbind(1)
        return prediction * expand_cells(deviation, cell) + expand_cells(mean, cell)


class HOG:
    """Histograms of oriented gradients (Dalal and Triggs 2005), the target of MaskFeat (Wei et al. 2022, section 3.2).

    Per channel: central differences, nine unsigned orientations, cells of 8 x 8 pixels, each divided by its length.
    """

    name, scale, mode = "hog", HOG_CELL, MODES["hog"][0]

    def channels(self, channels: int) -> int:
        """Nine orientations for every channel of the image."""
        return channels * HOG_BINS

    def dense(self, pixels: Tensor, cell: Pair) -> Tensor:
        """The histograms, `(B, C * 9, H / 8, W / 8)`, order channel, orientation."""
        return hog(pixels)

    def cells(self, pixels: Tensor, grid: Pair, where: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The histograms of some cells."""
        return gather_patches(hog(pixels), grid, where)

    def picture(self, prediction: Tensor, pixels: Tensor, mask: Tensor, cell: Pair, mode: str = "auto") -> None:
        """None: orientations are not pixels."""
        choose_mode(self.name, mode)


TARGETS: dict[str, type[Target]] = {"pixels": Pixels, "norm_pixels": NormPixels, "hog": HOG}


def make_target(config: EncoderConfig, encoder: Encoder) -> Target:
    """The target of one model, by its config's `mim_target`.

    Args:
        config: of the model.
        encoder: the one that is trained, for targets that are its own features or those of a copy; pixels and HOG need
            none.
    """
    return TARGETS[config.mim_target]()


def hog(pixels: Tensor) -> Tensor:
    """Histograms of oriented gradients of every channel; equals scikit-image's with one-cell blocks and the norm L2.

    Args:
        pixels: `(B, C, H, W)`, H and W multiples of 8.

    Returns:
        `(B, C * 9, H / 8, W / 8)` in float32 or wider; bin k holds gradients of 20 k to 20 (k + 1) degrees.

    Raises:
        InputError: an image that does not consist of whole cells.
    """
    height, width = pixels.shape[-2:]
    if height % HOG_CELL or width % HOG_CELL:
        raise InputError(f"image {height}x{width} is not a multiple of HOG's cells of {HOG_CELL} pixels; resize it")
    pixels = widen(pixels)
    down, across = torch.zeros_like(pixels), torch.zeros_like(pixels)  # 0 at the borders
    down[..., 1:-1, :] = pixels[..., 2:, :] - pixels[..., :-2, :]
    across[..., 1:-1] = pixels[..., 2:] - pixels[..., :-2]
    strength = torch.hypot(down, across)
    degrees = torch.rad2deg(torch.atan2(down, across)) % 180
    number = (degrees // (180 / HOG_BINS)).clamp_max(HOG_BINS - 1)  # an angle just below 0 is rounded to 180
    bins = [F.avg_pool2d(strength.masked_fill((number < k) | (number > k), 0), HOG_CELL) for k in range(HOG_BINS)]
    histograms = torch.stack(bins, 2)
    length = (histograms.square().sum(2, keepdim=True) + HOG_EPS**2).sqrt()
    return (histograms / length).flatten(1, 2)


def cell_statistics(pixels: Tensor, cell: Pair) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every cell over its pixels and channels, `(B, h, w)` each, in float32 or wider.

    The deviation is the root of the unbiased variance plus 1e-6 (MAE's published code).
    """
    batch, channels, height, width = pixels.shape
    (down, across), rows, columns = cell, height // cell[0], width // cell[1]
    if height % down or width % across:
        raise InputError(f"image {height}x{width} is not a multiple of the cell {down}x{across}; resize or crop it")
    cells = widen(pixels).reshape(batch, channels, rows, down, columns, across)
    variance, mean = torch.var_mean(cells, dim=(1, 3, 5))
    return mean, (variance + NORM_EPS).sqrt()


def expand_cells(values: Tensor, cell: Pair) -> Tensor:
    """Repeats `values (B, h, w)` of cells over their pixels: `(B, 1, H, W)`."""
    rows, columns = values.shape[1:]
    return expand_mask(values, (rows * cell[0], columns * cell[1])).unsqueeze(1)


def nearest_visible(values: Tensor, hidden: Tensor, fill: tuple[float, ...]) -> Tensor:
    """Replaces the values of hidden cells by the mean over the nearest visible cells.

    Args:
        values: `(B, V, h, w)`; those of hidden cells influence nothing.
        hidden: `(B, h, w)` bool.
        fill: V values for images without a visible cell.
    """
    rows, columns = hidden.shape[1:]
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(values.device)
    distance = (places[:, None] - places[None]).square().sum(-1)  # squared, so whole numbers: equal is equal
    at_once = max(1, _MOST_PAIRS // distance.numel())
    pieces = zip(torch.split(values.flatten(2), at_once), torch.split(hidden.flatten(1), at_once), strict=True)
    return torch.cat([_fill_hidden(part, covered, distance, fill) for part, covered in pieces]).view_as(values)


def _fill_hidden(values: Tensor, covered: Tensor, distance: Tensor, fill: tuple[float, ...]) -> Tensor:
    """`nearest_visible` for values `(B, V, N)`, covered `(B, N)`, and the distances `(N, N)` of all cells."""
    apart = distance.masked_fill(covered[:, None], distance.max() + 1)
    far = (apart > apart.amin(2, keepdim=True)) | covered[:, None]
    # A visible cell is the nearest to itself. Summed, not multiplied: autocast and TF32 would round a matrix product.
    total = values[:, :, None].masked_fill(far[:, None], 0).sum(3)
    mean = total / (~far).sum(2)[:, None].clamp_min(1)
    return torch.where(covered.all(1)[:, None, None], values.new_tensor(fill)[None, :, None], mean)
