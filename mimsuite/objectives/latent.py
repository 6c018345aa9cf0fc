"""Latent targets: the student predicts, where it sees nothing, what a teacher sees there.

One objective for data2vec 2.0 (Baevski et al. 2023), I-JEPA (Assran et al. 2023), several layers of a teacher (Bootleg,
2026) and distillation from a frozen encoder (as EVA, Fang et al. 2023).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from mimsuite.errors import InputError
from mimsuite.masked.latent import PredictedFeatures, latent_error, take_cells
from mimsuite.masked.losses import masked_error_patches
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.quality import ImageSums, visible_mean
from mimsuite.metrics.latent import LatentMetrics
from mimsuite.metrics.quality import CONSTANT
from mimsuite.models.composed import ForMaskedImageModeling
from mimsuite.models.latent import LatentPass, latent_pass
from mimsuite.objectives.mim import MIMObjective
from mimsuite.objectives.taught import TaughtModel
from mimsuite.objectives.teacher import Teacher
from mimsuite.types import Batch

log = logging.getLogger("mimsuite")

TEACHER_MARK = "teacher_mark"  # in a checkpoint


class LatentObjective(MIMObjective):
    """Trains a model that predicts the features of a teacher; validation computes the same loss on fixed masks.

    A batch has V masks of each image, in the order mask, image; the views share one pass of the teacher.

    Args:
        model: encoder and predictor.
        normalize: see `Objective`.
        teacher: gives the targets.
        kept: the share of itself that the teacher keeps after a step, counted from 0; unused for a frozen one.
        loss: name of the error, one of `mimsuite.words.LOSSES`.
        beta: of "smooth_l1": where it turns from a square to a line.
        pixels: weight of the loss of pixels beside that of features; 0 for none.
        warm_steps: first steps that predict pixels alone.
        base: the other arguments of `MIMObjective`.
    """

    def __init__(
        self,
        model: ForMaskedImageModeling,
        normalize: Normalize,
        *,
        teacher: Teacher,
        kept: Callable[[int], float],
        loss: str,
        beta: float = 2.0,
        pixels: float = 0.0,
        warm_steps: int = 0,
        **base: Any,
    ) -> None:
        super().__init__(model, normalize, loss=loss, **base)
        self.teacher, self.kept, self.beta = teacher, kept, beta
        self.pixels, self.warm_steps, self.teacher_sums = pixels, warm_steps, ImageSums()
        assert model.config.mim_predictor is not None
        features = int(model.config.mim_predictor["features"])
        self.val = LatentMetrics(features, features // teacher.stacked, loss, beta)

    @property
    def loss_selects(self) -> bool:
        """It does not: the loss compares with a teacher that moves, and may rise while features get better."""
        return False

    @property
    def paced(self) -> tuple[str, ...]:
        """See `Objective`."""
        momentum = () if self.teacher.frozen else ("the teacher's momentum",)
        warm = (f"the warm start on pixels (up to step {self.warm_steps})",) if self.warm_steps else ()
        return (*super().paced, *momentum, *warm)

    def skip_start(self) -> None:
        """See `Objective`: the warm start, in which the teacher has nothing to do."""
        self.warm_steps = 0

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """See `Objective`; the teacher, too."""
        return (*super().networks, self.teacher)

    @property
    def companions(self) -> tuple[nn.Module, ...]:
        """The teacher."""
        return (self.teacher,)

    @property
    def evaluated_teacher(self) -> Teacher:
        """The teacher of validation; of weights that are spread the copy, see `Objective.evaluated_model`."""
        return self.teacher if self.spread is None else cast(Teacher, self.spread.wholes[1])

    @property
    def further_weights(self) -> Mapping[str, nn.Module]:
        """The teacher, where it has learned something."""
        return {} if self.teacher.frozen else {"weights-teacher": self.evaluated_teacher.module}

    def loss_and_features(self, batch: Batch, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `MIMObjective`; of several views the features of an image are their mean."""
        assert batch.mask is not None
        views = len(batch.mask) // len(pixels)
        model, seen = self.trained_model, pixels.repeat(views, 1, 1, 1) if views > 1 else pixels
        made = latent_pass(model, seen, batch.mask, batch.hidden, batch.targets, batch.target_units)
        warm = self._trainer is not None and self.trainer.global_step < self.warm_steps
        loss = self.pixel_loss(model, made, pixels, 1.0 if warm else self.pixels)
        if warm:  # of features nothing, but DDP waits for a gradient of every parameter
            loss = loss + nothing_of(made.predicted.features)
        else:
            loss = loss + self.latent_loss(made, self.target(batch, pixels, made))
        visible = visible_mean(made.features, batch.mask)
        return loss, visible.view(views, -1, visible.shape[1]).mean(0) if views > 1 else visible

    def target(self, batch: Batch, pixels: Tensor, made: LatentPass) -> Tensor:
        """What the teacher sees in the whole images of a training batch, `(B, C, h, w)`."""
        sums = None if pixels.device.type == "meta" else self.teacher_sums  # FLOPs are counted there
        target: Tensor = self.teacher(batch.images, pixels, (made.hidden.shape[1], made.hidden.shape[2]), sums)
        return target

    def measured_quality(self) -> dict[str, float]:
        """See `MIMObjective`; the same of the teacher's last layer, of all images since the last log point."""
        found, sums = super().measured_quality(), self.teacher_sums
        if sums.count < 2:
            return found
        self.teacher_sums = ImageSums()
        cosine, deviation = self.mean_over_processes(sums.read()).tolist()
        return found | {"quality/teacher_cosine": cosine, "quality/teacher_deviation": deviation}

    def looks_collapsed(self, found: Mapping[str, float]) -> bool:
        """Whether a teacher that follows sees the same in all images; of a frozen one as `MIMObjective`."""
        if self.teacher.frozen:
            return "quality/cosine" in found and super().looks_collapsed(found)
        return found.get("quality/teacher_deviation", 1.0) < CONSTANT

    @property
    def against_collapse(self) -> str:
        """See `MIMObjective`."""
        return "" if self.teacher.frozen else ", a higher objective.momentum"

    def latent_loss(self, made: LatentPass, target: Tensor) -> Tensor:
        """The error of the predicted features, a scalar."""
        return latent_error(made.predicted.features, take_cells(target, made.predicted.where), self.loss, self.beta)

    def pixel_loss(self, model: ForMaskedImageModeling, made: LatentPass, pixels: Tensor, weight: float) -> Tensor:
        """The weighted squared error of predicted pixels, a scalar; 0 without such a prediction."""
        predicted, where = made.predicted.pixels, made.predicted.where
        if predicted is None:
            return pixels.new_zeros(())
        if not weight:
            return nothing_of(predicted)
        image, row, column = where
        grid = (made.hidden.shape[1], made.hidden.shape[2])
        cells = model.target.cells(pixels, grid, (image % len(pixels), row, column))
        return weight * masked_error_patches(predicted, cells, model.num_channels, "mse")

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Takes the step and, unless it was skipped, moves the teacher: before callbacks may save it."""
        step = self.trainer.global_step
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if not self.teacher.frozen:
            self.teacher.update(cast(nn.Module, self.model.encoder), self.kept(step), self.skipped)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `Objective`; of a teacher that is not in it, its mark."""
        super().on_save_checkpoint(checkpoint)
        if self.teacher.mark is not None:
            checkpoint[TEACHER_MARK] = self.teacher.mark

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to go on with another teacher; a checkpoint of an earlier version does not know its own.

        Raises:
            InputError: the frozen teacher has other weights now.
        """
        if self.teacher.mark is not None and checkpoint.get(TEACHER_MARK, self.teacher.mark) != self.teacher.mark:
            raise InputError(
                "objective.teacher has other weights than when the run began, so the run cannot go on; restore them, "
                "or begin another run in another out="
            )

    @property
    def taught(self) -> TaughtModel:
        """The evaluated model and the teacher."""
        return TaughtModel(self.evaluated_model, self.evaluated_teacher, self.normalize, self.loss, self.beta)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the metrics."""
        with self.phase(batch):
            made, target = self.taught.see(batch)
        self.val.update(made.predicted.features, take_cells(target, made.predicted.where))

    def on_validation_epoch_end(self) -> None:
        """Reports the metrics of the pass."""
        metrics = {f"val/{name}": value for name, value in self.val.compute().items()}
        self.val.reset()
        self.report_metrics(metrics)

    def picture(self, batch: Batch) -> PredictedFeatures:
        """What the evaluated model predicts of a batch with masks, and the teacher's features."""
        return self.taught.predict(batch)


def nothing_of(predicted: Tensor) -> Tensor:
    """0, with a gradient of 0; the sum in float32, as float16 would be infinite."""
    return 0 * predicted.sum(dtype=torch.float32)
