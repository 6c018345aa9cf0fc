"""One pass of a frozen encoder over whole images, for all the layers and poolings that are wanted."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mimsuite.data.augment.crop import RandomResizedCrop
from mimsuite.data.collate import join_targets
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.index import DataIndex, Samples, Selection
from mimsuite.data.label_table import has_label
from mimsuite.data.progress import report_progress
from mimsuite.data.storage import cache_folder
from mimsuite.data.stores.address import store_of
from mimsuite.data.stores.names import last_name
from mimsuite.errors import InputError, RunError
from mimsuite.evaluation.features.exchange import from_first, gather_values, own_share, rank_and_size
from mimsuite.evaluation.features.pixels import PixelLayer
from mimsuite.evaluation.features.stored import (
    Rows,
    StoredFeatures,
    open_stored,
    publish_folder,
    row_type,
    temporary_folder,
    write_description,
    writing_to,
)
from mimsuite.evaluation.features.views import evaluation_mode, hash_of_inputs, pool_features
from mimsuite.masked.normalization import Normalize
from mimsuite.models.load import make_normalizer
from mimsuite.settings.views import View
from mimsuite.types import Batch, FeatureMap
from mimsuite.weights.init import Weights

log = logging.getLogger("mimsuite")

# Of the files, of how features are computed, and of how pictures are read: 0.3.0 reads some otherwise than 0.2.0 did
# (white-is-zero, alpha, planes). Another number never meets files of this one.
FORMAT = 2


@runtime_checkable
class Layers(Protocol):
    """What a feature pass needs: every `types.Encoder`, and the images themselves as of `pixels.PixelLayer`."""

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> tuple[FeatureMap, ...]:
        """The features of some layers, see `types.Encoder`."""
        ...


@dataclass(frozen=True)
class FeaturePass:
    """How features are computed: the same for every part of every data set that it reads.

    Attributes:
        encoder: has `Layers`; at `image_size`, on `device`.
        model: what the weights do not say of the encoder: its configuration as text.
        normalize: images as loaded -> normalised floats; on `device`.
        image_size: `(H, W)` pixels of the centre crops.
        device: where it is computed.
        batch: images per forward pass.
        workers: processes that read.
        folder: features are stored in folders `features-<hash>` below it.
    """

    encoder: nn.Module
    model: str
    normalize: Normalize
    image_size: tuple[int, int]
    device: str
    batch: int
    workers: int
    folder: Path

    def read(
        self,
        index: DataIndex,
        part: Selection,
        views: Sequence[View],
        *,
        augmented: int = 0,
        seed: int = 0,
    ) -> StoredFeatures:
        """Returns the features of a part of a data set; computes in one pass those that are not stored yet.

        Whole images, no gradients, evaluation mode; every submodule gets its own mode back. Images that cannot be
        decoded are skipped. Under `torch.distributed` all processes call it, and each encodes some of the batches of
        one process alone, so that the features are the same; they must see the same `folder`.

        Args:
            index: the data set.
            part: a split, or a part of one.
            views: layers and poolings.
            augmented: further rows per image, of random crops that may be mirrored.
            seed: decides these, with the number of the copy and the sample's key.

        Raises:
            InputError: no such layer, a class token that it does not have, or images that the encoder cannot take.
            RunError: features that are not finite or too large for float16, or a full disk.
        """
        encoder = self.encoder
        if not isinstance(encoder, Layers):
            raise TypeError(f"{type(encoder).__name__} does not keep the contract types.Encoder; give model.encoder")
        network = hash_of_inputs(encoder.state_dict(), self.model, "")
        made = f"{self._transform_words()}; encoder {network}"
        copies = f"; {augmented} augmented copies, seed {seed}" if augmented else ""
        mark = hash_of_inputs({}, f"{FORMAT}; {made}{copies}", data_words(index, part))
        folder = self.folder / f"features-{mark}"
        missing = from_first(lambda: _missing(folder, mark, views))
        if missing:
            about = {"fingerprint": mark, "made": made, "data": f"{last_name(index.root)}: {part}"}
            self._fill(folder, index, part, missing, about, augmented, seed)
        return StoredFeatures(folder)

    def _transform_words(self) -> str:
        (height, width), normalize = self.image_size, self.normalize
        mean, std = (" ".join(map(repr, t.flatten().tolist())) for t in (normalize.mean, normalize.std))
        return (
            f"{height}x{width} px, centre crop, mean {mean}, std {std}, maximum {normalize.maximum}, no mask, "
            "evaluation mode"
        )

    def _fill(
        self,
        folder: Path,
        index: DataIndex,
        part: Selection,
        views: Sequence[View],
        about: dict[str, Any],
        augmented: int,
        seed: int,
    ) -> None:
        """Computes views and stores them."""
        rank, _ = rank_and_size()
        samples = index.records(part)
        if not len(samples):
            raise InputError(f"split={part.split} of {index.root} is empty; name another")
        scratch = Path(from_first(lambda: _scratch(folder)))
        began = time.monotonic()
        try:
            with writing_to(self.folder), evaluation_mode(self.encoder), torch.inference_mode():
                seen = self._pass(scratch, index, samples, views, augmented, seed)
                shares = gather_values(seen)
                if rank == 0:
                    _describe(scratch, samples, shares, about | {"samples": len(samples), "copies": augmented})
                    publish_folder(scratch, folder)
                from_first(lambda: None)  # nobody reads before it is there
        finally:
            if rank == 0:
                shutil.rmtree(scratch, ignore_errors=True)
        seconds, rows = time.monotonic() - began, len(samples) * (1 + augmented)
        log.info(
            "features  %s: %s images in %.1f s, %.0f a second; stored in %s",
            about["data"],
            f"{rows:,}",
            seconds,
            rows / seconds,
            folder,
        )

    def _pass(
        self, scratch: Path, index: DataIndex, samples: Samples, views: Sequence[View], augmented: int, seed: int
    ) -> _Seen:
        """Encodes this process's share of the samples and writes their rows."""
        rank, _ = rank_and_size()
        share = own_share(len(samples), self.batch)
        first, end = share.start, share.stop
        own = samples.take(np.arange(first, end))
        with_labels = bool(has_label(index, samples).all())
        seen = _Seen(own.keys().view(np.int64), [], [], np.ones(end - first, dtype=bool), [])
        steps = self._encoded(index, own, views, augmented, seed, with_labels)
        head = next(steps, None)
        if rank == 0:
            assert head is not None  # rank 0 has the first batch
            count = len(samples) * (1 + augmented)
            Rows.create(scratch, {view: (count, *rows.shape[1:]) for view, rows in head[2].items()})
        from_first(lambda: None)  # nobody writes before the files are there
        shown = report_progress(f"features of {index.root}") if rank == 0 else nullcontext(lambda done, total: None)
        with Rows(scratch, views) as rows, shown as report:
            done, total = 0, (end - first) * (1 + augmented)
            report(0, total)
            while head is not None:
                copy, batch, values = head
                number = done - copy * (end - first)
                rows.write(copy * len(samples) + first + number, values)
                seen.add(number, batch, clean=copy == 0)
                done += len(batch.ids)
                report(done, total)
                head = next(steps, None)
        return seen

    def _encoded(
        self, index: DataIndex, samples: Samples, views: Sequence[View], augmented: int, seed: int, labelled: bool
    ) -> Iterator[tuple[int, Batch, dict[View, NDArray[Any]]]]:
        """Number of the copy, batch and views of it, batch by batch."""
        encoder = self.encoder
        assert isinstance(encoder, Layers)
        layers = sorted({view.layer for view in views})
        for copy in range(1 + augmented if len(samples) else 0):
            loader = eval_loader(
                index,
                samples,
                image_size=self.image_size,
                batch=self.batch,
                workers=self.workers,
                labels=labelled and copy == 0,
                keys=True,
                processes=rank_and_size()[1],
                augment=(RandomResizedCrop(self.image_size), seed, copy) if copy else None,
            )
            for batch in loader:
                pixels = self.normalize(batch.images.to(self.device, non_blocking=True))
                maps = dict(zip(layers, encoder.forward_layers(pixels, layers), strict=True))
                yield copy, batch, {v: _rows(pool_features(maps[v.layer], v.pool), v, batch) for v in views}


