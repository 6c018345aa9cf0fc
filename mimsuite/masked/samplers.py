"""Which parts of an image are hidden: samplers with an exact count. True, or 1, means hidden."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mimsuite.config.instantiate import instantiate
from mimsuite.errors import InputError
from mimsuite.masked.geometry import hidden_units

Grid = tuple[int, int]


class MaskWithTargets(NamedTuple):
    """A mask that hides more than is to be predicted.

    Attributes:
        hidden: `(gh, gw)` bool, True = hidden from the encoder.
        targets: `(T, gh, gw)` bool, True = to be predicted; T targets, which may overlap, of what is hidden.
    """

    hidden: Tensor
    targets: Tensor


class MaskSampler(Protocol):
    """Draws the mask of one image; the same generator state gives the same mask."""

    def __call__(self, grid: Grid, generator: torch.Generator) -> Tensor | MaskWithTargets:
        """Returns a mask of `grid = (gh, gw)` units, bool, True = hidden: with its targets where they are not all."""
        ...


@runtime_checkable
class StepSampler(Protocol):
    """A `MaskSampler` that draws something once for all images of an optimizer step, such as the sizes of blocks."""

    def of_step(self, grid: Grid, generator: torch.Generator) -> MaskSampler:
        """Returns what draws the masks of the step; what they share is drawn from `generator`."""
        ...


def draw_hidden(sampler: MaskSampler, grid: Grid, generator: torch.Generator) -> Tensor:
    """What one mask hides, `(gh, gw)` bool, True = hidden, whatever it wants predicted."""
    drawn = sampler(grid, generator)
    return drawn.hidden if isinstance(drawn, MaskWithTargets) else drawn


def make_samplers(node: DictConfig, trusted: Collection[str], drops: bool) -> list[MaskSampler]:
    """What draws the masks: several for a list of ratios where hidden patches are dropped, else one.

    Args:
        node: the config of a mask, a choice of `conf/mask`; its `unit` is for the geometry alone.
        trusted: further targets that the node may name.
        drops: whether the encoder drops hidden patches; then all images of a batch hide the same number.
    """
    fields = OmegaConf.to_container(node, resolve=True)
    assert isinstance(fields, dict)
    fields.pop("unit", None)
    several = drops and isinstance(fields.get("ratio"), list)
    choices = [{"ratio": ratio} for ratio in fields["ratio"]] if several else [{}]
    return [instantiate(OmegaConf.create({"mask": fields | choice}).mask, trusted) for choice in choices]


def is_exact(sampler: MaskSampler) -> bool:
    """Whether a sampler hides exactly the share that its ratio says."""
    return isinstance(sampler, _Share)


def hidden_counts(samplers: Sequence[MaskSampler], grid: Grid, draws: int = 16) -> list[int]:
    """How many units each of some masks hides, of every sampler.

    Raises:
        InputError: what a sampler returns is not a mask of the grid.
    """
    counts = []
    for sampler in samplers:
        for seed in range(draws):
            mask = draw_hidden(sampler, grid, torch.Generator().manual_seed(seed))
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != grid:
                found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
                raise InputError(
                    f"mask: {type(sampler).__name__} returns {found} for the grid {grid}; return a bool tensor of that "
                    "shape, True where hidden"
                )
            counts.append(int(mask.sum()))
    return counts


def has_targets(sampler: MaskSampler, grid: Grid) -> bool:
    """Whether a sampler says what is to be predicted; then a batch's masks are cut to one number of visible units.

    Raises:
        InputError: targets that are empty, of another shape, or visible.
    """
    drawn = sampler(grid, torch.Generator().manual_seed(0))
    if not isinstance(drawn, MaskWithTargets):
        return False
    targets, name = drawn.targets, type(sampler).__name__
    if targets.dtype != torch.bool or targets.ndim != 3 or tuple(targets.shape[1:]) != grid or not len(targets):
        raise InputError(
            f"mask: {name} returns targets of {targets.dtype} {tuple(targets.shape)} for the grid {grid}; return bool "
            f"of (T, {grid[0]}, {grid[1]}), True where to be predicted"
        )
    if not targets.flatten(1).any(1).all() or (targets & ~drawn.hidden).any():
        raise InputError(f"mask: {name} returns targets that are empty or visible; hide what is to be predicted")
    return True


def keep_some(units: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A random choice of `count` of the True units, `(gh, gw)` bool; draws nothing where there are no more."""
    places = units.flatten().nonzero().flatten()
    if len(places) == count:
        return units
    kept = torch.zeros_like(units)
    kept.view(-1)[places[torch.randperm(len(places), generator=generator)[:count]]] = True
    return kept


