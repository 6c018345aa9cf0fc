"""Whether the features of different images differ, and the penalties where they do not."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mimsuite.masked.losses import widen
from mimsuite.types import FeatureMap

KNOTS, FARTHEST = 17, 3.0  # of the characteristic function, as in LeJEPA's published code


def visible_mean(features: FeatureMap, mask: Tensor) -> Tensor:
    """The mean feature of what is visible in each image; cells that are partly hidden count for the visible part.

    Args:
        features: of the masked images.
        mask: `(B, gh, gw)` bool, True = hidden.

    Returns:
        `(B, D)`, in float32 or wider.
    """
    visible = F.interpolate((~mask)[:, None].float(), size=features.grid.shape[-2:], mode="area")
    total: Tensor = (widen(features.grid) * visible).sum((2, 3))
    return total / visible.sum((2, 3)).clamp(min=1e-6)


def mean_cosine(features: Tensor) -> Tensor:
    """The mean cosine between the features of two images; 1 where all are alike.

    Args:
        features: `(B, D)`, B at least 2.
    """
    z = F.normalize(widen(features), dim=1)
    count = len(z)
    others: Tensor = z.sum(0).square().sum() - z.square().sum()
    return others / (count * (count - 1))


def deviation(features: Tensor) -> Tensor:
    """The deviation of normalised features over the images, times the square root of their length.

    About 1 where they point everywhere, 0 where all are alike (Chen & He 2021, section 4.1).

    Args:
        features: `(B, D)`.
    """
    z = F.normalize(widen(features), dim=1)
    spread: Tensor = z.std(0, unbiased=False).mean()
    return spread * math.sqrt(z.shape[1])


class ImageSums:
    """Whether vectors of images differ, from sums over any number of batches; nothing waits for the device.

    Attributes:
        count: images so far.
        total: the sum of their vectors, `(n,)`.
        squares: the sum of the squares, `(n,)`.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor = torch.zeros(())
        self.squares: Tensor = torch.zeros(())

    def add(self, vectors: Tensor) -> None:
        """Adds a batch of vectors `(B, n)`, whose length is about 1."""
        wide = widen(vectors.detach())
        total, squares = wide.sum(0), wide.square().sum(0)
        first = not self.count
        self.total, self.squares = (total, squares) if first else (self.total + total, self.squares + squares)
        self.count += len(vectors)

    def merge(self, other: ImageSums) -> None:
        """Adds what another one has seen."""
        if other.count:
            first = not self.count
            self.total = other.total if first else self.total + other.total
            self.squares = other.squares if first else self.squares + other.squares
            self.count += other.count

    def to(self, device: str) -> None:
        """Moves the sums to another device."""
        self.total, self.squares = self.total.to(device), self.squares.to(device)

    def read(self) -> Tensor:
        """`mean_cosine` and `deviation` of at least two vectors, `(2,)`.

        The deviation is not divided by the lengths: it is 0 also where all vectors have become nothing.
        """
        energy = self.squares.sum()
        cosine = (self.total.square().sum() - energy) / (energy * (self.count - 1)).clamp(min=1e-12)
        variance = (self.squares / self.count - (self.total / self.count).square()).clamp(min=0)
        return torch.stack([cosine, variance.sqrt().mean() * math.sqrt(len(variance))])


def as_unit(grid: Tensor) -> Tensor:
    """A map `(B, C, h, w)` of normalised cells as vectors of a length of about 1, `(B, C * h * w)`.

    Their cosine is the mean over the cells of that between two images in the same place.
    """
    flat = grid.flatten(1)
    return flat / math.sqrt(flat.shape[1])


def uniformity(features: Tensor) -> Tensor:
    """The mean squared cosine between two images (U-MAE, Zhang et al. 2022, equation 8, as its published code has it).

    Args:
        features: `(B, D)`, B at least 2.
    """
    z = F.normalize(widen(features), dim=1)
    count, similar = len(z), z @ z.T
    others: Tensor = similar.square().sum() - similar.diagonal().square().sum()
    return others / (count * (count - 1))


def sigreg(features: Tensor, directions: Tensor) -> Tensor:
    """How far features are from a normal distribution along some directions (LeJEPA, Balestriero & LeCun 2025).

    The statistic of Epps and Pulley: the squared distance of the empirical characteristic function to that of the
    normal distribution, weighted by the latter, times the number of images.

    Args:
        features: `(B, D)`.
        directions: `(D, K)`, of length 1.
    """
    knots = torch.linspace(0, FARTHEST, KNOTS, device=features.device)
    wanted = (-knots.square() / 2).exp()
    weights = torch.full_like(knots, 2 * FARTHEST / (KNOTS - 1))
    weights[0] = weights[-1] = FARTHEST / (KNOTS - 1)
    points = widen(features)
    angles = (points @ directions.to(points)).unsqueeze(-1) * knots
    error = (angles.cos().mean(0) - wanted).square() + angles.sin().mean(0).square()
    return ((error * wanted * weights).sum(-1) * len(features)).mean()


def draw_directions(width: int, count: int, seed: int, device: torch.device) -> Tensor:
    """Random directions, `(width, count)` float32 of length 1; the same for the same seed in every process.

    They are drawn on the host; nobody waits for the copy to a GPU.
    """
    drawn = F.normalize(torch.randn(width, count, generator=torch.Generator().manual_seed(seed)), dim=0)
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn.to(device)
