"""What one sees while a run trains: a progress bar or plain lines, and the metrics for the loggers."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mimsuite.callbacks.context import RunContext
from mimsuite.errors import InputError
from mimsuite.objectives.objective import Objective, mean_loss

log = logging.getLogger("mimsuite")

LINE_EVERY = 10.0


class Monitor(Callback):
    """Measures throughput and waiting for data; shows progress; gives the loggers their metrics.

    Logged every `log_every` optimizer steps, under the number of steps done: `train/loss` (mean since the last
    line), `optim/lr` (of the next step), `optim/grad_norm` (before clipping), `perf/img_per_s`,
    `perf/data_wait` (share of the time spent waiting for the loader).

    Args:
        log_every: optimizer steps between metrics.
        context: facts of the run.
    """

    def __init__(self, *, log_every: int, context: RunContext) -> None:
        if log_every < 1:
            raise InputError(f"callbacks.monitor.log_every={log_every} is not a whole number of at least 1; use 10")
        self.log_every, self.context = log_every, context
        self._progress: Progress | None = None
        self._losses: list[torch.Tensor] = []
        self._waited = 0.0
        self._since = self._ready = self._last_line = time.perf_counter()
        self._step_before = 0
        self._shown: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the progress bar where there is a terminal."""
        self._step_before = trainer.global_step
        self._since = self._ready = time.perf_counter()
        if trainer.is_global_zero and sys.stdout.isatty():
            columns = (
                TextColumn("{task.completed}/{task.total} steps"),
                BarColumn(),
                TextColumn("{task.fields[metrics]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=Console(), refresh_per_second=4)
            self._progress.add_task("train", total=trainer.max_steps, completed=trainer.global_step, metrics="")
            self._progress.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Counts the time since the last batch was done as waiting for data."""
        self._waited += time.perf_counter() - self._ready

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collects the loss; every `log_every` optimizer steps, logs the metrics."""
        self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)  # Lightning divided it
        step = trainer.global_step
        if step > self._step_before and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            if step == 1 and trainer.is_global_zero and self.context.started is not None:
                log.info(
                    "first step %.1f s after the command, of which %.1f s imported torch, lightning and wandb",
                    *(time.time() - self.context.started, self.context.imports),
                )
            if step % self.log_every == 0 or step == trainer.max_steps:
                self._log_metrics(trainer, pl_module, step)
            self._show(trainer, step)
        self._ready = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is neither training time nor waiting."""
        if not trainer.sanity_checking:
            now = time.perf_counter()
            self._since += now - self._ready
            self._ready = now

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the bar, so that the message is legible."""
        self._close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the bar."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _log_metrics(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        speed = {
            "perf/img_per_s": (step - self._step_before) * self.context.batch / seconds,
            "perf/data_wait": self._waited / seconds,
        }
        metrics = cast(Objective, module).report_training(mean_loss(trainer, self._losses), **speed)
        self._shown = metrics
        self._losses, self._waited, self._since, self._step_before = [], 0.0, now, step

    def _show(self, trainer: Trainer, step: int) -> None:
        if not self._shown or not trainer.is_global_zero:
            return
        text = (
            f"loss {self._shown['train/loss']:.4f}  {self._shown['perf/img_per_s']:.0f} img/s  "
            f"data wait {self._shown['perf/data_wait']:.0%}"
        )
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step, metrics=text)
        elif time.perf_counter() - self._last_line >= LINE_EVERY or step == trainer.max_steps:
            left = (trainer.max_steps - step) * self.context.batch / max(self._shown["perf/img_per_s"], 1e-9)
            log.info("step %d/%d  %s  ETA %s", step, trainer.max_steps, text, format_duration(left))
            self._last_line = time.perf_counter()


def format_duration(seconds: float) -> str:
    """A duration as `h:mm:ss`."""
    total = round(seconds)
    return f"{total // 3600}:{total // 60 % 60:02}:{total % 60:02}"
