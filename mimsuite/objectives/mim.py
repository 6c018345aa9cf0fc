"""Masked image modeling as a Lightning module: normalise, hide, predict, compare."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from mimsuite.masked.latent import PredictedFeatures
from mimsuite.masked.losses import error_of
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.prediction import MaskedPrediction
from mimsuite.masked.quality import visible_mean
from mimsuite.metrics.psnr import HiddenPSNR, flat_loss
from mimsuite.metrics.quality import COLLAPSED, PATIENCE, CollapseAlarm, FeatureQuality
from mimsuite.metrics.running import MeanLoss
from mimsuite.models.composed import ForMaskedImageModeling
from mimsuite.objectives.clipping import poison_if_not_finite
from mimsuite.objectives.objective import Objective
from mimsuite.objectives.penalties import FeaturePenalties
from mimsuite.types import Batch

log = logging.getLogger("mimsuite")


class MIMObjective(Objective):
    """Trains a masked image model; validation computes the same loss on fixed masks.

    Args:
        model: encoder and head.
        normalize: see `Objective`.
        loss: name of the error, one of `mimsuite.words.LOSSES`.
        uniformity: weight of the penalty on features that are alike (`masked.quality.uniformity`); 0 for none.
        sigreg: weight of the penalty on features that are not normal (`masked.quality.sigreg`); 0 for none.
        fourier: weight of the error of the spectrum (`masked.losses.fourier_error`) in training; 0 for none.
        base: the other arguments of `Objective`.
    """

    model: ForMaskedImageModeling

    def __init__(
        self,
        model: ForMaskedImageModeling,
        normalize: Normalize,
        *,
        loss: str,
        uniformity: float = 0.0,
        sigreg: float = 0.0,
        fourier: float = 0.0,
        **base: Any,
    ) -> None:
        super().__init__(model, normalize, **base)
        error_of(loss)  # a wrong name is refused now
        self.loss, self.fourier, self.quality = loss, fourier, FeatureQuality()
        self.alarm = CollapseAlarm()
        self.penalties = FeaturePenalties(uniformity, sigreg)
        self.val_loss, self.val_psnr, self.val_flat = MeanLoss(), HiddenPSNR(), MeanLoss()
        self.flat: float | None = None

    @property
    def trained_model(self) -> ForMaskedImageModeling:
        """See `Objective`."""
        return cast(ForMaskedImageModeling, super().trained_model)

    @property
    def evaluated_model(self) -> ForMaskedImageModeling:
        """See `Objective`."""
        return cast(ForMaskedImageModeling, super().evaluated_model)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The masked loss of a batch, a scalar."""
        with self.phase(batch):
            loss, visible = self.loss_and_features(batch, self.normalize(batch.images))
        self.quality.add(visible)
        return poison_if_not_finite(self.penalties.added(loss, visible, self.micro_seed(batch_idx, rank=0)))

    def loss_and_features(self, batch: Batch, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The masked loss of a training batch, a scalar, and the mean feature of what each image shows, `(B, D)`.

        `pixels` are the batch's images, normalised.
        """
        assert batch.mask is not None
        loss, features = self.trained_model.masked_pass(pixels, batch.mask, batch.hidden, self.loss, self.fourier)
        return loss, visible_mean(features, batch.mask)

    @property
    def compares_images(self) -> bool:
        """See `Objective`."""
        return bool(self.penalties.named)

    def check_micro_batches(self, count: int) -> None:
        """Refuses penalties on a whole batch where it comes in parts."""
        self.penalties.check(count)

    def on_train_start(self) -> None:
        """Checks the number of micro-batches, which a trainer of one's own decides."""
        super().on_train_start()
        self.check_micro_batches(self.trainer.accumulate_grad_batches)

    def training_metrics(self) -> dict[str, float]:
        """Whether the features of different images differ; a line where they do not."""
        found = self.measured_quality()
        if found and self.alarm.rings(self.looks_collapsed(found)):
            signs = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
            log.warning(
                "features  all images have had nearly the same at %d log points in a row (%s now); the training "
                "collapses: use a lower lr%s or objective.uniformity=0.01, and judge it by `mimsuite probe`",
                *(PATIENCE, signs, self.against_collapse),
            )
        return found

    @property
    def against_collapse(self) -> str:
        """What else helps against a collapse, in words that begin with a comma."""
        return ""

    def measured_quality(self) -> dict[str, float]:
        """Metrics of the features since the last log point, by name; all processes ask at once."""
        return self.quality.read(self.mean_over_processes)

    def mean_over_processes(self, values: Tensor) -> Tensor:
        """The mean of metrics over the processes."""
        return cast(Tensor, self.trainer.strategy.reduce(values, reduce_op="mean"))

    def looks_collapsed(self, found: Mapping[str, float]) -> bool:
        """Whether all images look alike at a log point; they do to many fresh encoders, until the warm-up is over."""
        step = self.trainer.global_step
        return found["quality/cosine"] > COLLAPSED and self.schedule(step) >= self.schedule(step + 1)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the masked loss and, where the prediction is a picture, to the PSNR of hidden pixels."""
        assert batch.mask is not None
        model, pixels = self.evaluated_model, self.normalize(batch.images)
        with self.phase(batch):
            loss, prediction = model.predict(pixels, batch.mask, self.loss)
        self.val_loss.update(loss, weight=len(pixels))
        picture = model.target.picture(prediction, pixels, batch.mask, model.head_stride)
        if picture is not None:
            undo = self.normalize.undo
            self.val_psnr.update(undo(picture), undo(pixels), batch.mask, self.normalize.peak)
        if self.flat is None:
            flat = flat_loss(model.target, pixels, batch.mask, model.head_stride, self.loss)
            self.val_flat.update(flat, weight=len(pixels))

    def on_validation_epoch_end(self) -> None:
        """Reports the metrics of the pass; the loss of a flat colour is the same in every pass, and measured once."""
        metrics = {"val/loss": float(self.val_loss.compute())}
        if self.model.target.mode != "orientations":
            metrics["val/psnr"] = float(self.val_psnr.compute())
        if self.flat is None:
            self.flat = float(self.val_flat.compute())
            log.info(
                "flat      one colour per image has val/loss %.4f, the model has %.4f at step %d",
                *(self.flat, metrics["val/loss"], self.trainer.global_step),
            )
        metrics["val/loss_mean_colour"] = self.flat
        self.val_loss.reset()
        self.val_psnr.reset()
        self.report_metrics(metrics)

    def picture(self, batch: Batch) -> MaskedPrediction | PredictedFeatures:
        """What the evaluated model predicts of a batch with masks."""
        assert batch.mask is not None
        model = self.evaluated_model
        loss, prediction = model.predict(self.normalize(batch.images), batch.mask, self.loss)
        return MaskedPrediction(
            images=batch.images,
            mask=batch.mask,
            prediction=prediction,
            loss=loss,
            loss_name=self.loss,
            target=model.target,
            cell=model.head_stride,
            normalize=self.normalize,
        )
