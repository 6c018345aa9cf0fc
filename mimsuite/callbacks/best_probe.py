"""Which weights of a pretraining run are the best by its online probe: they are kept in `weights-best/`."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, cast

from lightning import Callback, LightningModule, Trainer

from mimsuite.callbacks.best_weights import BestSoFar
from mimsuite.callbacks.context import RunContext
from mimsuite.callbacks.online_probe import OnlineProbe
from mimsuite.errors import InputError
from mimsuite.metrics.quality import as_score
from mimsuite.objectives.objective import Objective
from mimsuite.words import NEED_LABELS

log = logging.getLogger("mimsuite")

BEST_FOLDER = "weights-best"
WITH_LABELS, WITHOUT_LABELS = "probe/top1", "quality/rankme"


class BestProbe(Callback):
    """Writes `weights-best/` after each round of the online probe that is better than all before.

    `weights/` stays that of the last step. The round before the first step does not count; its value is reported
    beside the best. Rounds come at every validation point, so the choice depends on no clock, and repeats and resumes.

    Args:
        keep: whether weights are kept; where not, and where the loss selects nothing, one line says so.
        metric: what is compared, one of `words.PROBE_METRICS`; "auto": the linear probe, or RankMe without labels.
        context: facts of the run.

    Attributes:
        best: the largest score so far, with all metrics of that round.
        metric: what is compared; "auto" before the first round.
        start: its value before the first step.
    """

    def __init__(self, *, keep: bool, metric: str, context: RunContext) -> None:
        self.keeps, self.metric, self.save_weights = keep and context.keeps_best, metric, context.save_weights
        self.best, self.start = BestSoFar(), float("nan")
        self._probe: OnlineProbe | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Says what selects, where the loss does not or something else does."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        self._probe = next((callback for callback in callbacks if isinstance(callback, OnlineProbe)), None)
        selects, name = cast(Objective, pl_module).loss_selects, type(pl_module).__name__
        reason = "" if selects else f"the loss of {name} does not tell which weights are better; "
        if self.keeps:
            log.info("selection %s%s/ keeps those of the best online probe", reason, BEST_FOLDER)
        elif reason:
            log.warning("selection %sweights/ are the last; online_probe=true keeps the best beside them", reason)

    def state_dict(self) -> dict[str, Any]:
        """The best so far, for a resumed run to compare with."""
        return self.best.state() | {"metric": self.metric, "start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the interrupted run was."""
        self.best.load(state_dict)
        self.metric, self.start = state_dict["metric"], state_dict["start"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares and writes.

        Raises:
            InputError: the metric needs one class per image, and the labels are of another kind.
        """
        found = {} if self._probe is None else self._probe.found
        if not self.keeps or not found:
            return
        if self.metric == "auto":
            self.metric = WITH_LABELS if WITH_LABELS in found else WITHOUT_LABELS
        if self.metric in NEED_LABELS and self.metric not in found:
            raise InputError(
                f"callbacks.best_probe.metric={self.metric} needs one class per image, and the labels are of another "
                "kind; use callbacks.best_probe.metric=auto"
            )
        if self.metric not in found:  # features that have collapsed have no alpha-ReQ
            return
        if trainer.sanity_checking:
            self.start = found[self.metric]
            if self.metric.startswith("quality/"):
                log.warning(
                    "selection %s needs no labels, and may choose badly: RankMe has chosen our worst checkpoint "
                    "(benchmarks/RESULTS.md); a few hundred labels choose better",
                    self.metric,
                )
            return
        model = cast(Objective, pl_module).evaluated_model
        self.best.keep(
            trainer, as_score(self.metric, found[self.metric]), found, partial(self.save_weights, model, BEST_FOLDER)
        )

    @property
    def result(self) -> dict[str, Any]:
        """What `summary.json` says of it; nothing where nothing was kept."""
        if self.best.value is None:
            return {}
        return {"best_step": self.best.step, "best_metric": self.metric, "best_value": self.best.metrics[self.metric]}
