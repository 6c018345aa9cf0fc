"""What all Lightning modules have in common: model, averaged weights, optimizer, schedule, and stateless seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from mimsuite.data.hashing import mix_hashes
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.prediction import MaskedPrediction
from mimsuite.objectives.averaging import average_weights
from mimsuite.objectives.clipping import clip_or_skip
from mimsuite.types import Batch, Encoder


class Objective(LightningModule):
    """Trains a model by a loss that subclasses define; they may hold further networks.

    Callbacks use `encoder`, `evaluated_model`, `picture`, `last_metrics`, `selection_metric`, `grad_norm` and
    `skipped`, and nothing else.

    Args:
        model: what is trained.
        normalize: integer images `(B, C, H, W)` to normalised floats, on the device.
        optimizer: makes the optimizer from parameter groups.
        groups: the optimizer's parameter groups.
        schedule: factor on the learning rate for a step.
        clip: largest global gradient norm, or None.
        seed: of the run; what is random in the model is drawn from it, the step, the micro-batch and the rank.
        description: plain values that checkpoints carry beside the weights (`config`, `preprocessor`).
        ema: decay per step of an exponential moving average of the weights, less in the first steps; None for none.

    Attributes:
        averaged: the averaged weights, in `averaged.module`; None without `ema`.
        grad_norm: of the last step, before clipping.
        skipped: whether the last step changed nothing, as loss or gradient was not finite.
        last_metrics: those of the last validation.
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
        description: dict[str, Any],
        ema: float | None = None,
    ) -> None:
        super().__init__()
        self.model: nn.Module
        self.model, self.normalize = model, normalize
        self.make_optimizer, self.groups, self.schedule, self.clip = optimizer, groups, schedule, clip
        self.seed, self.description = seed, description
        self.averaged = None if ema is None else average_weights(model, ema)
        self.grad_norm: Tensor | None = None
        self.skipped = False
        self.last_metrics: dict[str, float] = {}

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is validated, shown and saved: the averaged one where there is one."""
        return self.model if self.averaged is None else self.averaged.module

    @property
    def encoder(self) -> Encoder:
        """The encoder whose features are measured during the run."""
        return cast(Encoder, self.evaluated_model.encoder)

    @property
    def selection_metric(self) -> str | None:
        """Which of `last_metrics` is largest for the best weights; None where no metric says so."""
        return None

    def picture(self, batch: Batch) -> MaskedPrediction | None:
        """What the evaluated model predicts of a batch, to be drawn; None where there is nothing to draw."""
        return None

    def micro_seed(self, batch_idx: int) -> int:
        """The seed of a micro-batch."""
        micro = batch_idx % self.trainer.accumulate_grad_batches
        return mix_hashes(self.seed, self.trainer.global_step, micro, self.trainer.global_rank)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds dropout and drop path of this micro-batch: they need no saved state and repeat after a resume."""
        torch.manual_seed(self.micro_seed(batch_idx))

    def report_metrics(self, metrics: dict[str, float]) -> None:
        """Gives the metrics of a validation to the loggers, also of the one before the first step."""
        self.last_metrics = metrics
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes a checkpoint enough to load the model from: adds its config and its preprocessing."""
        checkpoint["mimsuite"] = self.description

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One optimizer, one learning-rate factor per step."""
        optimizer = self.make_optimizer(self.groups)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clips the global gradient norm and keeps its value from before; where it is not finite, skips the update.

        The parameters are the optimizer's, in the order of `parameters()`, which decides the norm's last bits.
        """
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        parameters = (parameter for parameter in self.parameters() if id(parameter) in trained)
        self.grad_norm, self.skipped = clip_or_skip(parameters, self.clip)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Takes the step and, unless it was skipped, moves the averaged weights: before callbacks may save them."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.averaged is not None and not self.skipped:
            self.averaged.update_parameters(self.model)
