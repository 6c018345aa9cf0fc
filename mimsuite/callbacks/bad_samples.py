"""Samples that could not be decoded: named in `bad_samples.jsonl`, counted, and too many of them stop the run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from mimsuite.errors import InputError
from mimsuite.types import BadSample, Batch

log = logging.getLogger("mimsuite")

LEAST = 20


class BadSamples(Callback):
    """Writes each replaced sample down once (shard, key, reason); stops the run when there are too many.

    Args:
        folder: the run folder.
        max_fraction: of the training images; `LEAST` are allowed in any case.
        samples: training images.
    """

    def __init__(self, *, folder: Path, max_fraction: float, samples: int) -> None:
        self.file = folder / "bad_samples.jsonl"
        self.limit = max(LEAST, int(max_fraction * samples))
        self._seen: set[BadSample] = set()

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

    def note(self, batch: Batch) -> None:
        """Writes down what is new in `batch.bad`.

        Raises:
            InputError: more bad samples than allowed, with the first of them.
        """
        new = [bad for bad in batch.bad if bad not in self._seen]
        if not new:
            return
        self._seen.update(new)
        with self.file.open("a") as file:
            file.writelines(json.dumps(bad._asdict()) + "\n" for bad in new)
        for bad in new[:3]:
            log.warning("bad sample replaced: %s in %s: %s", bad.key, bad.shard, bad.reason)
        if len(self._seen) > self.limit:
            first = new[0]
            raise InputError(
                f"{len(self._seen)} samples could not be read, {self.limit} are allowed (loader.max_bad_fraction); "
                f"first {first.key} in {first.shard}: {first.reason}; {self.file} names them all"
            )
