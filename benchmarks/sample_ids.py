"""A callback for `killloop.py`: which samples each optimizer step used, one JSON line a step."""

from __future__ import annotations

import json
from typing import Any

from lightning import Callback, LightningModule, Trainer


class SampleIds(Callback):
    """Appends `{"step": ..., "ids": [...]}` to `file` after every optimizer step."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.ids: list[int] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.ids += batch.ids.tolist()
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            with open(self.file, "a") as file:
                file.write(json.dumps({"step": trainer.global_step, "ids": self.ids}) + "\n")
            self.ids = []
