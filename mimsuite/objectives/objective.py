"""What the two Lightning modules have in common: a model, its optimizer and schedule, and seeds that need no state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from mimsuite.data.hashing import mix
from mimsuite.masked.normalization import Normalize
from mimsuite.objectives.optim import clip_or_skip
from mimsuite.types import Batch


class Objective(LightningModule):
    """Trains a model by a loss that subclasses define.

    Args:
        model: what is trained.
        normalize: integer images `(B, C, H, W)` to normalised floats, on the device.
        optimizer: completes `torch.optim` with parameter groups.
        groups: the optimizer's parameter groups.
        schedule: factor on the learning rate for a step.
        clip: largest global gradient norm, or None.
        seed: of the run; what is random in the model is drawn from it, the step, the micro-batch and the rank.
        about: plain values that checkpoints carry beside the weights (`config`, `preprocessor`).

    Attributes:
        grad_norm: of the last step, before clipping.
        skipped: whether the last step changed nothing, as loss or gradient was not finite.
        last: the figures of the last validation.
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
        seed: int,
        about: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model, self.normalize = model, normalize
        self.optimizer_of, self.groups, self.schedule, self.clip = optimizer, groups, schedule, clip
        self.seed, self.about = seed, about
        self.grad_norm: Tensor | None = None
        self.skipped = False
        self.last: dict[str, float] = {}

    def micro_seed(self, batch_idx: int) -> int:
        """The seed of a micro-batch."""
        micro = batch_idx % self.trainer.accumulate_grad_batches
        return mix(self.seed, self.trainer.global_step, micro, self.trainer.global_rank)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds dropout and drop path of this micro-batch: they need no saved state and repeat after a resume."""
        torch.manual_seed(self.micro_seed(batch_idx))

    def publish(self, figures: dict[str, float]) -> None:
        """Gives the figures of a validation to the loggers, also of the one before the first step."""
        self.last = figures
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
