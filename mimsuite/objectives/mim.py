"""Masked image modeling as a Lightning module: normalise, hide, predict, compare."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import MeanMetric

from mimsuite.masked.losses import error_of
from mimsuite.masked.normalization import Normalize
from mimsuite.metrics.psnr import HiddenPSNR
from mimsuite.models.composed import ForMaskedImageModeling
from mimsuite.objectives.objective import Objective
from mimsuite.objectives.optim import poison
from mimsuite.types import Batch


class MIMObjective(Objective):
    """Trains a masked image model; validation computes the same loss on fixed masks.

    Args:
        model: encoder and head.
        normalize: see `Objective`.
        loss: the error, one of `mimsuite.words.LOSSES`.
        around: the other arguments of `Objective`.
    """

    model: ForMaskedImageModeling

    def __init__(self, model: ForMaskedImageModeling, normalize: Normalize, *, loss: str, **around: Any) -> None:
        super().__init__(model, normalize, **around)
        error_of(loss)  # a wrong name speaks now
        self.loss = loss
        self.val_loss, self.val_psnr = MeanMetric(), HiddenPSNR()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The masked loss of a batch, a scalar."""
        assert batch.mask is not None
        pixels = self.normalize(batch.images)
        return poison(self.model.masked_loss(pixels, batch.mask, batch.hidden, self.loss))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the masked loss and, where the prediction is a picture, to the PSNR of hidden pixels."""
        assert batch.mask is not None
        pixels = self.normalize(batch.images)
        loss, prediction = self.model.predict(pixels, batch.mask, self.loss)
        self.val_loss.update(loss, weight=len(pixels))
        picture = self.model.target.picture(prediction, pixels, batch.mask, self.model.head_stride)
        if picture is not None:
            self.val_psnr.update(self.normalize.undo(picture), self.normalize.undo(pixels), batch.mask)

    def on_validation_epoch_end(self) -> None:
        """Publishes the figures of the pass."""
        figures = {"val/loss": float(self.val_loss.compute())}
        if self.model.target.mode != "orientations":
            figures["val/psnr"] = float(self.val_psnr.compute())
        self.val_loss.reset()
        self.val_psnr.reset()
        self.publish(figures)
