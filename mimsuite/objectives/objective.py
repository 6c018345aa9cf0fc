"""What all Lightning modules have in common: model, averaged weights, optimizer, schedule, and stateless seeds."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from mimsuite.data.hashing import mix_hashes
from mimsuite.masked.latent import PredictedFeatures
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.prediction import MaskedPrediction
from mimsuite.models.parts import blocks_of
from mimsuite.objectives.averaging import AveragedWeights
from mimsuite.objectives.clipping import clip_gradients
from mimsuite.objectives.compiling import CompiledBlocks
from mimsuite.objectives.master_weights import RoundedCopy
from mimsuite.objectives.skipping import StepGuard
from mimsuite.objectives.spreading import SpreadModel
from mimsuite.processors.center_crop import CenterCropImageProcessor
from mimsuite.types import Batch, Encoder
from mimsuite.words import LabelKind

log = logging.getLogger("mimsuite")


class Objective(LightningModule):
    """Trains a model by a loss that subclasses define; they may hold further networks.

    Callbacks use `encoder`, `evaluated_model`, `picture`, `last_metrics`, `selection_metric`, `loss_selects`,
    `grad_norm`, `skipped` and `overflowed`, and nothing else.

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
        master_weights: whether a copy of the model with weights in bfloat16 computes the gradients.

    Attributes:
        compiled: the compiled blocks; None where the model runs as it is.
        label_kind: what the labels are that the loss needs; None for a loss without labels.
        averaged: the averaged weights, in `averaged.module`; None without `ema`.
        rounded: the copy with weights in bfloat16, in `rounded.module`; None without `master_weights`.
        spread: where the weights are spread over processes (`trainer.strategy=fsdp`), what has them whole; else None.
        grad_norm: of the last step, before clipping; a scalar on the device.
        overflowed: whether the last step changed nothing because of the factor on the loss, which is halved then;
            with `precision=16-mixed`.
        last_metrics: those of the last validation.
        log_every: steps between log points of a trainer of one's own; None: a callback reports.
    """

    label_kind: LabelKind | None = None

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
        master_weights: bool = False,
    ) -> None:
        super().__init__()
        self.model: nn.Module
        self.model, self.normalize = model, normalize
        self.make_optimizer, self.groups, self.schedule, self.clip = optimizer, groups, schedule, clip
        self.seed, self.description = seed, description
        self.averaged = None if ema is None else AveragedWeights(model, ema)
        self.rounded = RoundedCopy(model) if master_weights else None
        self.spread: SpreadModel | None = None
        self.grad_norm: Tensor | None = None
        self.guard: StepGuard | None = None
        self.overflowed = False
        self.compiled: CompiledBlocks | None = None
        self._clipped: list[nn.Parameter] = []  # the optimizer's, in our order
        self._images = 0  # of the micro-batch in hand
        self._lost: Tensor | None = None  # whether a loss of this step was not finite
        self.last_metrics: dict[str, float] = {}
        self.log_every: int | None = None
        self._losses: list[Tensor] = []

    def compile_blocks(self, batch: int) -> None:
        """Compiles the blocks of the model, and the normalisation of training batches, for batches of `batch` images.

        Call it before a trainer runs.
        """
        blocks = blocks_of(*dict.fromkeys(self.networks))
        if not blocks:
            log.warning("trainer.compile=true has nothing to compile: the encoder has no method blocks()")
        self.compiled = CompiledBlocks([*blocks, self.normalize], batch)

    def configure_model(self) -> None:
        """Spreads the weights over processes, where a strategy of parallel models runs; Lightning calls it."""
        if self.device_mesh is None or self.spread is not None:
            return
        names = {parameter: name for name, parameter in self.named_parameters()}
        apart = (*(() if self.averaged is None else (self.averaged,)), *self.companions)
        models = (self.evaluated_model, *self.companions)
        self.spread = SpreadModel(self, models, apart, self.device_mesh["data_parallel"])
        now = dict(self.named_parameters())
        self.groups = [group | {"params": [now[names[p]] for p in group["params"]]} for group in self.groups]
        if self.compiled is not None:
            self.compiled.add(blocks_of(*self.spread.wholes))

    def phase(self, batch: Batch) -> contextlib.AbstractContextManager[Any]:
        """Where a training or validation step runs the model: compiled blocks are used here and nowhere else."""
        return contextlib.nullcontext() if self.compiled is None else self.compiled.phase(len(batch.images))

    @property
    def trained_model(self) -> nn.Module:
        """The model that computes the loss of a training step."""
        return self.model if self.rounded is None else self.rounded.module

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is validated, shown and saved: the averaged one where there is one.

        Of weights that are spread, a copy that has values while the run validates and after its end.
        """
        if self.spread is not None:
            return self.spread.wholes[0]
        return self.model if self.averaged is None else self.averaged.module

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What runs in training and validation, and is compiled."""
        return self.trained_model, self.evaluated_model

    @property
    def companions(self) -> tuple[nn.Module, ...]:
        """Networks beside the model that training and validation run, and nothing trains."""
        return ()

    @property
    def further_weights(self) -> Mapping[str, nn.Module]:
        """Models that a run writes beside its `weights/`, by their folder's name."""
        return {}

    @property
    def encoder(self) -> Encoder:
        """The encoder whose features are measured during the run."""
        return cast(Encoder, self.evaluated_model.encoder)

    @property
    def compares_images(self) -> bool:
        """Whether the loss compares the images of a batch, which must then come in one micro-batch per process."""
        return False

    def check_micro_batches(self, count: int) -> None:
        """Refuses a number of micro-batches of a step that the loss cannot do with."""

    @property
    def loss_selects(self) -> bool:
        """Whether a smaller loss in the same run tells of better weights; where not, the best online probe selects."""
        return True

    @property
    def paced(self) -> tuple[str, ...]:
        """What depends on the length of the run, in words; of a run that goes on for longer it is that of the new."""
        return ("the learning rate",)

    def skip_start(self) -> None:
        """Leaves out what only the first steps of a run do, of a module that is trained to be measured."""

    @property
    def selection_metric(self) -> str | None:
        """Which of `last_metrics` is largest for the best weights; None where no metric says so."""
        return None

    def picture(self, batch: Batch) -> MaskedPrediction | PredictedFeatures | None:
        """What the evaluated model predicts of a batch, to be drawn; None where there is nothing to draw."""
        return None

    def micro_seed(self, batch_idx: int, rank: int | None = None) -> int:
        """The seed of a micro-batch in a process (None: this one); without a trainer, of one of the first step."""
        if self._trainer is None:
            return mix_hashes(self.seed, 0, batch_idx, 0)
        micro = batch_idx % self.trainer.accumulate_grad_batches
        rank = self.trainer.global_rank if rank is None else rank
        return mix_hashes(self.seed, self.trainer.global_step, micro, rank)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds dropout and drop path of this micro-batch: they need no saved state and repeat after a resume."""
        self._images = len(batch.images)
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._guarded().begin()
        seed_generators(self.micro_seed(batch_idx), self.device)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Reports loss, norm and rate every `log_every` steps, where that is set: in a trainer without our monitor."""
        if self.log_every is None:
            return
        accumulated = self.trainer.accumulate_grad_batches
        self._losses.append(outputs["loss"].detach() * accumulated)  # Lightning divided it
        step = self.trainer.global_step
        if (batch_idx + 1) % accumulated == 0 and (step % self.log_every == 0 or step == self.trainer.max_steps):
            self.report_training(mean_loss(self.trainer, self._losses))
            self._losses = []

    def report_training(self, loss: float, **more: float) -> dict[str, float]:
        """Gives the metrics of a log point to the loggers and to callbacks, as `trainer.callback_metrics`.

        `self.log` does the same, and takes as long as several steps of a small model. Call it after a training batch.

        Args:
            loss: the mean since the last log point.
            more: further metrics, whose names may have a slash.

        Returns:
            All of them.
        """
        metrics = {"train/loss": loss, "optim/lr": self.trainer.optimizers[0].param_groups[0]["lr"], **more}
        metrics |= self.training_metrics()
        if self.grad_norm is not None:
            metrics["optim/grad_norm"] = float(self.grad_norm)
        self.give_to_loggers(metrics)
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        return metrics

    def training_metrics(self) -> dict[str, float]:
        """What a subclass reports at a log point beside loss and speed, by name; all processes ask at once."""
        return {}

    def on_validation_epoch_start(self) -> None:
        """Validates the same model in all processes."""
        self.share_model()

    def on_validation_end(self) -> None:
        """Gives memory back for training, after all callbacks."""
        if self.spread is not None:
            self.spread.release()

    def on_train_end(self) -> None:
        """The results of the run are written from the model that is evaluated."""
        if self.spread is not None:
            self.share_model()

    def share_model(self) -> None:
        """Gives all processes the model that is evaluated: the first one's buffers, and all weights.

        DDP does the former before a training step. All processes call it at once.
        """
        for buffer in self.buffers() if self.trainer.world_size > 1 else ():
            torch.distributed.broadcast(buffer, 0)
        if self.spread is not None:
            self.spread.gather()

    def report_metrics(self, metrics: dict[str, float]) -> None:
        """Gives the metrics of a validation, also of the one before the first step, to the loggers and `self.log`."""
        self.last_metrics = metrics
        self.give_to_loggers(metrics)
        self.log_dict(metrics, logger=False, sync_dist=True)  # they are equal in all processes

    def give_to_loggers(self, metrics: dict[str, float]) -> None:
        """Gives metrics to every logger under the number of steps done, which Lightning's own way would not."""
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, self.trainer.global_step)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the evaluated model and its image processor, as a run's `weights/`: a Hugging Face folder."""
        self.evaluated_model.save_pretrained(folder)  # type: ignore[operator]
        CenterCropImageProcessor.from_dict(self.description["preprocessor"]).save_pretrained(folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes a checkpoint enough to load the model from: adds its config and its preprocessing."""
        checkpoint["mimsuite"] = self.description

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One optimizer, one learning-rate factor per step."""
        optimizer = self.make_optimizer(self.groups)

        def factor(step: int) -> float:
            return self.schedule(step)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)  # it would save and restore an object's state
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Gives the first step the rate of this run's schedule, and its weights.

        The optimizer of a checkpoint has that of the schedule before, which is another where the run is longer now.
        """
        if self.rounded is not None:
            self.rounded.load()
        for config in self.trainer.lr_scheduler_configs:
            schedule = cast(torch.optim.lr_scheduler.LambdaLR, config.scheduler)
            factor = self.schedule(schedule.last_epoch)
            for group, base in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
                group["lr"] = base * factor

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clips the global gradient norm and keeps its value from before; where it is not finite, skips the update.

        The parameters are the optimizer's, in the order of `parameters()`, which decides the norm's last bits. In
        float16 the gradients are of a loss times a factor, which a fused optimizer would take out later; there the host
        asks in each step, as the scaler does.
        """
        if self.rounded is not None:
            self.rounded.give_gradients()
        scaler = self.loss_scaler
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        self.grad_norm = clip_gradients(self._parameters_of(optimizer), self.clip)
        self.overflowed = scaler is not None and self._overflowed(self.grad_norm, scaler)
        self._guarded().decide(self.grad_norm, optimizer, asks=scaler is not None, counts=not self.overflowed)
        self._lost = None

    def _parameters_of(self, optimizer: Any) -> list[nn.Parameter]:
        """Its parameters in the order of `parameters()`, which is looked up anew when it has others."""
        given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if given != {id(parameter) for parameter in self._clipped}:
            self._clipped = [parameter for parameter in self.parameters() if id(parameter) in given]
        return self._clipped

    @property
    def skipped(self) -> Tensor:
        """Whether the last step changed nothing, as loss or gradient was not finite: bool, a scalar on the device."""
        skipped = self._guarded().skipped
        assert skipped is not None
        return skipped

    def _guarded(self) -> StepGuard:
        """Made at its first use, when the module is on its device."""
        if self.guard is None:
            self.guard = StepGuard(self)
        return self.guard

    def _overflowed(self, norm: Tensor, scaler: torch.amp.GradScaler) -> bool:
        return not norm.isfinite() and scaler.get_scale() > 1 and self._loss_was_finite()

    @property
    def loss_scaler(self) -> torch.amp.GradScaler | None:
        """What keeps the factor on the loss with `precision=16-mixed`."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Computes gradients; blocks that are computed again for it are compiled where they were before."""
        with contextlib.nullcontext() if self.compiled is None else self.compiled.phase(self._images):
            super().backward(loss, *args, **kwargs)

    def on_before_backward(self, loss: Tensor) -> None:
        """Remembers for `overflowed` whether the loss of a micro-batch is finite; a number on the device."""
        if self.loss_scaler is None:
            return
        lost = loss.detach().isfinite().logical_not()
        self._lost = lost if self._lost is None else self._lost | lost

    def on_after_backward(self) -> None:
        """Sums gradients of micro-batches in float32; with several processes in bfloat16, as DDP averages their sum."""
        if self.rounded is not None and self.trainer.world_size == 1:
            self.rounded.give_gradients()

    def _loss_was_finite(self) -> bool:
        """Of this step, in all processes: each asks, because each skipped it."""
        assert self._lost is not None
        return not self.trainer.strategy.reduce(self._lost.float(), reduce_op="max")

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Takes the step and, unless it was skipped, moves the averaged weights: before callbacks may save them."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        skipped = self._guarded().finish()
        if self.rounded is not None:
            self.rounded.follow()
        if self.averaged is not None:
            self.averaged.update(self.model, skipped)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds what a model on a device draws from, as `torch.manual_seed` does.

    That one also notes a stack trace for each kind of device that is not in use, which takes longer than a small layer.
    """
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def mean_loss(trainer: Trainer, losses: list[Tensor]) -> float:
    """The mean of the losses of some micro-batches, over all processes."""
    return float(trainer.strategy.reduce(torch.stack(losses).float().mean(), reduce_op="mean"))
