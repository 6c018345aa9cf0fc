"""The principal components of any values: where they vary most, with signs that are the same everywhere."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class PrincipalComponents(NamedTuple):
    """The directions of the largest variance.

    Attributes:
        mean: `(D,)`.
        axes: `(K, D)`, of length 1, in the order of their variance; the largest weight of each is positive.
        variances: `(D,)` along all directions, the largest first.
        scores: `(N, K)`, the values without their mean, along the axes.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    variances: NDArray[np.float64]
    scores: NDArray[np.float64]

    def spread(self, least: float) -> NDArray[np.float64]:
        """Factors `(K,)` by which 2.5 standard deviations to either side of the mean become -0.5 to 0.5.

        They are 0 for components whose deviation is `least` or less: these show nothing but rounding.
        """
        deviations = np.sqrt(self.variances[: len(self.axes)])
        return np.where(deviations > least, 1 / (5 * deviations.clip(least)), 0)


def find_components(values: NDArray[np.floating], count: int) -> PrincipalComponents:
    """The first `count` principal components of values `(N, D)`, D at least `count`, in float64."""
    mean = values.mean(0, dtype=np.float64)
    centred = values.astype(np.float64) - mean
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(centred))  # the smallest first
    axes = vectors.T[::-1][:count]
    axes = axes * np.sign(axes[np.arange(count), np.abs(axes).argmax(1)])[:, None]
    return PrincipalComponents(mean, axes, variances[::-1].clip(0), centred @ axes.T)
