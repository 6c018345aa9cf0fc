"""Turns a composed config and a data index into the numbers of a run, each `auto` with its reason; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mimsuite.data.index import DataIndex
from mimsuite.errors import InputError
from mimsuite.masked.geometry import auto_mask_unit, check_image_size, check_unit

DEFAULT_EPOCHS = 100
DEFAULT_STEPS = (1_000, 100_000)
FALLBACK_SIZE = 224
ROUND = (5_000, 2_000)  # images that a round of the online probe learns from and is scored on
SMALLEST_ROUND = (100, 40)


@dataclass(frozen=True)
class Geometry:
    """Sizes of a run in pixels.

    Attributes:
        image_size: `(H, W)`.
        channels: image channels.
        mask_unit: side of the squares that masks are drawn in; 0 where no masks are.
        drops: whether the encoder leaves hidden patches out.
        notes: `key=value (reason)` for every value that was chosen here.
    """

    image_size: tuple[int, int]
    channels: int
    mask_unit: int
    drops: bool
    notes: tuple[str, ...]

    @property
    def units(self) -> int:
        """Mask units per image."""
        return (self.image_size[0] // self.mask_unit) * (self.image_size[1] // self.mask_unit)


@dataclass(frozen=True)
class Budget:
    """Length and pace of a run, in optimizer steps.

    Attributes:
        batch: images per optimizer step.
        steps: optimizer steps.
        epochs: the same as passes over the training images.
        lr: peak learning rate after scaling.
        warmup: steps of the learning rate's warm-up.
        val_every: steps between validations.
        save_every: steps between checkpoints.
        notes: `key=value (reason)` for every value that was chosen here.
    """

    batch: int
    steps: int
    epochs: float
    lr: float
    warmup: int
    val_every: int
    save_every: int
    notes: tuple[str, ...]


def geometry(
    cfg: DictConfig,
    index: DataIndex,
    *,
    native: tuple[int, int] | None,
    stride: tuple[int, int],
    cell: tuple[int, int],
    drops: bool = False,
) -> Geometry:
    """Decides image size, channels and mask unit, and checks that they fit together.

    Args:
        cfg: the task's config; read are `image_size`, `channels`, `mask.unit`.
        index: the data.
        native: the model's own `(H, W)`, or None for models that take any.
        stride: `(h, w)` pixels per cell of the feature map; ViT: the patch.
        cell: `(h, w)` pixels of which a mask unit must be a multiple; ViT: the patch.
        drops: whether the encoder leaves hidden patches out; then a unit is one patch unless said otherwise.

    Raises:
        InputError: sizes that do not fit, with sizes that would.
    """
    image_size, notes = chosen_size(cfg, index, native, stride)
    channels = chosen_channels(cfg, index)
    unit = mask_unit(cfg, image_size, stride, cell, drops)
    if cfg.mask.unit == "auto":
        reason = (
            "one patch, as hidden ones are dropped" if drops else "32 at 224 px, smaller in proportion, whole cells"
        )
        notes.append(f"mask.unit={unit} ({reason})")
    return Geometry(image_size, channels, unit, drops, tuple(notes))


def plain_geometry(
    cfg: DictConfig, index: DataIndex, *, native: tuple[int, int] | None, stride: tuple[int, int]
) -> Geometry:
    """Decides image size and channels of a run without masks; arguments and errors as of `geometry`."""
    image_size, notes = chosen_size(cfg, index, native, stride)
    check_image_size(image_size, stride)
    return Geometry(image_size, chosen_channels(cfg, index), 0, False, tuple(notes))


def chosen_size(
    cfg: DictConfig, index: DataIndex, native: tuple[int, int] | None, stride: tuple[int, int]
) -> tuple[tuple[int, int], list[str]]:
    """The `(H, W)` that `image_size` means, and why."""
    if cfg.image_size != "auto":
        return read_size(cfg.image_size), []
    native = native or (FALLBACK_SIZE, FALLBACK_SIZE)
    image_size = auto_image_size(native, index.image_size, stride)
    reason = "the model's" if image_size == native else f"the data's median is {format_size(index.image_size)}"
    return image_size, [f"image_size={format_size(image_size)} ({reason})"]


def chosen_channels(cfg: DictConfig, index: DataIndex) -> int:
    """The channels that `channels` means.

    Raises:
        InputError: not those of the data.
    """
    channels = read_int(cfg, "channels", auto=index.channels)
    if channels != index.channels:
        raise InputError(
            f"channels={channels} but the images have {index.channels}; use channels={index.channels} or other data"
        )
    return channels


def mask_unit(
    cfg: DictConfig,
    image_size: tuple[int, int],
    stride: tuple[int, int],
    cell: tuple[int, int],
    drops: bool = False,
) -> int:
    """Side of a mask unit in pixels, checked against image and model; also checks the image.

    Raises:
        InputError: sizes that do not fit, with sizes that would.
    """
    given = read_int(cfg.mask, "unit", auto=0, name="mask.unit")
    check_image_size(image_size, stride, 1 if given % math.lcm(*cell) else max(given, 1))
    unit = given or (math.lcm(*cell) if drops else auto_mask_unit(image_size, cell))
    check_unit(image_size, stride, cell, unit)
    return unit


def auto_image_size(native: tuple[int, int], data: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """The model's `(H, W)`, or the data's shorter side rounded down to whole cells where that is smaller."""
    short = min(data)
    if short >= min(native):
        return native
    step = math.lcm(*stride)
    side = max(step, short // step * step)
    return side, side


def budget(cfg: DictConfig, samples: int) -> Budget:
    """Decides the length of a run and its learning rate.

    Args:
        cfg: read are `batch steps epochs lr val_every save_every optim schedule`.
        samples: training images.

    Raises:
        InputError: a value of the wrong kind; both `steps` and `epochs`; less data than one batch.
    """
    notes = []
    batch = read_int(cfg, "batch")
    if samples < batch:
        raise InputError(
            f"batch={batch} is larger than the {samples} training images; use batch={2 ** int(math.log2(samples))}"
        )
    per_epoch = samples // batch
    if cfg.steps is not None and cfg.epochs is not None:
        raise InputError(f"steps={cfg.steps} and epochs={cfg.epochs} are both set; give one of them")
    if cfg.steps is not None:
        steps = read_int(cfg, "steps")
    elif cfg.epochs is not None:
        steps = max(1, round(read_positive(cfg, "epochs") * per_epoch))
        notes.append(f"steps={steps} ({cfg.epochs} epochs of {per_epoch} batches)")
    else:
        low, high = DEFAULT_STEPS
        steps = min(max(DEFAULT_EPOCHS * per_epoch, low), high)
        notes.append(
            f"steps={steps} ({DEFAULT_EPOCHS} epochs of {per_epoch} batches, at least {low:,}, at most {high:,} steps; "
            "set steps= or epochs=)"
        )
    decay = cfg.optim.weight_decay
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay < math.inf:
        raise InputError(f"optim.weight_decay={decay} is no number from 0; use 0.05, or 0 for none")
    base, per = (read_positive(cfg.optim, key, name=f"optim.{key}") for key in ("base_lr", "base_batch"))
    lr = read_positive(cfg, "lr", auto=base * batch / per)
    if cfg.lr == "auto":
        notes.append(f"lr={lr:.3g} ({cfg.optim.base_lr:g} x batch {batch} / {cfg.optim.base_batch})")
    warmup = warmup_steps(cfg.schedule.warmup, steps)
    if warmup != cfg.schedule.warmup:
        share = "a twentieth" if cfg.schedule.warmup == "auto" else f"{cfg.schedule.warmup:g}"
        notes.append(f"schedule.warmup={warmup} ({share} of the run)")
    val_every = read_int(cfg, "val_every", auto=max(1, steps // 10))
    if cfg.val_every == "auto":
        notes.append(f"val_every={val_every} (a tenth of the run)")
    save_every = read_int(cfg, "save_every", auto=val_every)
    return Budget(batch, steps, steps / per_epoch, lr, warmup, val_every, save_every, tuple(notes))


def warmup_steps(value: Any, steps: int) -> int:
    """Steps of the warm-up: a whole number of them, a fraction of the run, or `auto`.

    Raises:
        InputError: none of these.
    """
    if value == "auto":
        return steps // 20
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or value < 0 or (isinstance(value, float) and value >= 1):
        raise InputError(
            f"schedule.warmup={value} is no whole number of steps and no fraction of the run; use steps (500), a "
            "fraction below 1 (0.05), or auto"
        )
    return value if isinstance(value, int) else round(value * steps)


@dataclass(frozen=True)
class Probing:
    """What the online probe looks at.

    Attributes:
        images: training images of a round.
        val_images: validation images that it is scored on.
        share: part of the run's time that its rounds may take.
        labels: whether kNN and linear probe run.
    """

    images: int
    val_images: int
    share: float
    labels: bool

    @property
    def note(self) -> str:
        """The line of the banner."""
        what = f"{self.images} training images; without labels RankMe and alpha-ReQ only"
        if self.labels:
            what = f"{self.images} training and {self.val_images} validation images"
        return f"online_probe=true ({what}; at most {self.share:.0%} of the time)"


def probing(cfg: DictConfig, index: DataIndex, shown: int) -> Probing | None:
    """Decides what `online_probe=true` measures; None without it.

    `auto` takes no more images than let the two rounds that every run has, at its start and its end, read `share` of
    what training reads.

    Args:
        cfg: read are `online_probe` and `callbacks.online_probe`.
        index: the data.
        shown: images that the run trains on, counted each time.

    Raises:
        InputError: a value of the wrong kind; `labels=true` where the data has none.
    """
    if not read_flag(cfg, "online_probe"):
        return None
    node, home = cfg.callbacks.get("online_probe"), "callbacks.online_probe"
    if node is None:
        raise InputError(f"online_probe=true, but {home} is taken out; leave one of the two away")
    share = read_positive(node, "share", name=f"{home}.share")
    if share > 1:
        raise InputError(f"{home}.share={node.share} is above 1; it is a part of the run's time, such as 0.05")
    labels = index.has_labels if node.labels == "auto" else node.labels
    if not isinstance(labels, bool):
        raise InputError(f"{home}.labels={node.labels} is not true, false or auto; give one of them")
    if labels and not index.has_labels:
        raise InputError(f"{home}.labels=true, but data={cfg.data} has no labels; use {home}.labels=false")
    there = (
        index.num_samples(index.select("train")),
        min(index.num_samples(index.select("curve")), cfg.loader.val_limit),
    )
    of_the_run = share * shown / 2 / sum(ROUND)
    images, val_images = (
        read_int(node, key, auto=min(count, most, max(least, int(of_the_run * most))), name=f"{home}.{key}")
        for key, count, most, least in zip(("images", "val_images"), there, ROUND, SMALLEST_ROUND, strict=True)
    )
    return Probing(images, val_images, share, labels)


def micro_batch(cfg: DictConfig, batch: int, devices: int, limit: int) -> int:
    """Images per forward pass on one device; accumulation is `batch / (devices x micro_batch)`.

    Args:
        cfg: read is `micro_batch`.
        batch: images per optimizer step.
        devices: processes.
        limit: the most images that `auto` takes.

    Raises:
        InputError: the batch is not a whole multiple.
    """
    if batch % devices:
        raise InputError(
            f"batch={batch} is not a multiple of the {devices} devices; use batch={-(-batch // devices) * devices}"
        )
    share = batch // devices
    if cfg.micro_batch == "auto":
        return max(n for n in range(1, min(share, max(limit, 1)) + 1) if share % n == 0)
    micro = read_int(cfg, "micro_batch")
    if share % micro:
        fits = max(n for n in range(1, min(share, micro) + 1) if share % n == 0)
        raise InputError(
            f"micro_batch={micro} does not divide batch {batch} / {devices} devices = {share}; use micro_batch={fits}"
        )
    return micro


def read_choice(cfg: DictConfig, key: str, allowed: Sequence[str]) -> str:
    """The value of a string key, such as `precision` or `objective.loss`, if it is one of `allowed`."""
    value = str(OmegaConf.select(cfg, key))
    if value not in allowed:
        raise InputError(f"{key}={value} is unknown; {key} takes {', '.join(allowed)}")
    return value


def read_flag(cfg: DictConfig, key: str) -> bool:
    """A true-or-false key's value."""
    if not isinstance(cfg[key], bool):
        raise InputError(f"{key}={cfg[key]} is not true or false; use {key}=true or {key}=false")
    return bool(cfg[key])


