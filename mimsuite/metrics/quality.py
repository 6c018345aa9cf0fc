"""Whether the features of different images still differ: means over the batches between two log points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mimsuite.masked.quality import deviation, mean_cosine

COLLAPSED = 0.99  # mean cosine above which all images look alike to the encoder
PATIENCE = 5  # log points in a row that say so before a run is warned of


class FeatureQuality:
    """Mean cosine and deviation of the features of each micro-batch; nothing waits for the device until `read`."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = self._alike = 0

    @torch.no_grad()
    def add(self, features: Tensor) -> None:
        """Adds a micro-batch, `(B, D)`; one of a single image says nothing, nor does one that only counts FLOPs."""
        if len(features) > 1 and features.device.type != "meta":
            found = torch.stack([mean_cosine(features), deviation(features)])
            self._sum = found if self._sum is None else self._sum + found  # a list would grow where nobody reads
            self._count += 1

    def read(self, over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The metrics since the last call by name; none where nothing was added.

        Args:
            over_processes: the mean over them.
        """
        if self._sum is None:
            return {}
        cosine, spread = over_processes(self._sum / self._count).tolist()
        self._sum, self._count = None, 0
        self._alike = self._alike + 1 if cosine > COLLAPSED else 0
        return {"quality/cosine": cosine, "quality/deviation": spread}

    @property
    def collapsed(self) -> bool:
        """True once, when the features have been alike for some log points in a row."""
        return self._alike == PATIENCE
