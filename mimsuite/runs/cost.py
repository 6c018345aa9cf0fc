"""What training on one image costs, and how much of a device a run uses by that (MFU)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mimsuite.errors import cause_of
from mimsuite.models.device import Device
from mimsuite.runs.peak import Peak, find_peak

if TYPE_CHECKING:
    from mimsuite.data.datamodule import ImageData
    from mimsuite.data.labels import Label
    from mimsuite.objectives.objective import Objective

log = logging.getLogger("mimsuite")

BLANK: dict[str | None, Label] = {"classes": 0, "multilabel": (0,), "regression": 0.0}  # a label of each kind


@dataclass(frozen=True)
class Cost:
    """What training costs on a device.

    Attributes:
        flops: of one image, forward and backward pass.
        peak: what the device could do.
    """

    flops: float
    peak: Peak

    @property
    def most_images(self) -> float:
        """Images a second that the device could train at its peak."""
        return self.peak.flops / self.flops

    def describe(self) -> str:
        """In one line."""
        return (
            f"{format_flops(self.flops)}FLOP for an image, forward and backward; perf/mfu is the part of "
            f"{format_flops(self.peak.flops)}FLOP/s, {self.peak.source}"
        )


def find_cost(objective: Objective, data: ImageData, on: Device, precision: str) -> Cost | None:
    """What training costs; None, with a line that says why, for a module or head of a user's that cannot be counted.

    Args:
        objective: not attached to a trainer yet.
        data: its loaders.
        on: one device of the run.
        precision: Lightning's name.
    """
    from mimsuite.objectives.flops import training_flops

    try:
        flops = training_flops(objective, data.blank_for_cost(BLANK.get(objective.label_kind)))
    except Exception as error:  # code from outside may do with tensors without memory what it likes
        log.info("perf/mfu is not measured: the FLOPs of this model cannot be counted (%s)", cause_of(error))
        return None
    return Cost(flops, find_peak(on, precision)) if flops else None


def format_flops(value: float) -> str:
    """`1.23 G`, with the unit still to come."""
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e6:.3g} M"
