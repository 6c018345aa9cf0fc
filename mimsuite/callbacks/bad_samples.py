"""Samples that could not be decoded: named in `bad_samples.jsonl`, counted, and too many of them stop the run."""

from __future__ import annotations

import json
import logging
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from mimsuite.callbacks.context import RunContext
from mimsuite.data.folders import count_of
from mimsuite.data.storage import OptionalWrites
from mimsuite.errors import InputError
from mimsuite.types import BadSample, Batch

log = logging.getLogger("mimsuite")

LEAST = 20


class BadSamples(Callback):
    """Writes each replaced sample down once (shard, key, reason); stops the run when there are too many.

    With several processes each writes down its own, and after each validation those of all are counted, each once.

    Args:
        max_fraction: largest share of the training images; `LEAST` are allowed in any case.
        context: facts of the run.
    """

    def __init__(self, *, max_fraction: float, context: RunContext) -> None:
        self.file = context.folder / "bad_samples.jsonl"
        self.limit = max(LEAST, int(max_fraction * context.samples))
        self._writes = OptionalWrites(self.file.name)
        self._seen: set[BadSample] = set()
        self._last: BadSample | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Looks at what was replaced while this batch was read."""
        self.note(batch)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Looks at what was replaced while this batch was read."""
        self.note(batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts what all processes have seen; in later epochs the same sample comes to other ones."""
        if trainer.world_size == 1:
            return
        mine = torch.tensor(len(self._seen), device=trainer.strategy.root_device)
        if int(trainer.strategy.reduce(mine, reduce_op="sum")) > self.limit:  # equal in all, so all go on
            every: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(every, {(bad.shard, bad.key) for bad in self._seen})
            self._check(len(set().union(*every)))

    def note(self, batch: Batch) -> None:
        """Writes down what is new in `batch.bad`.

        Raises:
            InputError: more bad samples than allowed, with the first of them.
        """
        new = [bad for bad in batch.bad if bad not in self._seen]
        if not new:
            return
        self._seen.update(new)
        self._last = new[-1]
        with self._writes.attempt(), self.file.open("a") as file:
            file.writelines(json.dumps(bad._asdict()) + "\n" for bad in new)
        for bad in new[:3]:
            log.warning("bad sample replaced: %s in %s: %s", bad.key, bad.shard, bad.reason)
        self._check(len(self._seen))

    def _check(self, count: int) -> None:
        if count > self.limit:
            last = f"the last {self._last.key} in {self._last.shard}: {self._last.reason}; " if self._last else ""
            raise InputError(
                f"{count_of(count, 'sample')} could not be read, {self.limit} are allowed (loader.max_bad_fraction); "
                f"{last}{self.file} names them all"
            )
