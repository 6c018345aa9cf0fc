"""A callback that writes a file into the run folder."""

from __future__ import annotations

import json
from typing import Any

from lightning import Callback, LightningModule, Trainer

from mimsuite.callbacks.context import RunContext


class Diary(Callback):
    """Writes down every n-th training loss, in `diary.json` of the run folder.

    Args:
        facts: of the run. mimsuite gives it, because of the annotation; the name does not matter.
        every: steps between two lines.
    """

    def __init__(self, facts: RunContext, *, every: int) -> None:
        self.facts, self.every = facts, every
        self.losses: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Notes the loss."""
        if trainer.global_step % self.every == 0:
            self.losses[trainer.global_step] = float(outputs["loss"])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, in the process that may."""
        if self.facts.leads:
            entry = {"batch": self.facts.batch, "image_size": list(self.facts.image_size), "losses": self.losses}
            (self.facts.folder / "diary.json").write_text(json.dumps(entry))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {"losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the interrupted run was."""
        self.losses = state_dict["losses"]
