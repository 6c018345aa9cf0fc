"""When checkpoints are committed, and what a signal does: commit one more and stop, in all processes at one step."""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

log = logging.getLogger("mimsuite")

AGREE_EVERY = 5  # optimizer steps between the processes' asking each other whether a signal came
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}


class Checkpoints(Callback):
    """Commits a checkpoint every `every` optimizer steps, at the last one, and when a signal asks to stop.

    A step that is followed by validation is committed after that, so that what validation finds out is never lost.
    SIGINT, SIGTERM and SIGUSR1 end the run after the step in hand, with several processes at the next step that
    `AGREE_EVERY` divides; a second SIGINT ends it at once. Such a step is committed before its validation, too.

    Args:
        folder: the run's `checkpoints/`.
        every: optimizer steps between checkpoints.

    Attributes:
        exit_code: 0, or the process's exit code after a signal: 130 (SIGINT) or 143.
        seconds: that the run has trained and validated, in all its starts; what a kill undid is not counted.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self.exit_code = self._asked = 0
        self._saved = -1
        self._waiting = False
        self.seconds = 0.0
        self._counted = time.perf_counter()
        self._before: dict[signal.Signals, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The time so far, for a resumed run to count on from."""
        self._count()
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Counts on from what the interrupted run had."""
        self.seconds = state_dict["seconds"]

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds, self._counted = self.seconds + now - self._counted, now

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens for signals from the first validation on."""
        self.listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens for signals; a resumed run's checkpoint counts as saved."""
        self._saved = trainer.global_step
        self._counted = time.perf_counter()
        self.listen()

    def listen(self) -> None:
        """Takes the signals over."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._stop) for number in EXIT_CODES}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = EXIT_CODES[signal.Signals(number)]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves on the optimizer steps that are due; after a signal, on this one."""
        step = trainer.global_step
        if step == self._saved or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self.exit_code = self._agreed(trainer, step)
        validates, due = validates_next(trainer), step % self.every == 0 or step == trainer.max_steps
        if self.exit_code:
            trainer.should_stop = True
            if not validates:
                trainer.limit_val_batches = 0  # Lightning would validate once more before it stops
        if self.exit_code or (due and not validates):
            self._save(trainer)
        self._waiting = validates and (due or self.exit_code != 0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves on the steps that waited for their validation, and where a callback ends the run."""
        stopped = trainer.should_stop and self._saved != trainer.global_step  # by a callback: the run ends here
        if (self._waiting or stopped) and not trainer.sanity_checking:
            self._save(trainer)
            self._waiting = False

    def _save(self, trainer: Trainer) -> None:
        self._saved = trainer.global_step
        trainer.save_checkpoint(self.folder / f"step_{self._saved:09d}.ckpt")

    def _agreed(self, trainer: Trainer, step: int) -> int:
        """The exit code that all processes know of."""
        if trainer.world_size == 1:
            return self._asked
        if step % AGREE_EVERY:
            return 0
        asked = torch.tensor(self._asked, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(asked, reduce_op="max"))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._count()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back, as Lightning is about to do with its own."""
        self.release()

    def release(self) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def validates_next(trainer: Trainer) -> bool:
    """Whether Lightning validates after the batch in hand, as it decides that itself."""
    every = trainer.val_check_batch
    assert isinstance(every, int)
    return (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % every == 0
