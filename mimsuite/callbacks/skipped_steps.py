"""Optimizer steps without update, because loss or gradient was not finite: written down, and three in a row stop."""

from __future__ import annotations

import json
import logging
from typing import Any

from lightning import Callback, LightningModule, Trainer

from mimsuite.callbacks.context import RunContext
from mimsuite.errors import RunError

log = logging.getLogger("mimsuite")

IN_A_ROW = 3


class SkippedSteps(Callback):
    """Writes the sample ids of a skipped step to `skipped_steps.jsonl`; after three in a row, saves and stops.

    The weights are then those from before the first of the three. It reads `skipped` of the Lightning module.

    Args:
        context: facts of the run.
    """

    def __init__(self, *, context: RunContext) -> None:
        self.folder = context.folder
        self._ids: list[int] = []
        self._row = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers the samples of the step in hand."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._ids = []
        self._ids += batch.ids.tolist()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks whether the step was skipped.

        Raises:
            RunError: the third in a row.
        """
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if not pl_module.skipped:
            self._row = 0
            return
        self._row += 1
        step = trainer.global_step
        line = {"step": step, "rank": trainer.global_rank, "ids": self._ids}
        with (self.folder / "skipped_steps.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        log.warning("step %d skipped: loss or gradient is not finite; its samples are in skipped_steps.jsonl", step)
        if self._row == IN_A_ROW:
            trainer.save_checkpoint(self.folder / "checkpoints" / f"step_{step:09d}.ckpt")
            raise RunError(
                f"loss or gradient was not finite in {IN_A_ROW} steps in a row, up to step {step}; its checkpoint has "
                "the weights from before them; look at the samples in skipped_steps.jsonl, or use a smaller lr"
            )