def check_masks(samplers: Sequence[MaskSampler], grid: Grid, *, drops: bool) -> None:
    """Checks what samplers of a user's own draw.

    Args:
        samplers: what draws the masks.
        grid: `(h, w)` units.
        drops: whether the encoder drops hidden patches.

    Raises:
        InputError: masks that hide nothing, or, where patches are dropped, all or not the same number each time;
            targets that cannot be predicted.
    """
    for sampler in samplers:
        counts, units = hidden_counts([sampler], grid), grid[0] * grid[1]
        name = type(sampler).__name__
        if not any(counts):
            raise InputError(f"mask: {name} hides nothing, so there is nothing to predict; use mask=random")
        cut = has_targets(sampler, grid)
        if drops and (max(counts) == units or (len(set(counts)) > 1 and not cut)):
            raise InputError(
                f"mask: {name} hides {min(counts)} to {max(counts)} of {units} units; where hidden patches are dropped "
                "(objective=mae) all masks must hide the same number, and leave one to see"
            )


class NoMask:
    """Hides nothing."""

    def __call__(self, grid: Grid, generator: torch.Generator) -> Tensor:
        """Returns a mask of `grid = (gh, gw)` units, bool, all False."""
        return torch.zeros(grid, dtype=torch.bool)


class _Share:
    """The count of all samplers: see `mimsuite.masked.geometry.hidden_units`."""

    def __init__(self, ratio: float | Sequence[float]) -> None:
        """Takes the share of units to hide, in (0, 1], or a range `[low, high]` of which every mask draws its own.

        Raises:
            InputError: `ratio` is out of range.
        """
        given = list(ratio) if isinstance(ratio, Sequence) else [ratio, ratio]
        if len(given) != 2 or not 0 < given[0] <= given[1] <= 1:
            raise InputError(
                f"mask.ratio={ratio} is not in (0, 1], nor a range [low,high] in it; SimMIM uses mask.ratio=0.6"
            )
        self.low, self.high = float(given[0]), float(given[1])

    def count(self, units: int, generator: torch.Generator) -> int:
        """How many of `units` this mask hides; draws a number only if there is a choice."""
        if self.low == self.high:
            return hidden_units(units, self.low)
        return hidden_units(units, self.low + (self.high - self.low) * _uniform(generator))


class RandomMask(_Share):
    """Hides `ceil(T * ratio)` of T units, all choices equally likely (Xie et al. 2022, section 3.2)."""

    def __call__(self, grid: Grid, generator: torch.Generator) -> Tensor:
        """Returns a mask of `grid = (gh, gw)` units, bool, True = hidden."""
        units = grid[0] * grid[1]
        mask = torch.zeros(units, dtype=torch.bool)
        hidden = self.count(units, generator)
        mask[torch.randperm(units, generator=generator)[:hidden]] = True
        return mask.view(grid)