@dataclass
class _Seen:
    """What a process saw of its share, in the order of the samples.

    Attributes:
        ids: of the samples, as the index has them.
        keys, labels: of the clean images.
        good: which samples could be decoded, in every copy.
        bad: what could not, in words.
    """

    ids: NDArray[np.int64]
    keys: list[str]
    labels: list[Tensor]
    good: NDArray[np.bool_]
    bad: list[str]

    def add(self, number: int, batch: Batch, *, clean: bool) -> None:
        """Takes note of a batch whose first sample has that number."""
        rows = slice(number, number + len(batch.ids))
        self.good[rows] &= batch.ids.numpy() == self.ids[rows]  # another's picture stands in for a broken one
        self.bad += [f"{b.key} in {b.shard}: {b.reason}" for b in batch.bad]
        if clean:
            self.keys += batch.keys or []
            self.labels += [] if batch.labels is None else [batch.labels]


def data_words(index: DataIndex, part: Selection) -> str:
    """What names the images of a part of a data set, their order, how they are decoded, and the labels beside them."""
    shards = " ".join(
        f"{last_name(s.path)} {s.bytes} {s.sha256 or store_of(s.path).stat(s.path).version}"
        for s in index.shards_of(part.split)
    )
    words = f"{part!r} {index.channels} {index.dtype} {shards}"
    numbers = [shard.classes for shard in index.shards_of(part.split)]  # of several sets as one
    words += f" classes {numbers} of {len(index.classes or ())}" if any(numbers) else ""
    words += "" if index.alpha == "white" else f" alpha {index.alpha}"
    if index.chosen is not None:
        words += f" chosen {hashlib.sha256(index.chosen[part.split].tobytes()).hexdigest()}"
    return words if index.given is None else f"{words} labels {index.given.mark}"


