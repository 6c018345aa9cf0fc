"""Masked image modeling as a Lightning module: normalise, hide, predict, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import MeanMetric

from mimsuite.normalize import Normalize
from mimsuite.metrics import hidden_psnr
from mimsuite.patches import expand_mask
from mimsuite.types import Batch


class MIMObjective(LightningModule):
    """Trains a masked image model; validation computes the same loss on fixed masks.

    Args:
        model: encoder and decoder; offers `masked_loss(pixels, mask)` and the dense `model(pixels, mask)`.
        normalize: integer images `(B, C, H, W)` to normalised floats, on the device.
        optimizer: completes `torch.optim` with parameter groups.
        groups: the optimizer's parameter groups.
        schedule: factor on the learning rate for a step.
        clip: largest global gradient norm, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        normalize: Normalize,
        *,
        optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer],
        groups: list[dict[str, Any]],
        schedule: Callable[[int], float],
        clip: float | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.normalize = normalize
        self.optimizer_of, self.groups, self.schedule, self.clip = optimizer, groups, schedule, clip
        self.val_loss, self.val_psnr = MeanMetric(), MeanMetric()
        self.grad_norm: Tensor | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The masked loss of a batch, a scalar."""
        loss: Tensor = self.model.masked_loss(self.normalize(batch.images), batch.mask)  # type: ignore[operator]
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the masked loss and to the PSNR of hidden pixels."""
        assert batch.mask is not None
        pixels = self.normalize(batch.images)
        mask = expand_mask(batch.mask, self.model.encoder.mask_grid(pixels.shape[-2:]))  # type: ignore[union-attr,operator]
        out = self.model(pixels, mask)
        self.val_loss.update(out.loss.float(), weight=len(pixels))
        psnr = hidden_psnr(self.normalize.undo(out.reconstruction.float()), self.normalize.undo(pixels), mask)
        self.val_psnr.update(psnr)

    def on_validation_epoch_end(self) -> None:
        """Gives the pass's figures to the loggers."""
        self.log_dict({"val/loss": self.val_loss, "val/psnr": self.val_psnr})

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One optimizer, one learning-rate factor per step."""
        optimizer = self.optimizer_of(self.groups)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clips the global gradient norm and keeps its value from before."""
        limit = self.clip if self.clip is not None else float("inf")
        self.grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
