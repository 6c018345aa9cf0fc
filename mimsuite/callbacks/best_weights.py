"""Which weights of a supervised run are kept: the best by validation, written whenever there are better ones."""

from __future__ import annotations

import math
from typing import Any, cast

from lightning import Callback, LightningModule, Trainer

from mimsuite.callbacks.context import RunContext
from mimsuite.errors import InputError
from mimsuite.objectives.objective import Objective


class BestWeights(Callback):
    """Writes `weights/` after each validation whose `selection_metric` is larger than all before.

    The weights that are validated are those that are written. The validation before the first step does not count.

    Args:
        context: facts of the run.

    Attributes:
        value: the largest metric so far; None before the first validation.
        step: the optimizer steps done when it was reached.
        metrics: all metrics of that validation.
    """

    def __init__(self, *, context: RunContext) -> None:
        self.save_weights = context.save_weights
        self.value: float | None = None
        self.step = 0
        self.metrics: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that there is something to compare.

        Raises:
            InputError: the objective has no `selection_metric`.
        """
        if cast(Objective, pl_module).selection_metric is None:
            raise InputError(
                f"callbacks.best_weights: {type(pl_module).__name__} has no metric that says which weights are best; "
                "use ~callbacks.best_weights"
            )

    def state_dict(self) -> dict[str, Any]:
        """The best so far, for a resumed run to compare with."""
        return {"value": self.value, "step": self.step, "metrics": dict(self.metrics)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the interrupted run was."""
        self.value, self.step = state_dict["value"], state_dict["step"]
        self.metrics = state_dict.get("metrics", {})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares and writes."""
        objective = cast(Objective, pl_module)
        assert objective.selection_metric is not None
        found = objective.last_metrics[objective.selection_metric]
        if trainer.sanity_checking or not math.isfinite(found) or (self.value is not None and found <= self.value):
            return
        if trainer.is_global_zero:
            self.save_weights(objective.evaluated_model)
        self.value, self.step, self.metrics = found, trainer.global_step, dict(objective.last_metrics)  # once written