def read_int(node: DictConfig, key: str, *, auto: int | None = None, least: int = 1, name: str | None = None) -> int:
    """A whole number of at least `least`; `auto` stands for the given value where one is given."""
    value: Any = node[key]
    if value == "auto" and auto is not None:
        return auto
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name or key}={value} is not a whole number of at least {least}{or_auto(auto)}")
    return value


def read_positive(node: DictConfig, key: str, *, auto: float | None = None, name: str | None = None) -> float:
    """A finite number above 0; `auto` stands for the given value where one is given."""
    value: Any = node[key]
    if value == "auto" and auto is not None:
        return auto
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InputError(f"{name or key}={value} is not a number above 0{or_auto(auto)}")
    return float(value)


def or_auto(auto: object) -> str:
    """The end of an error text: whether `auto` would do."""
    return "; give one" if auto is None else "; give one, or auto"


def read_size(value: Any) -> tuple[int, int]:
    """`image_size=96` or `[96,160]` as `(H, W)`."""
    pair_given = isinstance(value, (list, tuple, ListConfig))
    numbers = list(value) if pair_given else [value, value]
    if len(numbers) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
        raise InputError(f"image_size={value} is no size; use a side in pixels (96) or [height,width] ([96,160])")
    return numbers[0], numbers[1]


def format_size(size: tuple[int, int]) -> str:
    """A size as a user writes it: `96` or `[96,160]`."""
    return str(size[0]) if size[0] == size[1] else f"[{size[0]},{size[1]}]"
