"""Optimizer steps without update, because loss or gradient was not finite: written down, and three in a row stop."""

from __future__ import annotations

import json
import logging
from typing import Any

from lightning import Callback, LightningModule, Trainer

from mimsuite.callbacks.context import RunContext
from mimsuite.data.storage import OptionalWrites
from mimsuite.errors import RunError

log = logging.getLogger("mimsuite")

IN_A_ROW = 3


class SkippedSteps(Callback):
    """Writes the sample ids of a skipped step to `skipped_steps.jsonl`; three in a row stop the run.

    The weights are then those from before the first of the three. It reads `skipped` of the Lightning module, and
    `overflowed`: a step whose gradients only the factor on a float16 loss made infinite is as good as none.

    Args:
        context: facts of the run.
    """

    def __init__(self, *, context: RunContext) -> None:
        self.file = context.folder / "skipped_steps.jsonl"
        self._writes = OptionalWrites(self.file.name)
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
        step = trainer.global_step
        if pl_module.overflowed:
            log.info("step %d skipped: float16 overflowed; the factor on the loss is halved", step)
            return
        if not pl_module.skipped:
            self._row = 0
            return
        self._row += 1
        line = {"step": step, "rank": trainer.global_rank, "ids": self._ids}
        with self._writes.attempt(), self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        log.warning("step %d skipped: loss or gradient is not finite; its samples are in skipped_steps.jsonl", step)
        if self._row == IN_A_ROW:
            raise RunError(
                f"loss or gradient was not finite in {IN_A_ROW} steps in a row, up to step {step}; its checkpoint has "
                "the weights from before them; look at the samples in skipped_steps.jsonl, or use a smaller lr"
            )
