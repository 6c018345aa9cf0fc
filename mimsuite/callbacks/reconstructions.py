"""Pictures during pretraining: the same validation images under the same masks, each time validation runs."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from mimsuite.loggers import WandbLogger
from mimsuite.pictures import reconstruction_sheet
from mimsuite.types import Batch


class Reconstructions(Callback):
    """Writes `pictures/step_000500.png` (original, masked, prediction, paste, error) after each validation.

    Args:
        images: how many of the first validation images stand on the sheet.
        folder: the run's `pictures/`.
    """

    def __init__(self, *, images: int, folder: Path) -> None:
        self.images, self.folder = images, folder
        self._batch: Batch | None = None
