"""How fast a run would train on this machine, measured in its first steps; writes nothing."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mimsuite.config.instantiate import instantiate
from mimsuite.data.folders import count_of
from mimsuite.models.device import Device
from mimsuite.runs.cost import Cost, find_cost, format_flops
from mimsuite.runs.fitting import WITHOUT_OUTPUT, find_limit, power_below
from mimsuite.runs.life import choose_compute, fit
from mimsuite.runs.objects import Compute, trainer_arguments
from mimsuite.runs.peak import wait_for_device
from mimsuite.runs.processes import processes_of
from mimsuite.settings.budget import fitted_micro_batch
from mimsuite.settings.read import format_size
from mimsuite.settings.team import Team
from mimsuite.settings.training import TrainingSettings

if TYPE_CHECKING:
    import torch

    from mimsuite.callbacks.stopwatch import Stopwatch
    from mimsuite.data.datamodule import ImageData
    from mimsuite.objectives.objective import Objective

log = logging.getLogger("mimsuite")

S = TypeVar("S", bound=TrainingSettings)

PATIENCE = 30.0  # seconds of one micro-batch from which a line says that it cannot be faster
MOST = 1024  # images of the largest micro-batch that is looked for, unless the batch is larger
GIB = 1 << 30


@dataclass(frozen=True)
class Share(Generic[S]):
    """What one device of a run trains with, ready for a Trainer.

    Attributes:
        settings: of the run, with this device's part of the batch.
        compute: how it computes.
        objective: the Lightning module.
        data: its loaders.
        cost: of an image; None where it cannot be counted.
        largest: the largest micro-batch that fits; None but on a GPU.
        devices: that share the batch.
    """

    settings: S
    compute: Compute
    objective: Objective
    data: ImageData
    cost: Cost | None
    largest: int | None
    devices: int

    @property
    def place(self) -> torch.device:
        """The device, as torch names it."""
        import torch

        on = self.compute.device.accelerator
        return torch.device("cuda" if on == "gpu" else on)


def make_share(settings: S, make: Callable[[S, Compute], tuple[Objective, ImageData]], most: int = 0) -> Share[S]:
    """Makes what one device trains with, and tries what fits into the memory of a GPU.

    Args:
        settings: of the run; its length does not matter.
        make: the Lightning module and the loaders.
        most: images of the largest micro-batch that is tried, where the part of the batch is smaller.

    Raises:
        InputError: the devices cannot share the batch.
    """
    import torch

    from mimsuite.runs.cluster import set_rank

    inputs, alone = settings.inputs, Team(0, 1, 1)
    devices = processes_of(inputs.devices, inputs.nodes, inputs.accelerator).size
    fitted_micro_batch(inputs.micro_batch, settings.budget.batch, devices, settings.budget.batch)
    part = settings.budget.batch // devices
    settings = replace(settings, budget=replace(settings.budget, batch=part))
    set_rank(alone)
    compute = choose_compute(settings, alone)
    torch.manual_seed(inputs.seed)
    objective, data = make(settings, compute)
    objective.skip_start()
    cost = find_cost(objective, data, compute.device, compute.precision)
    largest = None
    if compute.device.accelerator == "gpu":
        largest = find_limit(settings, compute, objective, data, max(most, part))
        data.micro_batch = fitted_micro_batch(inputs.micro_batch, part, 1, largest)
        compute = replace(compute, micro_batch=data.micro_batch)
    return Share(settings, compute, objective, data, cost, largest, devices)


def measure_speed(
    settings: S, make: Callable[[S, Compute], tuple[Objective, ImageData]], seconds: float
) -> dict[str, Any]:
    """Trains for some seconds as the run would, on one device with its part of the batch; reports and returns it.

    Args:
        settings: of the run; its length does not matter.
        make: the Lightning module and the loaders.
        seconds: how long steps are timed.

    Raises:
        InputError: the devices cannot share the batch.
        RunError: the device is out of memory.
    """
    from mimsuite.callbacks.stopwatch import Stopwatch

    share = make_share(settings, make, MOST)
    settings, compute, objective = share.settings, share.compute, share.objective
    if compute.compile:
        objective.compile_blocks(compute.micro_batch)
    watch = Stopwatch(seconds, lambda: wait_for_device(share.place))
    report_setup(settings, compute, objective, share.devices)
    if share.cost is not None:
        report_slow(compute.micro_batch, share.cost)
    arguments = trainer_arguments(settings, compute) | WITHOUT_OUTPUT | {"callbacks": [watch]}
    trainer = instantiate(settings.groups.trainer, settings.inputs.trusted, **arguments)
    fit(trainer, objective, share.data, None, compute.micro_batch)
    return report_speed(compute, watch, share.cost, share.largest) | {
        "image_size": list(settings.geometry.image_size),
        "batch": settings.budget.batch * share.devices,
        "devices": share.devices,
        "workers": settings.inputs.loading.workers,
        "parameters": sum(p.numel() for p in objective.model.parameters()),
    }


def report_setup(settings: TrainingSettings, compute: Compute, objective: Objective, devices: int) -> None:
    """Reports what is measured."""
    inputs, part, micro = settings.inputs, settings.budget.batch, compute.micro_batch
    parameters = sum(p.numel() for p in objective.model.parameters())
    size = format_size(settings.geometry.image_size)
    log.info("model     %s, %s parameters, image %s", settings.model.title, f"{parameters:,}", size)
    shared = f"one of {devices} devices that share the batch, " if devices > 1 else ""
    log.info("device    %s%s", shared, compute.device.name)
    log.info("          precision=%s (%s)", compute.precision, compute.reason)
    log.info("          trainer.compile=%s (%s)", str(compute.compile).lower(), compute.compile_reason)
    workers = count_of(inputs.loading.workers, "loader worker")
    log.info("batch     %s in micro-batches of %d; %s", count_of(part, "image"), micro, workers)


def report_slow(micro: int, cost: Cost) -> None:
    """Reports before a long wait that nothing can be measured faster: a forward pass is never cut in two."""
    if (least := micro / cost.most_images) > PATIENCE:
        fits = power_below(int(micro * PATIENCE / least) + 1)
        log.info(
            "          a pass of %d images takes at least %.0f s here; micro_batch=%d is faster", micro, least, fits
        )


def report_speed(compute: Compute, watch: Stopwatch, cost: Cost | None, largest: int | None) -> dict[str, Any]:
    """Reports what was measured; returns it by name, speeds per device."""
    speed = watch.images / watch.seconds
    memory, whose = peak_memory(compute.device)
    steps = count_of(watch.steps, "optimizer step") if watch.steps else "part of an optimizer step"
    images = count_of(watch.images, "image")
    first = "" if watch.warm else ", the slow beginning among them: give a smaller batch= or micro_batch="
    log.info("speed     %.4g img/s (%s, %s, %.1f s%s)", speed, steps, images, watch.seconds, first)
    if cost is not None:
        peak, flops = format_flops(cost.peak.flops), format_flops(cost.flops)
        log.info("mfu       %.1f %% of %sFLOP/s, %s", 100 * speed / cost.most_images, peak, cost.peak.source)
        log.info("          %sFLOP for an image, forward and backward", flops)
    log.info("data wait %.1f %% of the time", 100 * watch.waited / watch.seconds)
    log.info("memory    %.2f GiB, %s", memory, whose)
    log.info("largest   %s", describe_largest(largest))
    return {
        "device": compute.device.name,
        "precision": compute.precision,
        "compile": compute.compile,
        "micro_batch": compute.micro_batch,
        "img_per_s": speed,
        "mfu": None if cost is None else speed / cost.most_images,
        "flops_per_image": None if cost is None else cost.flops,
        "peak_flops": None if cost is None else cost.peak.flops,
        "peak_source": None if cost is None else cost.peak.source,
        "data_wait": watch.waited / watch.seconds,
        "memory_gib": memory,
        "memory_of": whose,
        "largest_micro_batch": largest,
        "steps": watch.steps,
        "images": watch.images,
        "seconds": watch.seconds,
        "without_first_steps": watch.warm,
    }


def describe_largest(largest: int | None) -> str:
    """The largest micro-batch, in words."""
    if largest is None:
        return "micro_batch: tried on GPUs only"
    return f"micro_batch={largest} fits into the memory{' (no larger one was tried)' if largest >= MOST else ''}"


def peak_memory(on: Device) -> tuple[float, str]:
    """The most memory that was used so far, in GiB, and which memory that is."""
    import torch

    if on.accelerator == "gpu":
        return torch.cuda.max_memory_allocated() / GIB, "the most that tensors took of the GPU's memory"
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return most / GIB, "the most that this process took of the machine's memory, without its loader workers"
