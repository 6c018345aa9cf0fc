"""MLflow as a guest of a run, through Lightning's own logger."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from mimsuite.callbacks.context import RunContext
from mimsuite.data.storage import read_object, write_json
from mimsuite.errors import InputError
from mimsuite.runs.loggers.guest import Guest


class MLflowLogger(Guest):
    """An MLflow run on the server that `MLFLOW_TRACKING_URI` names; without it, in `mlflow/` of the run folder.

    A resumed run goes on in the same MLflow run. MLflow's own telemetry is off, unless it was imported before.

    Args:
        project: MLflow experiment.
        context: facts of the run.
    """

    title = "mlflow"

    def __init__(self, *, project: str, context: RunContext) -> None:
        super().__init__()
        self._project, self._config = project, context.config
        self._folder = context.folder.resolve()

    @staticmethod
    def is_wanted(context: RunContext) -> bool:
        """Always.

        Raises:
            InputError: MLflow is not installed.
        """
        if importlib.util.find_spec("mlflow") is None:
            raise InputError(
                'logger.mlflow needs mlflow, which is not installed; pip install "mimsuite[mlflow]", or use logger=none'
            )
        return True

    def open(self) -> Any:
        """See `Guest`."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:
            place = (self._folder / "mlflow").as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # of a single run, which needs no database
        from lightning.pytorch.loggers import MLFlowLogger as Writer

        record = self._folder / "mlflow" / "run.json"
        known = read_object(record, "the run gets a new id").get("id") if record.exists() else None
        run = Writer(self._project, run_name=self._folder.name, tracking_uri=place, run_id=known)
        if known is None:
            record.parent.mkdir(exist_ok=True)
            write_json(record, {"id": run.run_id})
            run.log_hyperparams(dict(self._config))
        return run

    def send_metrics(self, run: Any, metrics: dict[str, float], step: int) -> None:
        """See `Guest`."""
        run.log_metrics(metrics, step)

    def send_picture(self, run: Any, name: str, path: Path, step: int) -> None:
        """See `Guest`."""
        run.experiment.log_artifact(run.run_id, str(path), name)

    def send_report(self, run: Any, path: Path) -> None:
        """See `Guest`; with the summary of the run."""
        for file in (path, path.with_name("summary.json")):
            run.experiment.log_artifact(run.run_id, str(file))

    def finish(self, run: Any) -> None:
        """See `Guest`."""
        run.finalize("success")
