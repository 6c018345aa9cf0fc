"""Pictures during pretraining: the same validation images under the same masks, each time validation runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from lightning import Callback, LightningModule, Trainer
from PIL.Image import Image

from mimsuite.callbacks.context import RunContext
from mimsuite.data.storage import OptionalWrites
from mimsuite.errors import InputError
from mimsuite.masked.latent import PredictedFeatures
from mimsuite.masked.prediction import MaskedPrediction
from mimsuite.objectives.objective import Objective
from mimsuite.pictures.latent import picture_features
from mimsuite.pictures.reconstruction import Reconstruction, reconstruct
from mimsuite.pictures.saving import save_image
from mimsuite.settings.read import is_int
from mimsuite.types import Batch


@runtime_checkable
class TakesPictures(Protocol):
    """A logger that takes pictures beside metrics."""

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Takes a picture file of the run folder."""
        ...


def picture_prediction(found: MaskedPrediction) -> Reconstruction:
    """What was predicted of pixels, or of what is made of them, as a picture."""
    return reconstruct(
        lambda *_: (found.loss, found.prediction),
        found.target,
        found.cell,
        found.normalize,
        found.images,
        found.mask,
        loss=found.loss_name,
    )


def first_of(batch: Batch, count: int) -> Batch:
    """The first images of a batch, with their masks."""
    mask, targets = (None if tensor is None else tensor[:count] for tensor in (batch.mask, batch.targets))
    return batch._replace(images=batch.images[:count], mask=mask, targets=targets)


def draw_sheet(objective: Objective, batch: Batch, title: str) -> Image | None:
    """A sheet of what an objective predicts of a batch; None where it predicts no picture."""
    found = objective.picture(batch)
    if found is None:
        return None
    result = picture_features(found) if isinstance(found, PredictedFeatures) else picture_prediction(found)
    return result.sheet(title)


class Reconstructions(Callback):
    """Writes `pictures/step_000500.png` (original, masked, prediction, paste, error) after each validation.

    Args:
        images: how many of the first validation images stand on the sheet.
        context: facts of the run.

    Raises:
        InputError: no number of images.
    """

    def __init__(self, *, images: int, context: RunContext) -> None:
        if not is_int(images) or images < 1:
            raise InputError(
                f"callbacks.reconstructions.images={images} is not a whole number of at least 1; to have no pictures, "
                "use ~callbacks.reconstructions"
            )
        self.images, self.folder = images, context.pictures
        self._batch: Batch | None = None
        self._writes = OptionalWrites("a picture of reconstructions", Exception)  # whatever its trouble is

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first images of the validation set."""
        if batch_idx == 0:
            self._batch = first_of(batch, self.images)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the sheet and gives it to the loggers that take pictures."""
        if self._batch is None or not trainer.is_global_zero:
            return
        with self._writes.attempt():
            self._draw(trainer, cast(Objective, pl_module), self._batch)

    def _draw(self, trainer: Trainer, objective: Objective, batch: Batch) -> None:
        step = trainer.global_step
        sheet = draw_sheet(objective, batch, f"step {step}")
        if sheet is None:
            return
        path = self.folder / f"step_{step:06d}.png"
        save_image(sheet, path)
        for logger in trainer.loggers:
            if isinstance(logger, TakesPictures):
                logger.log_picture("reconstructions", path, step)
