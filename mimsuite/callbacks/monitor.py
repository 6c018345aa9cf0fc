"""What one sees while a run trains: a progress bar or plain lines, and the metrics for the loggers."""

from __future__ import annotations

import logging
import time
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mimsuite.callbacks.context import RunContext
from mimsuite.data.batch_loader import BatchLoader
from mimsuite.data.terminal import has_terminal
from mimsuite.errors import InputError
from mimsuite.objectives.objective import Objective, mean_loss

log = logging.getLogger("mimsuite")

LINE_EVERY = 10.0  # seconds
BAR_EVERY = 1.0  # seconds; reading a loss waits for the device
ESTIMATE_STEPS = 6


class Window:
    """The steps since a moment: their losses, and how long they took.

    Attributes:
        losses: of each micro-batch, on the device.
        waited: seconds of waiting for the loader.
        since: when the window began; moved by what is neither training nor waiting.
        step: the optimizer steps done then.
    """

    def __init__(self, step: int) -> None:
        self.losses: list[torch.Tensor] = []
        self.waited = 0.0
        self.since, self.step = time.perf_counter(), step

    @property
    def seconds(self) -> float:
        """Of the window, so far."""
        return max(time.perf_counter() - self.since, 1e-9)

    def loss(self) -> torch.Tensor:
        """The mean."""
        return torch.stack(self.losses).float().mean()


class Monitor(Callback):
    """Measures throughput and waiting for data; shows progress; gives the loggers their metrics.

    Logged every `log_every` optimizer steps, under the number of steps done: `train/loss` (mean since the last
    line), `optim/lr` (of the next step), `optim/grad_norm` (before clipping), `perf/img_per_s`, `perf/data_wait` (share
    of the time spent waiting for the loader), `perf/mfu` (part of what the devices could do). The bar and the lines
    show the same of the steps since the last line, of the first process.

    Args:
        log_every: optimizer steps between metrics.
        context: facts of the run.
    """

    def __init__(self, *, log_every: int, context: RunContext) -> None:
        if log_every < 1:
            raise InputError(f"callbacks.monitor.log_every={log_every} is not a whole number of at least 1; use 10")
        self.log_every, self.context = log_every, context
        self._progress: Progress | None = None
        self._logged, self._shown = Window(0), Window(0)
        self._ready = self._last_line = self._first_done = time.perf_counter()
        self._waited = 0.0
        self._first_step = 0
        self._estimated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the progress bar where there is a terminal."""
        self._first_step = trainer.global_step
        self._logged, self._shown = Window(self._first_step), Window(self._first_step)
        self._ready = self._last_line = time.perf_counter()
        self._waited = waited_for(trainer)
        if trainer.is_global_zero and has_terminal():
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
        """Counts how long the loader let the step wait; checkpoints are written between two steps, too."""
        waited = waited_for(trainer)
        for window in (self._logged, self._shown):
            window.waited += waited - self._waited
        self._waited = waited

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collects the loss; every `log_every` optimizer steps, logs the metrics."""
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches  # Lightning divided it
        for window in (self._logged, self._shown):
            window.losses.append(loss)
        step = trainer.global_step
        if step > self._logged.step and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
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
            for window in (self._logged, self._shown):
                window.since += now - self._ready
            self._first_done += now - self._ready
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
        window = self._logged
        speed = {
            "perf/img_per_s": (step - window.step) * self.context.batch / window.seconds,
            "perf/data_wait": window.waited / window.seconds,
        }
        if self.context.most_images is not None:
            speed["perf/mfu"] = speed["perf/img_per_s"] / self.context.most_images
        cast(Objective, module).report_training(mean_loss(trainer, window.losses), **speed)
        self._logged = Window(step)

    def _show(self, trainer: Trainer, step: int) -> None:
        if not trainer.is_global_zero:
            self._shown = Window(step)
            return
        self._estimate(trainer, step)
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step)
        window, now = self._shown, time.perf_counter()
        every = LINE_EVERY if self._progress is None else BAR_EVERY
        if now - self._last_line < every and step != trainer.max_steps:
            return
        pace = window.seconds / (step - window.step)
        text = f"loss {float(window.loss()):.4f}  {self.context.batch / pace:.0f} img/s"
        text += f"  data wait {window.waited / window.seconds:.0%}"
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], metrics=text)
        else:
            left = format_duration((trainer.max_steps - step) * pace)
            log.info("step %d/%d  %s  ETA %s", step, trainer.max_steps, text, left)
        self._shown, self._last_line = Window(step), now

    def _estimate(self, trainer: Trainer, step: int) -> None:
        """Tells once, after the first steps, how long the run will take; the very first has more to do than others."""
        done, left, now = step - self._first_step, trainer.max_steps - step, time.perf_counter()
        if done == 1:
            self._first_done = now
        elif not self._estimated and left and (done == ESTIMATE_STEPS or now - self._first_done >= LINE_EVERY):
            self._estimated = True
            pace = (now - self._first_done) / (done - 1)
            log.info("about %s for the other %d steps, %.2g s each", format_about(left * pace), left, pace)


def waited_for(trainer: Trainer) -> float:
    """Seconds that a run has waited for its loader so far."""
    return cast(BatchLoader, trainer.train_dataloader).waited


def format_duration(seconds: float) -> str:
    """A duration as `h:mm:ss`."""
    total = round(seconds)
    return f"{total // 3600}:{total // 60 % 60:02}:{total % 60:02}"


def format_about(seconds: float) -> str:
    """A duration in the one unit that fits: `40 s`, `12 min`, `3 h`, `5 days`."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds / size < most:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{round(seconds / 86400)} days"
