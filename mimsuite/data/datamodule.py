"""How batches reach a training run and an evaluation: loaders over the order of a run, and over a split once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import lightning
import numpy as np
import torch

from mimsuite.data.augment.crop import CenterCrop, Transform
from mimsuite.data.augment.on_device import DeferredCrop
from mimsuite.data.batch_loader import BatchLoader, Loading, make_loader
from mimsuite.data.batches import FixedBatches, StepBatches
from mimsuite.data.collate import Collate
from mimsuite.data.fetching.ahead import FetchesAhead, fetching_ahead, fit_window, nothing_ahead
from mimsuite.data.fetching.limits import Fetching
from mimsuite.data.index import DataIndex, Samples, Selection
from mimsuite.data.label_table import has_label
from mimsuite.data.labels import Label
from mimsuite.data.order import BatchOrder
from mimsuite.data.reader import ImageReader, Sample
from mimsuite.data.stores.names import scheme_of
from mimsuite.data.transfer import CopyStream
from mimsuite.data.workers import PATIENCE
from mimsuite.errors import InputError
from mimsuite.masked.samplers import MaskSampler
from mimsuite.types import Batch

log = logging.getLogger("mimsuite")

_SALT_WHOLE = 0x57484F4C
STEPS = 8  # whose masks stand for those of all


class ImageData(lightning.LightningDataModule):
    """Batches of a run: training batches in the order of the run, validation batches with fixed crops and masks.

    A trainer must not put its own sampler in (`use_distributed_sampler=False`): the order knows the ranks.

    Attributes:
        micro_batch: samples per forward pass on one device; it may be changed before a loader is made.
    """

    def __init__(
        self,
        index: DataIndex,
        *,
        image_size: tuple[int, int],
        mask_unit: int | None,
        train_transform: Transform,
        masks: Sequence[MaskSampler],
        batch: int,
        micro_batch: int,
        steps: int,
        seed: int,
        workers: int,
        processes: int = 1,
        patience: float = PATIENCE,
        lanes: int = 1,
        window: int = 16,
        val_limit: int = 5000,
        labels: bool = False,
        train: Samples | None = None,
        val: Samples | None = None,
        val_keys: bool = False,
        crops_on_device: bool = False,
        views: int = 1,
    ) -> None:
        """Sets the order of the run; reads no image.

        Args:
            index: the data set.
            image_size: (height, width) of validation pictures, in pixels.
            mask_unit: side of a mask unit in pixels; None where no masks are drawn.
            train_transform: makes the training pictures.
            masks: draw the masks; of several, each step takes one, validation the first; empty for none.
            batch: samples per optimizer step, over all devices and micro-batches.
            micro_batch: samples per forward pass on one device.
            steps: optimizer steps of the whole run.
            seed: decides order, crops and masks of training.
            workers: processes that read; 0 reads in the main process.
            processes: of the run on this machine, which share its shared memory.
            patience: seconds without a batch after which the workers are given up.
            lanes, window: see `BatchOrder`.
            val_limit: at most so many validation images are used, chosen once by their keys.
            labels: whether labels are read.
            train: what to train on; None takes the role "train" of the index.
            val: what to validate on; None takes the role "curve".
            val_keys: whether validation batches name their samples.
            crops_on_device: whether training pictures are resized and mirrored there; `train_transform` may then do
                nothing else.
            views: masks of each image in a training batch, in the order mask, image.

        Raises:
            InputError: the data has no such samples, or fewer than one batch needs; a transform that does more.
        """
        super().__init__()
        self._index, self._batch, self._steps = index, batch, steps
        self.micro_batch = micro_batch
        self._labels, self._seed = labels, seed
        self._loading = Loading(workers, processes, patience, self._asked)
        self.stop_asked: Callable[[], bool] = lambda: False  # by a signal; then no loader waits for long
        self._train_transform, self._val_transform = train_transform, CenterCrop(image_size)
        self._deferred = DeferredCrop(train_transform) if crops_on_device else None
        self._copies: CopyStream | None = None
        grid = None if mask_unit is None else (image_size[0] // mask_unit, image_size[1] // mask_unit)
        classes = len(index.classes) if index.classes else None
        self._collate, self._val_collate, self._whole_collate = (
            Collate(m, grid, classes, keys, n)
            for m, keys, n in ((masks, False, views), (masks[:1], val_keys, 1), ((), False, 1))
        )
        self._blank_collates = [Collate((m,), grid, classes, views=views) for m in masks] or [self._collate]
        self._train = index.records(index.select("train")) if train is None else train
        self.order = BatchOrder(self._train.sizes, batch, seed, lanes, window)
        curve = index.records(index.select("curve")) if val is None else val
        self._val = curve.of_curves(val_limit)
        self._whole: dict[tuple[str, int, bool, int], Samples] = {}  # chosen before, for `whole_images`

    def train_dataloader(self) -> BatchLoader:
        """This rank's micro-batches of the run.

        Its length is that of the whole run; iteration begins at the trainer's `global_step`.

        Raises:
            InputError: the micro-batches of all devices do not add up to the batch.
        """
        rank, world = self._place()
        if self._batch % (world * self.micro_batch):
            raise InputError(
                f"batch={self._batch} is not a multiple of devices x micro_batch = {world} x {self.micro_batch}; "
                f"use batch={-(-self._batch // (world * self.micro_batch)) * world * self.micro_batch}"
            )
        transform = self._deferred or self._train_transform
        index = self._fitted_to_cache(rank, world)
        reader = ImageReader(index, self._train, transform, seed=self._seed, labels=self._labels)
        batches = StepBatches(
            self.order,
            steps=self._steps,
            micro=self.micro_batch,
            batch=self._batch,
            place=(rank, world),
            start=self._done,
        )
        return make_loader(
            reader,
            batches,
            self._collate,
            self.micro_batch,
            self._loading,
            ahead=partial(self._fetch_ahead, index.fetching),
        )

    def _fitted_to_cache(self, rank: int, world: int) -> DataIndex:
        """The index; where the cache is too small for shards of other machines, they are not fetched whole."""
        if not any(scheme_of(shard.path) for shard in self._train.shards):
            return self._index
        first = rank - rank % self._loading.processes
        ranks = range(first, min(world, first + self._loading.processes))
        lanes = {lane for other in ranks for lane in self.order.lanes_of(other, world)}
        fetching, line = fit_window(self._index.fetching, self._train.shards, len(lanes) * self.order.window)
        if line is not None and rank == first:
            log.warning("%s", line)
        return replace(self._index, fetching=fetching)

    def _fetch_ahead(self, fetching: Fetching) -> FetchesAhead:
        """Fetches shards of other machines ahead of the training batches, from the next step on."""
        shards, (rank, world), step = self._train.shards, self._place(), self._done()
        if not fetching.whole or not any(scheme_of(shard.path) for shard in shards):
            return nothing_ahead()
        plan = self.order.stretches(step, self._steps, rank, world)
        return fetching_ahead(fetching, shards, plan, step, self._batch // world // self.micro_batch)

    def val_dataloader(self) -> BatchLoader:
        """The validation images in fixed order: centre crops, masks that depend on the key alone.

        Where there are fewer images than processes, each process takes all of them, which leaves every mean as it is.
        """
        reader = ImageReader(self._index, self._val, self._val_transform, seed=None, labels=self._labels)
        batches = FixedBatches(len(self._val), self.micro_batch, *self._place_for(len(self._val)))
        return make_loader(reader, batches, self._val_collate, self.micro_batch, self._loading, keep=True)

    def whole_images(
        self, part: Literal["train", "val"], limit: int, *, labels: bool, held: int = 0
    ) -> tuple[BatchLoader, int]:
        """Centre crops without masks of training or validation images, in fixed order.

        Of `count` images this process's loader yields those numbered rank, rank + world, ...; where there are fewer
        images than processes, all of them.

        Args:
            part: which images.
            limit: at most so many, chosen by their keys.
            labels: whether labels are read; then only images that have one are taken.
            held: where there is no split `val`, so many training images stand for it, and are not among those of
                "train": for a choice, which must not look at `test`.

        Returns:
            The loader, and `count`.
        """
        held = 0 if "val" in self._index.splits else held
        asked = (part, limit, labels, held)
        if asked not in self._whole:
            self._whole[asked] = self._choose(*asked)
        chosen = self._whole[asked]
        reader = ImageReader(self._index, chosen, self._val_transform, seed=None, labels=labels)
        batches = FixedBatches(len(chosen), self.micro_batch, *self._place_for(len(chosen)))
        return make_loader(reader, batches, self._whole_collate, self.micro_batch, self._loading), len(chosen)

    def _choose(self, part: Literal["train", "val"], limit: int, labels: bool, held: int) -> Samples:
        """The images for `whole_images`."""
        samples = self._val if part == "val" and not held else self._train
        if labels and not (found := has_label(self._index, samples)).all():
            samples = samples.take(np.flatnonzero(found))
        if held:
            apart = samples.smallest(held, _SALT_WHOLE)[:held]
            others = np.setdiff1d(samples.smallest(held + limit, _SALT_WHOLE), apart)
            samples = samples.take(apart if part == "val" else others)
        return samples.take(samples.smallest(limit, _SALT_WHOLE)[:limit])

    def blank(self, count: int, label: Label | None = None, step: int = 0) -> list[Batch]:
        """Batches of black images, otherwise as those of training, one for each sampler of masks; reads nothing.

        Args:
            count: images of a batch.
            label: of all of them, where labels are read.
            step: what is drawn once for an optimizer step is drawn for this one.
        """
        kind = torch.uint8 if self._index.dtype == "uint8" else torch.int32
        image = torch.zeros(self._index.channels, *self._train_transform.size, dtype=kind)
        given = label if self._labels else None
        samples = [Sample(image, number, step * count + number, given, (), step) for number in range(count)]
        made = [collate(samples) for collate in self._blank_collates]
        return [batch for batch in made if isinstance(batch, Batch)]

    def blank_for_cost(self, label: Label | None = None) -> list[Batch]:
        """Such batches with as many images, and of as many steps, as the mean cost of an image depends on.

        That is one image, unless masks are cut to the smallest of a micro-batch, or differ from step to step.
        """
        count = self.micro_batch if any(collate.cuts for collate in self._blank_collates) else 1
        steps = STEPS if any(collate.draws_steps for collate in self._blank_collates) else 1
        made: list[Batch] = []
        for step in range(steps):
            made += [batch._replace(images=(made or [batch])[0].images) for batch in self.blank(count, label, step)]
        return made

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves a batch but for its ids, which are read on the host: there, nobody waits for the device."""
        on_host: Any = batch._replace(ids=None)  # type: ignore[arg-type]
        move: Callable[[], Batch] = partial(super().transfer_batch_to_device, on_host, device, dataloader_idx)
        if device.type == "cuda":
            self._copies = self._copies or CopyStream(device)
            return self._copies.run(move)._replace(ids=batch.ids)
        return move()._replace(ids=batch.ids)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Makes pictures of what lies on canvases; other batches stay as they are."""
        if self._deferred is None or batch.windows is None:
            return batch
        return batch._replace(images=self._deferred.make_pictures(batch.images, batch.windows), windows=None)

    def _asked(self) -> bool:
        return self.stop_asked()

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _place_for(self, count: int) -> tuple[int, int]:
        """This process's place among those that share `count` images; fewer images than processes are not shared."""
        rank, world = self._place()
        return (rank, world) if count >= world else (0, 1)

    def _done(self) -> int:
        return self.trainer.global_step if self.trainer is not None else 0


