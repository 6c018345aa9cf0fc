"""Sparse maps: hidden positions are zero and count in no statistic (SparK, Tian et al. 2023, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimsuite.masked.losses import widen
from mimsuite.masked.patches import expand_mask

# Shapes: B images, (h, w) positions of a map, E its width.


class Visible(NamedTuple):
    """Which positions of one map are visible.

    Attributes:
        hidden: `(B, 1, h, w)` bool, True = hidden.
        counted: `(B,)` float32, the visible positions of each image.
    """

    hidden: Tensor
    counted: Tensor


class VisibleTokens(NamedTuple):
    """What is visible in the blocks of a stage of a CvT.

    Attributes:
        map: the map's positions.
        keys: those of the projections of keys and values; visible where their window holds a visible position.
        attended: `(B, 1, 1, keys)` bool, False where attention leaves a key out; a class token first.
    """

    map: Visible
    keys: Visible
    attended: Tensor


class VisibleMaps:
    """The visible positions of every map of one forward pass; each is made once.

    Args:
        cells: `(B, rows, columns)` bool, True = hidden, on the grid of the coarsest map.
    """

    def __init__(self, cells: Tensor) -> None:
        self._cells = cells
        self._found: dict[tuple[int, int], Visible] = {}

    def at(self, size: tuple[int, int]) -> Visible:
        """Those of a map of `(h, w)` positions.

        Raises:
            InputError: `size` is not a whole multiple of the cells.
        """
        if size not in self._found:
            self._found[size] = visible_of(expand_mask(self._cells, size).unsqueeze(1))
        return self._found[size]


def visible_of(hidden: Tensor) -> Visible:
    """Counts the visible positions of `hidden (B, 1, h, w)`."""
    return Visible(hidden, (~hidden).sum((1, 2, 3), dtype=torch.float32))


def zero_hidden(x: Tensor, visible: Visible) -> Tensor:
    """`x (B, E, h, w)` with zeros in hidden positions."""
    return torch.where(visible.hidden, 0.0, x)


def sparse_group_norm(norm: nn.GroupNorm, x: Tensor, visible: Visible) -> Tensor:
    """GroupNorm by the mean and variance of visible positions, per image and group.

    Args:
        norm: with its weights.
        x: `(B, E, h, w)`, zero in hidden positions.
        visible: its visible positions; an image without one gets `norm`'s bias.

    Returns:
        `(B, E, h, w)`; what it holds in hidden positions means nothing, but depends on visible ones alone.
    """
    batch, width = x.shape[:2]
    values = widen(x)
    groups = values.reshape(batch, norm.num_groups, -1)
    counted = (visible.counted * (width // norm.num_groups)).clamp(min=1).to(values)[:, None]
    mean, variance = _moments(groups.sum(2), groups.square().sum(2), counted)
    scale = (variance + norm.eps).rsqrt()
    per_group = (1, norm.num_groups, width // norm.num_groups)
    slope = norm.weight.view(per_group) * scale[..., None]
    shift = norm.bias.view(per_group) - mean[..., None] * slope
    normed = values * slope.view(batch, width, 1, 1) + shift.view(batch, width, 1, 1)
    return normed.to(x.dtype)


def sparse_batch_norm(norm: nn.BatchNorm2d, x: Tensor, visible: Visible) -> Tensor:
    """BatchNorm whose statistics, also the running ones, are of visible positions.

    Args:
        norm: with its weights and running statistics, which a call in train mode moves; a batch without a visible
            position leaves them.
        x: `(B, E, h, w)`, zero in hidden positions.
        visible: its visible positions.

    Returns:
        `(B, E, h, w)`; for hidden positions as of `sparse_group_norm`.
    """
    if not norm.training:
        return norm(x)  # type: ignore[no-any-return]
    values = widen(x)
    sums = torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), visible.counted.sum().to(values)[None]])
    total, squares, counted = torch.split(sums, [x.shape[1], x.shape[1], 1])
    mean, variance = _moments(total, squares, counted.clamp(min=1))
    _track(norm, mean.detach(), variance.detach(), counted.detach())
    slope = norm.weight * (variance + norm.eps).rsqrt()
    shift = norm.bias - mean * slope
    return (values * slope[:, None, None] + shift[:, None, None]).to(x.dtype)


def _moments(total: Tensor, squares: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance from sums of values and of squares; zeros do not count, so hidden ones may be in."""
    mean = total / counted
    return mean, (squares / counted - mean.square()).clamp(min=0)


@torch.no_grad()
def _track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, counted: Tensor) -> None:
    """Moves the running statistics, with the unbiased variance, as BatchNorm does."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = (norm.momentum or 0.0) * (counted > 0)
    unbiased = variance * (counted / (counted - 1).clamp(min=1))
    norm.running_mean.lerp_(mean.to(norm.running_mean), share.to(norm.running_mean))
    norm.running_var.lerp_(unbiased.to(norm.running_var), share.to(norm.running_var))
