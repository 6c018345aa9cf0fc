"""TensorBoard as a guest of a run, through Lightning's own logger."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from mimsuite.callbacks.context import RunContext
from mimsuite.errors import InputError
from mimsuite.runs.loggers.guest import Guest


class TensorBoardLogger(Guest):
    """Event files in `tensorboard/` of the run folder; `tensorboard --logdir runs/` shows those of all runs below it.

    Args:
        context: facts of the run.
    """

    title = "tensorboard"
    fault = "cannot write"

    def __init__(self, *, context: RunContext) -> None:
        super().__init__()
        self._folder, self._config = context.folder, context.config

    @staticmethod
    def is_wanted(context: RunContext) -> bool:
        """Always.

        Raises:
            InputError: the library is not installed.
        """
        if importlib.util.find_spec("tensorboard") is None and importlib.util.find_spec("tensorboardX") is None:
            raise InputError(
                'logger.tensorboard needs tensorboard, which is not installed; pip install "mimsuite[tensorboard]", or '
                "use logger=none"
            )
        return True

    def open(self) -> Any:
        """See `Guest`; a resumed run hides what it writes again."""
        from lightning.pytorch.loggers import TensorBoardLogger as Writer

        run = Writer(self._folder, "tensorboard", version="", default_hp_metric=False, purge_step=self.first)
        run.log_hyperparams(dict(self._config))
        return run

    def send_metrics(self, run: Any, metrics: dict[str, float], step: int) -> None:
        """See `Guest`."""
        run.log_metrics(metrics, step)

    def send_picture(self, run: Any, name: str, path: Path, step: int) -> None:
        """See `Guest`."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            run.experiment.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def finish(self, run: Any) -> None:
        """See `Guest`."""
        run.finalize("success")