def _rows(values: Tensor, view: View, batch: Batch) -> NDArray[Any]:
    """Features of a batch in the type in which they are stored, where they fit."""
    half: NDArray[Any] = (values.half() if row_type(view) == np.float16 else values.float()).cpu().numpy()
    good = np.isfinite(half).reshape(len(half), -1).all(1)
    if not good.all():
        finite = bool(values.isfinite().all())
        what = "too large for float16 (65504)" if finite else "not finite"
        key = (batch.keys or [""])[int(np.flatnonzero(~good)[0])]
        raise RunError(
            f"features of {int((~good).sum())} of {len(half)} images are {what} ({view}; first {key}); the weights may "
            "be damaged or diverged"
        )
    return half


def _missing(folder: Path, mark: str, views: Sequence[View]) -> list[View]:
    """The views that have to be computed; removes a folder that is not usable."""
    stored = open_stored(folder, mark)
    if stored is None:
        shutil.rmtree(folder, ignore_errors=True)
        return list(dict.fromkeys(views))
    missing = [view for view in dict.fromkeys(views) if not stored.has(view)]
    if not missing:
        log.info("features  stored in %s", folder)
    return missing


def _scratch(folder: Path) -> str:
    with writing_to(folder.parent):
        return str(temporary_folder(folder))


def _describe(scratch: Path, samples: Samples, shares: Sequence[_Seen], about: dict[str, Any]) -> None:
    """Puts together what the processes saw, and writes it beside the rows."""
    kept = np.flatnonzero(np.concatenate([seen.good for seen in shares]))
    bad = list(dict.fromkeys(text for seen in shares for text in seen.bad))
    if not len(kept):
        raise InputError(f"no image can be decoded: {'; '.join(bad[:3])}; check the files")
    if bad:
        log.warning("features  skipped %d undecodable images: %s", len(samples) - len(kept), "; ".join(bad))
    labels = [part for seen in shares for part in seen.labels]
    write_description(
        scratch,
        about,
        keys=[key for seen in shares for key in seen.keys],
        ids=np.concatenate([seen.ids for seen in shares]),
        labels=join_targets(labels).numpy() if labels else None,
        kept=kept,
    )


def features_folder() -> Path:
    """Where features are kept: below the user's cache."""
    folder = cache_folder() / "features"
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def encoder_pass(
    weights: Weights,
    index: DataIndex,
    encoder: nn.Module,
    image_size: tuple[int, int],
    *,
    device: str,
    batch: int,
    workers: int,
) -> FeaturePass:
    """How features of an encoder are computed, and kept in the user's cache.

    Args:
        weights: whose config and statistics hold.
        index: the data.
        encoder: at `image_size`; perhaps at random initialisation.
        image_size: `(H, W)` pixels.
        device: where it is computed.
        batch: images per forward pass.
        workers: processes that read.
    """
    return FeaturePass(
        encoder=encoder.to(device),
        model=json.dumps(weights.config, sort_keys=True),
        normalize=make_normalizer(index, weights).to(device),
        image_size=image_size,
        device=device,
        batch=batch,
        workers=workers,
        folder=features_folder(),
    )


def pixel_pass(index: DataIndex, image_size: tuple[int, int], *, size: int, batch: int, workers: int) -> FeaturePass:
    """How shrunk images are made features, as a baseline without a network; kept in the same cache.

    Args:
        index: the data.
        image_size: `(H, W)` pixels of the centre crops.
        size: side of the shrunk images in pixels.
        batch: images at a time.
        workers: processes that read.
    """
    return FeaturePass(
        encoder=PixelLayer(size, index.maximum),
        model=f"{size}x{size} pixels of {index.maximum}",
        normalize=Normalize((0.0,) * index.channels, (1.0,) * index.channels, 1),
        image_size=image_size,
        device="cpu",
        batch=batch,
        workers=workers,
        folder=features_folder(),
    )
