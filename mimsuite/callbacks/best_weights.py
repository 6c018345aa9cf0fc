"""Which weights are kept beside the last: the best by a metric, written whenever there are better ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from lightning import Callback, LightningModule, Trainer

from mimsuite.callbacks.context import RunContext
from mimsuite.errors import InputError
from mimsuite.objectives.objective import Objective


class BestSoFar:
    """The largest value of a metric so far, for a callback to compare with and to keep in checkpoints.

    Attributes:
        value: the largest; None before the first.
        step: the optimizer steps done when it was reached.
        metrics: all metrics of then.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self.step = 0
        self.metrics: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {"value": self.value, "step": self.step, "metrics": dict(self.metrics)}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on with the values of `state`; one of an earlier version has no metrics."""
        self.value, self.step, self.metrics = state["value"], state["step"], state.get("metrics", {})

    def keep(self, trainer: Trainer, value: float, metrics: dict[str, float], write: Callable[[], None]) -> None:
        """Where a value is finite and larger than all before, writes, in the first process, and then remembers it."""
        if not math.isfinite(value) or (self.value is not None and value <= self.value):
            return
        if trainer.is_global_zero:
            write()
        self.value, self.step, self.metrics = value, trainer.global_step, dict(metrics)


class BestWeights(Callback):
    """Writes `weights/` after each validation whose `selection_metric` is larger than all before.

    The weights that are validated are those that are written. The validation before the first step does not count.

    Args:
        context: facts of the run.

    Attributes:
        best: the largest metric so far, with all metrics of that validation.
    """

    def __init__(self, *, context: RunContext) -> None:
        self.save_weights = context.save_weights
        self.best = BestSoFar()

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
        return self.best.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the interrupted run was."""
        self.best.load(state_dict)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares and writes."""
        objective = cast(Objective, pl_module)
        assert objective.selection_metric is not None
        found = objective.last_metrics
        if not trainer.sanity_checking:
            write = partial(self.save_weights, objective.evaluated_model)
            self.best.keep(trainer, found[objective.selection_metric], found, write)
