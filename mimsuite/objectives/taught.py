"""A model that predicts features and their teacher together: what both make of a batch that nobody learns from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mimsuite.masked.latent import PredictedFeatures, latent_error, take_cells
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.quality import ImageSums
from mimsuite.models.composed import ForMaskedImageModeling
from mimsuite.models.latent import LatentPass, latent_pass, predicted_features
from mimsuite.objectives.teacher import Teacher
from mimsuite.types import Batch


@dataclass(frozen=True)
class TaughtModel:
    """A model, its teacher, and how they are compared.

    Attributes:
        model: encoder and predictor.
        teacher: gives the targets.
        normalize: integer images to the model's floats.
        loss: name of the error, one of `mimsuite.words.LOSSES`.
        beta: of "smooth_l1": where it turns from a square to a line.
    """

    model: ForMaskedImageModeling
    teacher: Teacher
    normalize: Normalize
    loss: str
    beta: float

    def see(self, batch: Batch, sums: ImageSums | None = None) -> tuple[LatentPass, Tensor]:
        """What the model makes of a batch with one mask for each image, and the target `(B, C, h, w)`.

        `sums` is for the teacher, see `Teacher.forward`.
        """
        assert batch.mask is not None
        pixels = self.normalize(batch.images)
        made = latent_pass(self.model, pixels, batch.mask, batch.hidden, batch.targets, batch.target_units)
        target: Tensor = self.teacher(batch.images, pixels, (made.hidden.shape[1], made.hidden.shape[2]), sums)
        return made, target

    def predict(self, batch: Batch) -> PredictedFeatures:
        """The same as maps, with all that a picture of them needs."""
        assert batch.mask is not None
        made, target = self.see(batch)
        wanted = take_cells(target, made.predicted.where)
        return predicted_features(
            *(batch.images, batch.mask, made, target),
            loss=latent_error(made.predicted.features, wanted, self.loss, self.beta),
            width=target.shape[1] // self.teacher.stacked,
            normalize=self.normalize,
        )
