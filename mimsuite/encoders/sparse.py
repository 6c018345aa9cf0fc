"""Sparse maps: hidden positions are zero and count in no statistic (SparK, Tian et al. 2023, section 3.1)."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

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


@runtime_checkable
class SumsOverProcesses(Protocol):
    """A BatchNorm whose statistics are those of several processes."""

    def summed(self, sums: Tensor) -> Tensor:
        """The sum over the processes of what each gives, `(K,)`, with gradient."""
        ...


def zero_hidden(x: Tensor, visible: Visible) -> Tensor:
    """`x (B, E, h, w)` with zeros in hidden positions.

    A product, because `where` takes four times as long on a CPU. It may be one: hidden pixels themselves were replaced
    before the first convolution, and what is hidden in later maps is made of visible pixels, so it is finite where they
    are.
    """
    return x * ~visible.hidden


def sparse_group_norm(norm: nn.GroupNorm, x: Tensor, visible: Visible) -> Tensor:
    """GroupNorm by the mean and variance of visible positions, per image and group.

    Args:
        norm: with its weights.
        x: `(B, E, h, w)`, zero in hidden positions.
        visible: its visible positions; an image without one gets `norm`'s bias.

    Returns:
        `(B, E, h, w)`; what it holds in hidden positions means nothing, but depends on visible ones alone.
    """
    counted = (visible.counted * (x.shape[1] // norm.num_groups)).clamp(min=1)[:, None]
    given = (x, norm.weight, norm.bias, counted, norm.num_groups, norm.eps)
    if torch.compiler.is_compiling():  # which has derivatives of its own
        return _group_norm(*given)[0]
    normed: Tensor = _GroupNorm.apply(*given)  # type: ignore[no-untyped-call]
    return normed


def _group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, counted: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """GroupNorm by sums over a map of which `counted (B, 1)` values per group count; mean, scale, count of groups."""
    values = widen(x)
    counted, flat = counted.to(values), values.reshape(len(x), groups, -1)
    mean, variance = _moments(flat.sum(2), torch.linalg.vector_norm(flat, dim=2).square(), counted)
    scale = (variance + eps).rsqrt()
    slope = weight * _per_channel(scale, x.shape[1])
    shift = bias - _per_channel(mean, x.shape[1]) * slope
    return (values * slope[..., None, None]).add_(shift[..., None, None]).to(x.dtype), mean, scale, counted


class _GroupNorm(torch.autograd.Function):
    """`_group_norm` with a derivative that takes half of the time of the one that torch finds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *given: Any) -> Tensor:
        normed, *kept = _group_norm(x, weight, *given)
        ctx.save_for_backward(x, weight, *kept)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, counted = ctx.saved_tensors
        width, values, grown = x.shape[1], widen(x), widen(gradient)
        along, total = (grown * values).sum((2, 3)), grown.sum((2, 3))  # (B, E)
        means, scales = _per_channel(mean, width), _per_channel(scale, width)
        of_weight = ((along - total * means) * scales).sum(0)
        grouped = (len(x), mean.shape[1], -1)
        along, whole = ((part * weight).reshape(grouped).sum(2) for part in (along, total))  # (B, groups)
        curve = (whole * mean - along) * scale**3 / counted
        level = -curve * mean - whole * scale / counted
        found = values * _per_channel(curve, width)[..., None, None]
        found.add_(_per_channel(level, width)[..., None, None])
        found.add_(grown * (weight * scales)[..., None, None])
        return found.to(x.dtype), of_weight.to(weight.dtype), total.sum(0).to(weight.dtype), None, None, None


def _per_channel(values: Tensor, width: int) -> Tensor:
    """Values of groups `(B, groups)` for each of their channels, `(B, width)`."""
    return values.repeat_interleave(width // values.shape[1], 1)


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
    sums = norm.summed(sums) if isinstance(norm, SumsOverProcesses) else sums
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
