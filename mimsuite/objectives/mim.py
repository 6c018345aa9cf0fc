"""Masked image modeling as a Lightning module: normalise, hide, predict, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import MeanMetric

from mimsuite.data.hashing import mix
from mimsuite.losses import error_of, masked_error
from mimsuite.metrics import HiddenPSNR
from mimsuite.models.composed import ForMaskedImageModeling
from mimsuite.normalize import Normalize
from mimsuite.objectives.optim import clip_or_skip, poison
from mimsuite.patches import expand_mask
from mimsuite.types import Batch


class MIMObjective(LightningModule):
    """Trains a masked image model; validation computes the same loss on fixed masks.

    Args:
        model: encoder and head.
        loss: kind of the error, one of `mimsuite.losses.ERRORS`.
        normalize: integer images `(B, C, H, W)` to normalised floats, on the device.
        optimizer: completes `torch.optim` with parameter groups.
        groups: the optimizer's parameter groups.
        schedule: factor on the learning rate for a step.
        clip: largest global gradient norm, or None.
        seed: of the run; dropout and drop path are drawn from it, the step, the micro-batch and the rank.
        about: plain values that checkpoints carry beside the weights (`config`, `preprocessor`).
    """

    def __init__(
        self,
        model: ForMaskedImageModeling,
        normalize: Normalize,
        *,
        loss: str,
        optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer],
        groups: list[dict[str, Any]],
        schedule: Callable[[int], float],
        clip: float | None,
        seed: int,
        about: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self.normalize = normalize
        error_of(loss)  # a wrong name speaks now
        self.loss = loss
        self.optimizer_of, self.groups, self.schedule, self.clip = optimizer, groups, schedule, clip
        self.seed, self.about = seed, about
        self.val_loss, self.val_psnr = MeanMetric(), HiddenPSNR()
        self.grad_norm: Tensor | None = None
        self.skipped = False

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds dropout and drop path of this micro-batch: they need no saved state and repeat after a resume."""
        micro = batch_idx % self.trainer.accumulate_grad_batches
        torch.manual_seed(mix(self.seed, self.trainer.global_step, micro, self.trainer.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The masked loss of a batch, a scalar."""
        assert batch.mask is not None
        pixels = self.normalize(batch.images)
        return poison(self.model.masked_loss(pixels, batch.mask, batch.hidden, self.loss))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the masked loss and, where the prediction is a picture, to the PSNR of hidden pixels."""
        assert batch.mask is not None
        pixels = self.normalize(batch.images)
        loss, prediction = predict(self.model, pixels, batch.mask, self.loss)
        self.val_loss.update(loss, weight=len(pixels))
        picture = self.model.target.picture(prediction, pixels, batch.mask, self.model.head_stride)
        if picture is not None:
            self.val_psnr.update(self.normalize.undo(picture), self.normalize.undo(pixels), batch.mask)

    def on_validation_epoch_end(self) -> None:
        """Gives the figures of the pass to the loggers, also of the one before the first step."""
        figures = {"val/loss": float(self.val_loss.compute())}
        if self.model.target.mode != "orientations":
            figures["val/psnr"] = float(self.val_psnr.compute())
        self.val_loss.reset()
        self.val_psnr.reset()
        for logger in self.trainer.loggers:
            logger.log_metrics(figures, self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes a checkpoint enough to load the model from: adds its config and its preprocessing."""
        checkpoint["mimsuite"] = self.about

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One optimizer, one learning-rate factor per step."""
        optimizer = self.optimizer_of(self.groups)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clips the global gradient norm and keeps its value from before; where it is not finite, skips the update."""
        self.grad_norm, self.skipped = clip_or_skip(self.model.parameters(), self.clip)


def predict(model: ForMaskedImageModeling, pixels: Tensor, mask: Tensor, kind: str = "l1") -> tuple[Tensor, Tensor]:
    """The masked loss and the whole prediction, float32.

    Args:
        model: encoder and head.
        pixels: `(B, C, H, W)` normalised floats.
        mask: `(B, h, w)` bool, True = hidden, one cell per mask unit.
        kind: of the error, one of `mimsuite.losses.ERRORS`.

    Returns:
        A scalar, and the prediction in the places and channels of `model.target`.
    """
    down, across = model.encoder.mask_stride
    cells = expand_mask(mask, (pixels.shape[-2] // down, pixels.shape[-1] // across))
    predicted = model(pixels, cells).reconstruction
    target = model.target.dense(pixels, model.head_stride)
    return masked_error(predicted, target, mask, kind).float(), predicted.float()
