"""When checkpoints are committed: in time, when a signal asks to stop, and before an error ends the run."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _BaseProgress
from lightning.pytorch.strategies import ModelParallelStrategy

from mimsuite.callbacks.stop import EXIT_CODES, StopRequest
from mimsuite.objectives.skipping import RunningStatistics

log = logging.getLogger("mimsuite")

AGREE_EVERY = 5  # optimizer steps between the processes' asking each other whether a signal came


class Checkpoints(Callback):
    """Commits a checkpoint every `every` optimizer steps, at the last one, and when a signal asks to stop.

    A step that is followed by validation is committed after that, so that what validation finds out is never lost.
    A signal ends the run after the step in hand, with several processes at the next step that `AGREE_EVERY` divides; a
    second SIGINT ends it at once. Such a step is committed before its validation, too.

    When an error ends the run, the last whole optimizer step is committed, as if its checkpoint had been due: gradients
    of a step that is not whole are not in it. Where the error came while that step was validated, the resumed run
    validates it again. Weights that are spread over processes cannot be gathered without the others, which may be gone:
    of these the checkpoint before counts.

    Args:
        folder: the run's `checkpoints/`.
        every: optimizer steps between checkpoints.
        seconds: the longest time between checkpoints, by the clock of the first process; None for any.
        forces: whether a second SIGINT may end this process where it stands.

    Attributes:
        exit_code: 0, or the process's exit code after a signal: 130 (SIGINT) or 143.
        seconds: that the run has trained and validated, in all its starts; what a kill undid is not counted.
    """

    def __init__(self, folder: Path, every: int, *, seconds: float | None = None, forces: bool = False) -> None:
        self.folder, self.every, self.patience = folder, every, seconds
        self.stop = StopRequest(forces=forces, when="after this step")
        self.exit_code = 0
        self._saved = -1
        self._waiting = self._validates = self._saving = self._asked = False
        self._whole: WholeStep | None = None
        self.seconds = 0.0
        self._counted = self._written = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """The time so far, for a resumed run to count on from; whether it validates first."""
        self._count()
        return {"seconds": self.seconds, "validates": self._validates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Counts on from what the interrupted run had."""
        self.seconds, self._validates = state_dict["seconds"], state_dict.get("validates", False)

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds, self._counted = self.seconds + now - self._counted, now

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Counts micro-batches anew where a step has another number of them now, on other devices.

        Lightning counts micro-batches; a count that is not of whole steps would cut the first step short.
        """
        micro = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for counts in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
            if isinstance(counts, dict):
                counts.update(dict.fromkeys(counts, micro))

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens for signals from the first validation on."""
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens for signals; a resumed run's checkpoint counts as saved."""
        if trainer.world_size > 1:
            self.stop.when = f"within {AGREE_EVERY} steps"
        self._saved = trainer.global_step
        self._counted = self._written = time.perf_counter()
        self._listen(trainer)
        if self._validates:
            self._validates = False
            validate(trainer)

    def _listen(self, trainer: Trainer) -> None:
        """Listens, and takes over a SIGTERM that Lightning has heard a moment before: it would write no checkpoint."""
        self.stop.listen()
        if trainer.received_sigterm:
            trainer._signal_connector.received_sigterm = False
            self.stop.exit_code = EXIT_CODES[signal.SIGTERM]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves on the optimizer steps that are due; after a signal, on this one."""
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self._whole is None:
            self._whole = WholeStep(trainer, pl_module)
        self._whole.remember()
        if step == self._saved:
            return
        self.exit_code, late = self._agreed(trainer, step)
        last, validates = step == trainer.max_steps, validates_next(trainer)
        due = late or step % self.every == 0 or last
        if last and trainer.limit_val_batches and not (validates or self.exit_code or trainer.should_stop):
            trainer.should_stop = self._asked = validates = True  # the metrics of the end are those of its weights
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
        if self._asked:
            trainer.should_stop = self._asked = False  # the run ends because it is done, not because it was stopped

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Commits the last whole step before an error ends the run; the first process does it alone, if it can."""
        step, whole = trainer.global_step, self._whole
        if whole is None or not isinstance(exception, Exception) or not trainer.is_global_zero:
            return
        if isinstance(trainer.strategy, ModelParallelStrategy):
            log.warning("trainer.strategy=fsdp: no process has all weights, so nothing is committed after an error")
            return
        self._validates = bool(trainer.validating)
        path = self.path(step)
        unfinished = self._validates and step == trainer.max_steps  # resumed there, it would not validate again
        if self._saving or path.exists() or unfinished:
            return
        if step == whole.step:
            whole.restore()
        try:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.save_checkpoint(checkpoint, path)  # without waiting for processes that may be gone
        except Exception as error:  # the one that ends the run counts
            log.warning("checkpoint %s was not written: %s", path.name, error)
        if path.exists():
            log.info("step %d is committed before the run ends; resume=true goes on from it", step)

    def path(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.folder / f"step_{step:09d}.ckpt"

    def _save(self, trainer: Trainer) -> None:
        self._saved = trainer.global_step
        self._saving = True
        trainer.save_checkpoint(self.path(self._saved))
        self._saving = False
        self._written = time.perf_counter()

    def _agreed(self, trainer: Trainer, step: int) -> tuple[int, bool]:
        """The exit code that all processes know of, and whether the time between checkpoints is over."""
        late = self.patience is not None and time.perf_counter() - self._written >= self.patience
        if trainer.world_size == 1:
            return self.stop.exit_code, late
        if step % AGREE_EVERY:
            return 0, False
        code, due = highest([self.stop.exit_code, late and trainer.is_global_zero])
        return code, bool(due)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._count()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back, as Lightning is about to do with its own."""
        self.stop.release()


def highest(values: list[int]) -> list[int]:
    """The largest values of all processes, place by place; told by their hosts, so that no device waits."""
    known = torch.tensor(values)
    torch.distributed.all_reduce(known, torch.distributed.ReduceOp.MAX)
    found: list[int] = known.tolist()
    return found


class WholeStep:
    """What changes before the next optimizer step is whole, as it was after the last one.

    That is Lightning's counts, and the running statistics of BatchNorm.

    Args:
        trainer: of the run.
        module: what it trains.

    Attributes:
        step: the optimizer steps done.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self.step, self._trainer = -1, trainer
        self._counts = [vars(progress) for progress in progress_of(trainer.fit_loop)]
        self._values: list[dict[str, Any]] = []
        self._stepped = 0
        self._statistics = RunningStatistics(module)

    def remember(self) -> None:
        """Takes the state after a whole step."""
        self.step = self._trainer.global_step
        self._values = [counts.copy() for counts in self._counts]
        self._stepped = self._trainer.fit_loop.epoch_loop._batches_that_stepped
        self._statistics.remember()

    def restore(self) -> None:
        """Gives all of it back, before a run ends."""
        for counts, values in zip(self._counts, self._values, strict=True):
            counts.update(values)
        self._trainer.fit_loop.epoch_loop._batches_that_stepped = self._stepped
        self._statistics.restore()


def progress_of(part: Any) -> Iterator[Any]:
    """The objects that hold the counts of a loop of Lightning's, and of all loops in it."""
    for inner in vars(part).values():
        if isinstance(inner, _BaseProgress):
            yield inner
        if isinstance(inner, _BaseProgress | _Loop):
            yield from progress_of(inner)


def validate(trainer: Trainer) -> None:
    """Validates before the next step, as Lightning does after one."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def validates_next(trainer: Trainer) -> bool:
    """Whether Lightning validates after the batch in hand, as it decides that itself."""
    every = trainer.val_check_batch
    assert isinstance(every, int)
    due = (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % every == 0
    return due and bool(trainer.limit_val_batches)
