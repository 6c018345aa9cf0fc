"""What the spectrum of features says of them, without labels: RankMe and alpha-ReQ."""

from __future__ import annotations

import torch
from torch import Tensor

from mimsuite.errors import InputError

EPSILON = 1e-7
FIRST, LAST = 4, 100  # ranks of the eigenvalues that alpha-ReQ is fitted to
FEWEST = 4  # points of a line


def rankme(x: Tensor) -> float:
    """The effective rank of features: exp of the entropy of their normalised singular values.

    Garrido et al. 2023, "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by
    Their Rank", section 3, with their epsilon of 1e-7. As there, the features are not centred.

    Args:
        x: `(N, D)` features of any float type; computed in float64. It can be no more than N, and settles only where N
            is several times D (the paper uses 25,600 images): compare values of equal N only.

    Returns:
        1 (all features on one line) to min(N, D) (no direction stronger than another), up to about 0.1 %.

    Raises:
        InputError: not a matrix with rows and columns.
    """
    values = _singular_values(x)
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + EPSILON
    return float((-(share * share.log()).sum()).exp())


def alpha_req(x: Tensor) -> float:
    """How fast the eigenvalues of the features' covariance fall: the exponent a of lambda_i ~ i^-a.

    Agrawal et al. 2022, "alpha-ReQ: Assessing Representation Quality in Self-Supervised Learning by measuring
    eigenspectrum decay": good features have an exponent near 1. The paper states no range; as in its authors' code,
    the line of log lambda over log i is fitted to the ranks i = 4 to 100, each weighted by 1 / i. Where there are fewer
    dimensions or images, it ends at half of min(D, N - 1): the tail holds rounding, noise of the sample and what a
    final norm takes away.

    Args:
        x: `(N, D)` features of any float type; computed in float64 and centred. D is at least 14; N should be ten times
            the last rank, for the tail of a smaller sample falls too fast.

    Returns:
        The exponent: 0 for equal eigenvalues, larger the faster they fall.

    Raises:
        InputError: too few images or dimensions, or features that span too few directions.
    """
    if x.ndim != 2 or (last := min(LAST, min(x.shape[1], x.shape[0] - 1) // 2)) < FIRST + FEWEST - 1:
        raise InputError(f"alpha-ReQ of features of shape {tuple(x.shape)}: it needs 15 images and 14 dimensions")
    wide = x.double()
    values = _singular_values(wide - wide.mean(0)).square()
    if not values[last - 1] > values[0] * torch.finfo(values.dtype).eps ** 2:
        raise InputError(f"alpha-ReQ of features that span fewer than {last} directions: there is no line to fit")
    rank = torch.arange(FIRST, last + 1, dtype=values.dtype)
    weight, across, up = 1 / rank, rank.log(), values[FIRST - 1 : last].log()
    across = across - (weight * across).sum() / weight.sum()
    return float(-(weight * across * up).sum() / (weight * across.square()).sum())


def _singular_values(x: Tensor) -> Tensor:
    """Returns the min(N, D) singular values of `x (N, D)`, falling, float64."""
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(f"features are of shape {tuple(x.shape)}; give one row per image, (N, D)")
    wide = x.double()
    triangle = torch.linalg.qr(wide, mode="r").R if len(wide) > wide.shape[1] else wide  # the same values, sooner
    values: Tensor = torch.linalg.svdvals(triangle)
    return values
