"""Which weights of a supervised run are kept: the best by validation, written whenever there are better ones."""

from __future__ import annotations

import logging
import math
from typing import Any

from lightning import Callback, LightningModule, Trainer

from mimsuite.callbacks.context import RunContext
from mimsuite.metrics.scores import METRICS
from mimsuite.objectives.classify import ClassifyObjective

log = logging.getLogger("mimsuite")


class BestWeights(Callback):
    """Writes `weights/` after each validation with a better figure: the first of `METRICS` for the kind of labels.

    What is validated is what is written. Validation before the first step does not count.

    Args:
        context: facts of the run.

    Attributes:
        value: the best figure so far; None before the first validation.
        step: the optimizer steps done when it was reached.
    """

    def __init__(self, *, context: RunContext) -> None:
        self.save_weights = context.save_weights
        self.value: float | None = None
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        """The best figure, for a resumed run to compare with."""
        return {"value": self.value, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the interrupted run was."""
        self.value, self.step = state_dict["value"], state_dict["step"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares and writes."""
        assert isinstance(pl_module, ClassifyObjective)
        found = pl_module.last[f"val/{METRICS[pl_module.kind][0]}"]
        if trainer.sanity_checking or not math.isfinite(found) or (self.value is not None and found <= self.value):
            return
        self.value, self.step = found, trainer.global_step
        if trainer.is_global_zero:
            self.save_weights(pl_module.judged)
