"""Pictures during pretraining: the same validation images under the same masks, each time validation runs."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from mimsuite.callbacks.context import RunContext
from mimsuite.objectives.mim import MIMObjective
from mimsuite.pictures.reconstruction import reconstruct
from mimsuite.runs.loggers import WandbLogger
from mimsuite.types import Batch


class Reconstructions(Callback):
    """Writes `pictures/step_000500.png` (original, masked, prediction, paste, error) after each validation.

    Args:
        images: how many of the first validation images stand on the sheet.
        context: facts of the run.
    """

    def __init__(self, *, images: int, context: RunContext) -> None:
        self.images, self.folder = images, context.pictures
        self._batch: Batch | None = None

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
            self._batch = batch

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the sheet and gives it to wandb."""
        assert isinstance(pl_module, MIMObjective)
        if self._batch is None or not trainer.is_global_zero:
            return
        images, mask = self._batch.images[: self.images], self._batch.mask
        assert mask is not None
        model = pl_module.model
        result = reconstruct(
            model.predict,
            model.target,
            model.head_stride,
            pl_module.normalize,
            images,
            mask[: self.images],
            kind=pl_module.loss,
        )
        step = trainer.global_step
        path = self.folder / f"step_{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        result.sheet(f"step {step}").save(path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_picture("reconstructions", path, step)
