"""Optimizer steps without update, because loss or gradient was not finite: written down, and three in a row stop."""

from __future__ import annotations

import json
import logging
from collections import deque
from typing import Any, NamedTuple, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from mimsuite.callbacks.context import RunContext
from mimsuite.data.storage import OptionalWrites
from mimsuite.errors import RunError
from mimsuite.objectives.objective import Objective
from mimsuite.words import SKIPPED_IN_A_ROW

log = logging.getLogger("mimsuite")


class SkippedSteps(Callback):
    """Writes the sample ids of a skipped step to `skipped_steps.jsonl`; three in a row stop the run.

    The weights are then those from before the first of the three: from the third on, no step changes anything. It reads
    `skipped` of the Lightning module, on a GPU some steps later, and `overflowed`: a step whose gradients only the
    factor on a float16 loss made infinite is as good as none.

    Args:
        context: facts of the run.
    """

    def __init__(self, *, context: RunContext) -> None:
        self.file = context.folder / "skipped_steps.jsonl"
        self._writes = OptionalWrites(self.file.name)
        self._ids: list[int] = []
        self._row = 0
        self._asked: deque[_Step] = deque()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers the samples of the step in hand."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._ids = []
        self._ids += batch.ids.tolist()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks whether a step was skipped.

        Raises:
            RunError: the third in a row.
        """
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        if pl_module.overflowed:
            log.info("step %d skipped: float16 overflowed; the factor on the loss is halved", step)
            return
        self._asked.append(_Step(step, self._ids, Answer(cast(Objective, pl_module).skipped)))
        self._read(trainer, 0 if step == trainer.max_steps else late_steps(pl_module.device))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the last steps of a run that ends before its time.

        Raises:
            RunError: the third in a row.
        """
        self._read(trainer, 0)

    def _read(self, trainer: Trainer, left: int) -> None:
        """Reads all answers but the youngest `left`."""
        while len(self._asked) > left:
            self._judge(self._asked.popleft(), trainer.global_rank)

    def _judge(self, done: _Step, rank: int) -> None:
        if not done.skipped.read():
            self._row = 0
            return
        self._row += 1
        line = {"step": done.number, "rank": rank, "ids": done.ids}
        with self._writes.attempt(), self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        log.warning(
            "step %d skipped: loss or gradient is not finite; its samples are in skipped_steps.jsonl", done.number
        )
        if self._row == SKIPPED_IN_A_ROW:
            raise RunError(
                f"loss or gradient was not finite in {SKIPPED_IN_A_ROW} steps in a row, up to step {done.number}; the "
                "checkpoint has the weights from before them; look at the samples in skipped_steps.jsonl, or use a "
                "smaller lr"
            )


def late_steps(device: torch.device) -> int:
    """Steps after which an answer is read: a GPU's is long there then, and a CPU's is there at once."""
    return 4 if device.type == "cuda" else 0


class Answer:
    """A bool on the device that is read later, without waiting for what the device is given in between.

    Args:
        flag: a scalar.
    """

    def __init__(self, flag: Tensor) -> None:
        self._value, self._done = flag, None
        if flag.device.type == "cuda":
            self._value = torch.empty((), dtype=flag.dtype, pin_memory=True)
            self._value.copy_(flag, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def read(self) -> bool:
        """The value; waits until the device was where the flag was given."""
        if self._done is not None:
            self._done.synchronize()
        return bool(self._value)


class _Step(NamedTuple):
    number: int
    ids: list[int]
    skipped: Answer
