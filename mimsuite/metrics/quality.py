"""Whether the features of different images still differ, at every log point of a run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mimsuite.masked.quality import deviation, mean_cosine

COLLAPSED = 0.99  # mean cosine above which all images look alike to the encoder
CONSTANT = 0.1  # deviation of a teacher's normalised features below which all images look alike to it
PATIENCE = 5  # log points in a row that say so before a run is warned of


class FeatureQuality:
    """Mean cosine and deviation of the features of the last micro-batch, computed only when they are read."""

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def add(self, features: Tensor) -> None:
        """Takes a micro-batch, `(B, D)`; one of a single image says nothing, nor does one that only counts FLOPs."""
        if len(features) > 1 and features.device.type != "meta":
            self._last = features.detach()

    def read(self, over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The metrics by name; none where nothing was added since the last call.

        Args:
            over_processes: the mean over them.
        """
        if self._last is None:
            return {}
        found = torch.stack([mean_cosine(self._last), deviation(self._last)])
        cosine, spread = over_processes(found).tolist()
        self._last = None
        return {"quality/cosine": cosine, "quality/deviation": spread}


class CollapseAlarm:
    """Counts log points at which all images look alike."""

    def __init__(self) -> None:
        self._alike = 0

    def rings(self, alike: bool) -> bool:
        """Takes a log point; True once, when they have been alike at some in a row."""
        self._alike = self._alike + 1 if alike else 0
        return self._alike == PATIENCE


def as_score(metric: str, value: float) -> float:
    """A metric of a probe as a number that is larger for better weights: good features have an alpha-ReQ near 1."""
    return -abs(value - 1) if metric == "quality/alpha_req" else value