class BlockMask(_Share):
    """Hides rectangles until the count is reached (BEiT, Bao et al. 2022, algorithm 1).

    Each has an area between `least` of the image and what is still to be hidden, and an aspect ratio between `aspect`
    and its inverse, equally likely on a log scale. Of the last rectangle so many units stay visible that the count is
    exact, which in the paper it is not.
    """

    def __init__(self, ratio: float | Sequence[float], least: float = 0.08, aspect: float = 0.3) -> None:
        """Takes the shares of the image to hide and of the smallest rectangle, and the flattest height / width.

        Raises:
            InputError: a value is out of range.
        """
        super().__init__(ratio)
        if not 0 <= least <= 1 or not 0 < aspect <= 1:
            raise InputError(
                f"mask.least={least}, mask.aspect={aspect}: both must be in (0, 1]; BEiT uses 0.08 and 0.3"
            )
        self.least, self.aspect = float(least), float(aspect)

    def __call__(self, grid: Grid, generator: torch.Generator) -> Tensor:
        """Returns a mask of `grid = (gh, gw)` units, bool, True = hidden."""
        mask = torch.zeros(grid, dtype=torch.bool)
        missing = self.count(mask.numel(), generator)
        while missing:
            height, width = self._sides(grid, missing, generator)
            top, left = (_below(side - part + 1, generator) for side, part in zip(grid, (height, width), strict=True))
            block = torch.zeros_like(mask)
            block[top : top + height, left : left + width] = True
            new = (block & ~mask).flatten().nonzero().flatten()[:missing]
            mask.view(-1)[new] = True
            missing -= len(new)
        return mask

    def _sides(self, grid: Grid, missing: int, generator: torch.Generator) -> Grid:
        low = min(math.ceil(self.least * grid[0] * grid[1]), missing)
        area = low + (missing - low) * _uniform(generator)
        ratio = math.exp(math.log(self.aspect) * (1 - 2 * _uniform(generator)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        return min(max(height, 1), grid[0]), min(max(width, 1), grid[1])


class InverseBlockMask(_Share):
    """Hides all but one rectangle, which may wrap around the borders of the image.

    The inverse block masking of CAPI (Darcet et al. 2025): every place is visible equally often, and what is hidden is
    large. The rectangle's last row is cut so that the count is exact.
    """

    def __init__(self, ratio: float | Sequence[float], aspect: float = 0.5) -> None:
        """Takes the share to hide and the flattest height / width of the visible rectangle.

        Raises:
            InputError: a value is out of range.
        """
        super().__init__(ratio)
        if not 0 < aspect <= 1:
            raise InputError(f"mask.aspect={aspect} is not in (0, 1]; CAPI uses 0.5")
        self.aspect = float(aspect)

    def __call__(self, grid: Grid, generator: torch.Generator) -> Tensor:
        """Returns a mask of `grid = (gh, gw)` units, bool, True = hidden."""
        (rows, columns), units = grid, grid[0] * grid[1]
        visible = units - self.count(units, generator)
        ratio = math.exp(math.log(self.aspect) * (1 - 2 * _uniform(generator)))
        height = min(max(round(math.sqrt(visible * ratio)), -(-visible // columns)), rows)
        width = -(-visible // height) if height else 0
        mask = torch.ones(units, dtype=torch.bool)
        block = torch.arange(units).view(grid)[:height, :width].flatten()[:visible]
        mask[block] = False
        offsets = (_below(rows, generator), _below(columns, generator))
        return mask.view(grid).roll(offsets, (0, 1))


class GridMask(_Share):
    """Hides units so that the visible ones are as far apart as possible; only the start of the grid is random.

    With a ratio of 0.75 one unit of each square of four is visible (the grid-wise masks of MAE, He et al. 2022, figure
    6). Other ratios take the units in the order of a Bayer matrix (1973).
    """

    def __call__(self, grid: Grid, generator: torch.Generator) -> Tensor:
        """Returns a mask of `grid = (gh, gw)` units, bool, True = hidden."""
        rows, columns = (torch.arange(side) for side in grid)
        rank = _bayer(rows[:, None], columns[None, :], max(grid))
        offsets = (_below(grid[0], generator), _below(grid[1], generator))
        mask = torch.ones(rank.numel(), dtype=torch.bool)
        visible = len(mask) - self.count(len(mask), generator)
        mask[rank.flatten().argsort(stable=True)[:visible]] = False
        return mask.view(grid).roll(offsets, (0, 1))


def _bayer(row: Tensor, column: Tensor, side: int) -> Tensor:
    """Place of a cell in the order of a Bayer matrix of at least `side`: the lowest bits of its numbers count most."""
    rank, bits = torch.zeros(1, dtype=torch.int64), max(1, (side - 1).bit_length())
    for bit in range(bits):
        r, c = (row >> bit) & 1, (column >> bit) & 1
        rank = rank * 4 + 2 * (r ^ c) + r
    return rank


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


class MaskGenerator:
    """SimMIM's mask generator: units of `mask_patch_size` pixels, given on the grid of model patches.

    Attributes:
        grid: (gh, gw), model patches per axis.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int] = 192,
        mask_patch_size: int = 32,
        model_patch_size: int = 4,
        mask_ratio: float = 0.6,
    ) -> None:
        """Takes the image side, or (height, width), and the sides of mask units and model patches, in pixels.

        Raises:
            InputError: the image does not consist of whole units, or a unit of whole patches, or the ratio is not in
                (0, 1].
        """
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        m, p = mask_patch_size, model_patch_size
        if m < 1 or height < 1 or width < 1 or height % m or width % m:
            raise InputError(
                f"input_size {height}x{width} is not a multiple of mask_patch_size {m}; change one of them"
            )
        if p < 1 or m % p:
            raise InputError(f"mask_patch_size {m} is not a multiple of model_patch_size {p}; change one of them")
        self._sampler = RandomMask(mask_ratio)
        self._units, self._repeat = (height // m, width // m), m // p
        self.grid = (height // p, width // p)

    def __call__(self, generator: torch.Generator, flat: bool = False) -> Tensor:
        """Returns the mask of one image, `(gh, gw)` or flat `(gh * gw,)` int64, 1 = hidden."""
        mask = self._sampler(self._units, generator).long()
        mask = mask.repeat_interleave(self._repeat, dim=0).repeat_interleave(self._repeat, dim=1)
        return mask.flatten() if flat else mask
