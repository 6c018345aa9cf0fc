"""Length and pace of a training run, in optimizer steps. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from mimsuite.data.folders import count_of
from mimsuite.errors import InputError
from mimsuite.settings.read import is_number, read, read_int, read_number, read_positive

DEFAULT_EPOCHS = 100
DEFAULT_STEPS = (1_000, 100_000)
DEFAULT_BATCH = 256
SAVE_STEPS, SAVE_SECONDS = 500, 300.0  # the most between two checkpoints that `save_every=auto` allows
ENDLESS = 1 << 62  # more images than any data have


@dataclass(frozen=True)
class Budget:
    """Length and pace of a run, in optimizer steps.

    Attributes:
        batch: images per optimizer step.
        batch_chosen: whether their number was chosen here.
        steps: optimizer steps.
        epochs: the same as passes over the training images; what fills no batch at the end of a pass is left out.
        per_epoch: batches of a pass.
        samples: training images.
        lr: peak learning rate after scaling.
        weight_decay: of the optimizer.
        warmup: steps of the learning rate's warm-up.
        val_every: steps between validations.
        save_every: steps between checkpoints.
        save_seconds: the longest time between them; None for any.
        notes: `key=value (reason)` for every value that was chosen here.
    """

    batch: int
    batch_chosen: bool
    steps: int
    epochs: float
    per_epoch: int
    samples: int
    lr: float
    weight_decay: float
    warmup: int
    val_every: int
    save_every: int
    save_seconds: float | None
    notes: tuple[str, ...]


def read_budget(cfg: DictConfig, samples: int, processes: int = 1) -> Budget:
    """Reads the length of a run and its learning rate.

    Args:
        cfg: read are `batch steps epochs lr val_every save_every optim schedule`.
        samples: training images.
        processes: of the run, which share the batch.

    Raises:
        InputError: a value of the wrong kind; both `steps` and `epochs`; less data than one batch.
    """
    batch, why_batch = read_batch(cfg, samples, processes)
    if samples < 1:
        raise InputError("0 training images (those for validation are not among them); give at least 2 images in data=")
    if samples < processes:
        raise InputError(f"{processes} devices need as many training images, there are {samples}; use fewer devices")
    if samples < batch:
        raise InputError(
            f"batch={batch} is larger than the {samples} training images; use batch={2 ** int(math.log2(samples))}"
        )
    per_epoch = samples // batch
    steps, why_steps = read_steps(cfg, per_epoch)
    decay = read_number(cfg, "optim.weight_decay", use="0.05, or 0 for none")
    lr, why_lr = read_lr(cfg, batch)
    warmup, why_warmup = read_warmup(cfg, steps)
    val_every = read_int(cfg, "val_every", auto=max(1, steps // 10))
    why_val = [f"val_every={val_every} (a tenth of the run)"] if read(cfg, "val_every") == "auto" else []
    save_every = read_int(cfg, "save_every", auto=min(val_every, SAVE_STEPS))
    seconds = SAVE_SECONDS if read(cfg, "save_every") == "auto" else None
    notes = (*why_batch, *why_steps, *why_lr, *why_warmup, *why_val)
    pace = (lr, decay, warmup, val_every, save_every, seconds)
    chosen = read(cfg, "batch") == "auto"
    return Budget(batch, chosen, steps, steps / per_epoch, per_epoch, samples, *pace, notes)


def check_pace(cfg: DictConfig) -> None:
    """Refuses what no data make right, before they are opened: a large folder or a slow server takes its time.

    Raises:
        InputError: a value of the wrong kind; both `steps` and `epochs`.
    """
    read_budget(cfg, ENDLESS)


def read_batch(cfg: DictConfig, samples: int, processes: int) -> tuple[int, list[str]]:
    """Images per optimizer step, and why so many where they are not the default.

    `auto` gives each process a power of two, which micro-batches divide.
    """
    each = max(1, min(DEFAULT_BATCH, samples) // processes)
    batch = read_int(cfg, "batch", auto=processes * 2 ** int(math.log2(each)))
    if read(cfg, "batch") != "auto" or batch == DEFAULT_BATCH:
        return batch, []
    if samples < DEFAULT_BATCH:
        return batch, [f"batch={batch} (there are {samples} training images, fewer than {DEFAULT_BATCH})"]
    return batch, [f"batch={batch} ({count_of(batch // processes, 'image')} on each of {processes} devices)"]


def read_steps(cfg: DictConfig, per_epoch: int) -> tuple[int, list[str]]:
    """The optimizer steps of the run, and why so many.

    Args:
        cfg: read are `steps` and `epochs`.
        per_epoch: batches of one pass over the training images.

    Raises:
        InputError: both are given, or a value of the wrong kind.
    """
    given, epochs = read(cfg, "steps"), read(cfg, "epochs")
    if given is not None and epochs is not None:
        raise InputError(f"steps={given} and epochs={epochs} are both set; give one of them")
    if given is not None:
        return read_int(cfg, "steps"), []
    if epochs is not None:
        steps = max(1, round(read_positive(cfg, "epochs") * per_epoch))
        return steps, [f"steps={steps} ({count_of(epochs, 'epoch')} of {count_of(per_epoch, 'batch')})"]
    low, high = DEFAULT_STEPS
    whole = DEFAULT_EPOCHS * per_epoch
    steps = min(max(whole, low), high)
    reason = f"{DEFAULT_EPOCHS} epochs"
    if steps != whole:
        reason = f"chosen because {DEFAULT_EPOCHS} epochs would be {whole:,} steps{' only' * (whole < low)}"
    return steps, [f"steps={steps} ({reason}; set steps= or epochs=)"]


def read_lr(cfg: DictConfig, batch: int) -> tuple[float, list[str]]:
    """The peak learning rate, and why so high: `auto` scales `optim.base_lr` with the batch."""
    base, per = read_positive(cfg, "optim.base_lr"), read_positive(cfg, "optim.base_batch")
    lr = read_positive(cfg, "lr", auto=base * batch / per)
    return lr, [f"lr={lr:.3g} ({base:g} x batch {batch} / {per:g})"] if read(cfg, "lr") == "auto" else []


def read_warmup(cfg: DictConfig, steps: int) -> tuple[int, list[str]]:
    """The steps of the warm-up, and why so many."""
    value = read(cfg, "schedule.warmup")
    warmup = warmup_steps(value, steps)
    share = "a twentieth" if value == "auto" else f"{value:g}"
    return warmup, [f"schedule.warmup={warmup} ({share} of the run)"] if warmup != value else []


def warmup_steps(value: Any, steps: int) -> int:
    """Steps of the warm-up: a whole number of them, a fraction of the run, or `auto`.

    Raises:
        InputError: none of these.
    """
    if value == "auto":
        return steps // 20
    if not is_number(value) or value < 0 or (isinstance(value, float) and value >= 1):
        raise InputError(
            f"schedule.warmup={value} is neither a whole number of steps nor a fraction of the run; use steps (500), "
            "a fraction below 1 (0.05), or auto"
        )
    return value if isinstance(value, int) else round(value * steps)


def fitted_micro_batch(given: int | None, batch: int, devices: int, limit: int) -> int:
    """Images per forward pass on one device; accumulation is `batch / (devices x micro_batch)`.

    Args:
        given: what the user asked for; None: chosen here.
        batch: images per optimizer step.
        devices: processes.
        limit: the most images that are chosen here.

    Raises:
        InputError: the batch is not a whole multiple.
    """
    if batch % devices:
        raise InputError(
            f"batch={batch} is not a multiple of the {devices} devices; use batch={-(-batch // devices) * devices}"
        )
    share = batch // devices
    if given is None:
        return max(n for n in range(1, min(share, max(limit, 1)) + 1) if share % n == 0)
    if share % given:
        fits = max(n for n in range(1, min(share, given) + 1) if share % n == 0)
        raise InputError(
            f"micro_batch={given} does not divide batch {batch} / {devices} devices = {share}; use micro_batch={fits}"
        )
    return given


def shared_micro_batch(before: int | None, batch: int, devices: int) -> int | None:
    """The `micro_batch` of a run that goes on: as before, or less where the devices of today have other shares.

    Args:
        before: that of the run; None for one that is chosen anew.
        batch: images per optimizer step.
        devices: processes.
    """
    if before is None or batch % devices:
        return before
    return fitted_micro_batch(None, batch, devices, before)
