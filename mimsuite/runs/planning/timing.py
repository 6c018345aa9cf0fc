"""What a run would do a second, and with how much memory: some of its validation, its steps and its loading, timed."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lightning import Callback, LightningModule, Trainer

from mimsuite.callbacks.reconstructions import draw_sheet, first_of
from mimsuite.callbacks.stopwatch import Stopwatch
from mimsuite.config.instantiate import instantiate
from mimsuite.data.storage import OptionalWrites
from mimsuite.runs.cost import Cost
from mimsuite.runs.fitting import WITHOUT_OUTPUT
from mimsuite.runs.life import fit
from mimsuite.runs.objects import Compute, trainer_arguments
from mimsuite.runs.peak import wait_for_device
from mimsuite.runs.speed import GIB, Share, make_share, peak_memory
from mimsuite.settings.bench import STEPS
from mimsuite.settings.budget import fitted_micro_batch
from mimsuite.settings.training import TrainingSettings

if TYPE_CHECKING:
    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.objective import Objective
    from mimsuite.types import Batch

log = logging.getLogger("mimsuite")

S = TypeVar("S", bound=TrainingSettings)

LOWEST = 0.2  # part of a device's peak that a training step reaches at least; so that no timing takes too long
LONG_PASS = 2.0  # seconds of a forward and backward pass above which fewer images are put through at once
TOO_LONG = 12.0  # seconds of a pass of one image from which nothing is timed
VALIDATING, LOADING = 3.0, 2.5  # seconds, at most about so many, beside those of the steps
FORWARD = 3  # times as fast as a forward and backward pass
SHOWN = 8  # images of a sheet
OPTIMIZER_STATES = 2  # numbers that AdamW keeps for each weight


@dataclass(frozen=True)
class Timing:
    """What was measured of a run, on one device; rates in images a second.

    Attributes:
        compute: how it computes.
        devices: that would share the batch.
        parameters: of model and head.
        rate: of training: the lower of steps and loading.
        steps: of the steps with their loader.
        loading: of the loader alone; None where no process of its own loads.
        waited: part of the steps' time that was waiting for data.
        validating: of validation.
        first: seconds from the start of a loader to the first batch that is done.
        picture: seconds of a validation's sheet of reconstructions.
        built: seconds to build the model and to try what fits.
        memory: GiB.
        memory_of: which memory that is.
        loss: of validation before the first step.
        line: of a prediction that is one colour for each image, or the mean target; None where there is none.
        line_name: its metric.
        loss_images: that these two are means over.
        checkpoint: bytes.
        weights: bytes.
        cost: of an image; None where it cannot be counted.
        timed: False where the model is too slow for that, and the rates are those of `LOWEST`.
    """

    compute: Compute
    devices: int
    parameters: int
    rate: float
    steps: float
    loading: float | None
    waited: float
    validating: float
    first: float
    picture: float
    built: float
    memory: float
    memory_of: str
    loss: float | None
    line: float | None
    line_name: str
    loss_images: int
    checkpoint: int
    weights: int
    cost: Cost | None
    timed: bool


def time_run(settings: S, make: Callable[[S, Compute], tuple[Objective, ImageData]], seconds: float) -> Timing:
    """Validates, trains and loads for a short while, as the run would, and writes nothing.

    A model that is slow here gets fewer images at once; one that would take `TOO_LONG` for a single image is not timed.

    Args:
        settings: of the run; its length does not matter.
        make: the Lightning module and the loaders.
        seconds: how long steps are timed.

    Raises:
        InputError: the devices cannot share the batch; images that cannot be read.
        RunError: the device is out of memory; data that do not arrive.
    """
    began = time.perf_counter()
    endless = replace(settings.budget, steps=STEPS, val_every=STEPS)  # the clock ends it
    settings = replace(settings, inputs=replace(settings.inputs, compile=False), budget=endless)
    share = make_share(settings, make)
    objective, data, settings = share.objective, share.data, share.settings
    built, wanted = time.perf_counter() - began, share.compute.micro_batch
    sizes = weigh(objective)
    one = 0.0 if share.cost is None else 1 / (LOWEST * share.cost.most_images)
    if one > TOO_LONG:
        return by_flops(share, one, built, sizes)
    fitting = max(1, int(LONG_PASS / one)) if one and not objective.compares_images else wanted
    data.micro_batch = fitted_micro_batch(None, settings.budget.batch, 1, min(wanted, fitting))
    compute = replace(share.compute, micro_batch=data.micro_batch)
    batches = max(2, math.ceil(FORWARD * VALIDATING / (one * data.micro_batch))) if one else 2
    watch = Stopwatch(seconds, lambda: wait_for_device(share.place), longest=2 * seconds + 4)
    validation, memory = ValidationWatch(), MemoryWatch()
    arguments = trainer_arguments(settings, compute) | WITHOUT_OUTPUT
    arguments |= {"limit_val_batches": batches, "num_sanity_val_steps": batches}
    arguments |= {"callbacks": [validation, memory, watch]}
    trainer = instantiate(settings.groups.trainer, settings.inputs.trusted, **arguments)
    fit(trainer, objective, data, None, compute.micro_batch)
    steps = watch.images / watch.seconds
    loading = None
    if (settings.inputs.loading.workers and share.compute.device.accelerator == "cpu") or (
        settings.inputs.loading.workers and watch.waited > 0.02 * watch.seconds
    ):
        loading = time_loading(data, settings.inputs.loading.workers, LOADING)
    used, whose = peak_memory(share.compute.device)
    if share.compute.device.accelerator == "cpu":
        used = memory.expected(wanted / data.micro_batch, sizes[0]) or used
    metrics = validation.metrics
    line = next((name for name in metrics if name.startswith("val/loss_mean")), "")
    return Timing(
        compute=share.compute,
        devices=share.devices,
        parameters=sum(p.numel() for p in objective.model.parameters()),
        rate=steps if loading is None else min(steps, loading),
        steps=steps,
        loading=loading,
        waited=watch.waited / watch.seconds,
        validating=validation.rate,
        first=validation.first,
        picture=validation.picture,
        built=built,
        memory=used,
        memory_of=whose,
        loss=metrics.get("val/loss"),
        line=metrics.get(line),
        line_name=line,
        loss_images=validation.images,
        checkpoint=sizes[1],
        weights=sizes[2],
        cost=share.cost,
        timed=True,
    )


def by_flops(share: Share[Any], one: float, built: float, sizes: tuple[int, int, int]) -> Timing:
    """What is known of a model that is too slow to be timed; `one`: seconds of an image."""
    _, whose = peak_memory(share.compute.device)
    return Timing(
        compute=share.compute,
        devices=share.devices,
        parameters=sum(p.numel() for p in share.objective.model.parameters()),
        rate=1 / one,
        steps=1 / one,
        loading=None,
        waited=0.0,
        validating=FORWARD / one,
        first=built,
        picture=0.0,
        built=built,
        memory=resident() + 2 * sizes[0] / GIB,
        memory_of=whose,
        loss=None,
        line=None,
        line_name="",
        loss_images=0,
        checkpoint=sizes[1],
        weights=sizes[2],
        cost=share.cost,
        timed=False,
    )


def weigh(objective: Objective) -> tuple[int, int, int]:
    """Bytes of what training adds to the weights (gradients, moments), of a checkpoint, and of `weights/`."""
    trained = sum(p.nbytes for p in objective.parameters() if p.requires_grad)
    held = sum(tensor.nbytes for tensor in objective.state_dict().values() if hasattr(tensor, "nbytes"))
    saved = sum(p.nbytes for p in objective.model.parameters())
    return (1 + OPTIMIZER_STATES) * trained, held + OPTIMIZER_STATES * trained, saved


def time_loading(data: ImageData, workers: int, seconds: float) -> float | None:
    """Images a second of the training loader alone, once its workers run; None where they are too few to tell."""
    images, since = 0, 0.0
    began = time.perf_counter()
    with closing(iter(data.train_dataloader())) as batches:  # type: ignore[type-var]
        for number, batch in enumerate(batches):
            now = time.perf_counter()
            if number <= workers:
                since = now
            else:
                images += len(batch.images)
            if (now - since > seconds and number > workers) or now - began > 3 * seconds:
                break
    spent = time.perf_counter() - since
    return images / spent if images else None


class ValidationWatch(Callback):
    """Times the first validation batches of a run: the very first by itself.

    Attributes:
        first: seconds to the end of the first one.
        rate: images a second of the others; of the first where it is the only one.
        images: of all of them.
        metrics: that were found.
        picture: seconds of a sheet of its first images.
    """

    def __init__(self) -> None:
        self.first, self.rate, self.images, self.picture = 0.0, 0.0, 0, 0.0
        self.metrics: dict[str, float] = {}
        self._began = self._started = self._last = 0.0
        self._rest = 0
        self._shown: Batch | None = None
        self._drawing = OptionalWrites("a picture of reconstructions", Exception)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins."""
        self._began = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the metrics from before the first step; Lightning would validate again where it is stopped."""
        self.metrics = dict(cast("Objective", pl_module).last_metrics)
        trainer.limit_val_batches = 0

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Takes the time when the first batch is there."""
        if batch_idx == 0:
            self._started = time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts a batch."""
        if not trainer.sanity_checking:
            return
        if pl_module.device.type == "cuda":
            wait_for_device(pl_module.device)
        now, count = time.perf_counter(), len(batch.images)
        self.images += count
        if batch_idx == 0:
            self._shown = first_of(batch, SHOWN)
            self.first, self.rate = now - self._began, count / (now - self._started)
            self._last = now
        else:
            self._rest += count
            self.rate = self._rest / (now - self._last)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Times a sheet, as a run draws one after each validation."""
        if self._shown is not None and trainer.sanity_checking:
            began = time.perf_counter()
            with self._drawing.attempt():  # as in a run, where no picture ends it
                draw_sheet(cast("Objective", pl_module), self._shown, "")
            self.picture, self._shown = time.perf_counter() - began, None


class MemoryWatch(Callback):
    """Looks at this process's memory where a training step has the most of it.

    Attributes:
        before: GiB before the first step.
        most: GiB at the end of a forward or backward pass.
    """

    def __init__(self) -> None:
        self.before = self.most = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins."""
        self.before = resident()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        """Looks after the forward pass."""
        self.most = max(self.most, resident())

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks after the backward pass."""
        self.most = max(self.most, resident())

    def expected(self, times: float, added: int) -> float:
        """GiB of a run that puts through `times` as many images at once; 0 where this machine does not tell.

        Args:
            times: as many.
            added: bytes of gradients and moments, which do not grow.
        """
        growing = max(0.0, self.most - self.before - added / GIB)
        return self.most + (times - 1) * growing if self.most else 0.0


def resident() -> float:
    """GiB of memory of this process now; 0 where the system does not say it in a file."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIB if file.is_file() else 0.0
