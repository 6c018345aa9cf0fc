"""What a run reports before it trains: where it goes, what it learns from, how long it is, and on what."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mimsuite.data.folders import count_of
from mimsuite.runs.cost import Cost
from mimsuite.runs.objects import Compute
from mimsuite.settings.training import RunInputs, TrainingSettings
from mimsuite.version import __version__

if TYPE_CHECKING:
    from mimsuite.objectives.objective import Objective

log = logging.getLogger("mimsuite")


def report_start(settings: TrainingSettings, task: str) -> None:
    """Reports where the run goes and what it learns from."""
    index = settings.inputs.index
    counts = ", ".join(f"{split} {index.num_samples(split):,}" for split in index.splits)
    if (held := index.select("curve" if task == "pretrain" else "choose")).split == "train":
        counts += f" (of which {index.num_samples(held):,} are held out for validation)"
    log.info("mimsuite %s %s -> %s", __version__, task, settings.inputs.out)
    channels = count_of(index.channels, "channel")
    log.info("data      %s: %s images, %s %s", index.root, counts, channels, index.dtype)
    for line in index.reading:
        log.info("          %s", line)


def report_choices(settings: TrainingSettings, compute: Compute, cost: Cost | None = None) -> None:
    """Reports how long the run is, and every `auto` with its reason."""
    budget, loading, seed = settings.budget, settings.inputs.loading, settings.inputs.seed
    inputs = settings.inputs
    today = inputs.steps_before is None or any(override.startswith("workers=") for override in inputs.overrides)
    given = "as given" if today else "as before"
    epochs = round(budget.epochs, 1)
    passes = count_of(int(epochs) if epochs == int(epochs) else epochs, "epoch")
    log.info(
        *("length    %s of %s (%s), seed %d", count_of(budget.steps, "step"), count_of(budget.batch, "image")),
        *(passes, seed),
    )
    if (used := budget.per_epoch * budget.batch) < budget.samples:
        batches = count_of(budget.per_epoch, "batch")
        log.info("          an epoch is %s: %s of the %s images", batches, f"{used:,}", f"{budget.samples:,}")
    log.info("devices   %s", describe_devices(settings.inputs, compute))
    found = (
        f"precision={compute.precision} ({compute.reason})",
        f"micro_batch={compute.micro_batch} (images per forward pass on one device)",
        f"trainer.compile={str(compute.compile).lower()} ({compute.compile_reason})",
        f"workers={loading.workers} ({'cores of each process but one' if loading.chosen else given})",
    )
    crops = (f"augment.device=gpu (pictures are cropped on {compute.device.name})",) if loading.crops_on_device else ()
    costs = () if cost is None else (cost.describe(),)
    for note in (*settings.geometry.notes, *budget.notes, *found, *crops, *settings.notes, *costs):
        log.info("          %s", note)


def report_resume(settings: TrainingSettings, objective: Objective, step: int) -> None:
    """Reports where a resumed run goes on, and at which learning rate; `step` as of `step_of`."""
    budget, before = settings.budget, settings.inputs.steps_before
    if step < 0:
        return
    if step >= budget.steps:
        log.info("resume    all %d steps are done; the results are written now", budget.steps)
        return
    rate = budget.lr * objective.schedule(step)
    log.info("resume    at step %d of %d, learning rate %.3g (peak %.3g)", step, budget.steps, rate, budget.lr)
    if before not in (None, budget.steps):
        *first, last = objective.paced
        paced, verb = (f"{', '.join(first)} and {last}", "are those") if first else (last, "is that")
        longer = "          steps=%d, it was %s: from here on %s %s of a run of %d steps"
        log.info(longer, budget.steps, before, paced, verb, budget.steps)


def describe_devices(inputs: RunInputs, compute: Compute) -> str:
    """How many processes on what, who decided on their number, and what each of them has."""
    asked, team, strategy = inputs.devices, compute.team, inputs.spreading.strategy
    text = f"{count_of(team.size, 'process')} on {compute.device.name}"
    if team.nodes > 1:
        text += f", {team.local} on each of {team.nodes} machines"
    if team.launcher in ("torchrun", "srun"):
        text += f", started by {team.launcher}"
        text += "" if asked in (None, team.local) else f" (devices={asked} is not used)"
    if team.size > 1:
        return f"{text}; {'FSDP: each has a part of' if strategy == 'fsdp' else 'DDP: each has all'} weights"
    return text if strategy == "auto" else f"{text}; trainer.strategy={strategy} is not used by one"