def eval_loader(
    index: DataIndex,
    part: str | Selection | Samples,
    *,
    image_size: tuple[int, int],
    batch: int,
    workers: int,
    labels: bool,
    mask: MaskSampler | None = None,
    mask_unit: int | None = None,
    keys: bool = False,
    processes: int = 1,
    augment: tuple[Transform, int, int] | None = None,
    only: range | None = None,
) -> BatchLoader:
    """Every sample once, in the order of the split: centre crops, and masks that depend on the key alone.

    Args:
        index: the data set.
        part: a split, a part of one, or chosen samples.
        image_size: (height, width) of the pictures, in pixels.
        batch: samples per batch; the last may have fewer.
        workers: processes that read; 0 reads in the main process.
        labels: whether labels are read.
        mask: draws masks of units of `mask_unit` pixels; None for none.
        mask_unit: side of a mask unit in pixels.
        keys: whether the samples' names are given.
        processes: that read on this machine at the same time, each with such a loader.
        augment: instead of a centre crop a transform, drawn from a seed, a number of the copy, and the key.
        only: the numbers of the samples that are given; None: all.
    """
    transform, seed, copy = augment or (CenterCrop(image_size), None, 0)
    samples = part if isinstance(part, Samples) else index.records(part)
    grid = None if mask_unit is None else (image_size[0] // mask_unit, image_size[1] // mask_unit)
    reader = ImageReader(index, samples, transform, seed=seed, labels=labels)
    collate = Collate(() if mask is None else (mask,), grid, len(index.classes) if index.classes else None, keys)
    only = range(len(samples)) if only is None else only
    batches = FixedBatches(only.stop, batch, epoch=copy, start=only.start)
    return make_loader(reader, batches, collate, min(batch, len(samples)), Loading(workers, processes))
