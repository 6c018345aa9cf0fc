"""Frozen features of whole images, computed in one way for every split, and a cache for them."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimsuite.errors import InputError, RunError
from mimsuite.types import Batch, FeatureMap

log = logging.getLogger(__name__)


Pool = Literal["mean", "cls", "both", "grid"]
POOLS: tuple[Pool, ...] = ("mean", "cls", "both", "grid")


class View(NamedTuple):
    """Which features of an encoder.

    Attributes:
        layer: a block or stage, from 1; the encoder's `num_layers` is the last, after the final norm.
        pool: "mean" of the patch features, "cls", the class token, "both", the class token and then the mean, or
            "grid", all patch features, row by row.
    """

    layer: int
    pool: Pool

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.pool}"


class Features(NamedTuple):
    """Features of one split, in the order of its samples, on the CPU.

    Attributes:
        x: `(N, D)` float32; of a grid, `(N, T, D)` float16.
        labels: `(N,)` int64 classes or `(N, K)` float targets; None where the data has no labels.
        ids: `(N,)` int64 sample ids.
        kind: how they were made, in words; kNN and probes refuse to compare two kinds.
    """

    x: Tensor
    labels: Tensor | None
    ids: Tensor
    kind: str


def raw_pixel_features(loader: Iterable[Batch], size: int = 8) -> Features:
    """Baseline without a network: images shrunk to `size` x `size` (bilinear, antialiased), as vectors.

    Raises:
        InputError: an empty loader.
    """

    def shrink(images: Tensor) -> Tensor:
        small = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
        return small.flatten(1) / (255 if images.dtype == torch.uint8 else 65535)

    xs, labels, ids = [], [], []
    for batch in loader:
        xs.append(shrink(batch.images))
        ids.append(batch.ids)
        if batch.labels is not None:
            labels.append(batch.labels)
    if not xs:
        raise InputError("no images to compute features of: the loader is empty; check data= and split=")
    return Features(torch.cat(xs), torch.cat(labels) if labels else None, torch.cat(ids), f"pixels-{size}")


def pooled(features: FeatureMap, pool: Pool) -> Tensor:
    """Returns one float32 vector per image, `(B, D)` or of "both" `(B, 2 D)`; of "grid" all cells, `(B, T, D)`."""
    if pool not in POOLS:
        raise InputError(f"pool={pool!r} is unknown; use {', '.join(map(repr, POOLS))}")
    if pool == "grid":
        return features.grid.float().flatten(2).transpose(1, 2)
    if pool == "mean":
        return features.grid.float().mean((2, 3))
    if features.cls is None:
        raise InputError(f"pool={pool}, but this layer of the encoder has no class token; use pool=mean")
    if pool == "cls":
        return features.cls.float()
    return torch.cat([features.cls.float(), features.grid.float().mean((2, 3))], dim=1)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Puts every submodule into evaluation mode and gives each its own mode back, also after an error."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


def class_labels(features: Features, name: str) -> Tensor:
    """Returns the labels `(N,)` int64.

    Raises:
        InputError: there are none, or they are not one class per image.
    """
    labels = features.labels
    if labels is None:
        raise InputError(f"the {name} images have no labels; kNN and probe need one class per image")
    if labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"the {name} labels are {labels.dtype} of shape {tuple(labels.shape)}; "
            "kNN and probe need one class per image"
        )
    return labels.long()


def check_comparable(train: Features, test: Features) -> None:
    """Raises InputError unless both were made in the same way and have the same width."""
    if train.kind != test.kind or train.x.shape[1:] != test.x.shape[1:]:
        raise InputError(
            f"training features are {train.kind!r} of width {train.x.shape[-1]}, test features {test.kind!r} "
            f"of width {test.x.shape[-1]}; make both in the same way"
        )


def fingerprint(weights: Mapping[str, Tensor], transform: str, data: str) -> str:
    """Returns 32 hex digits that change with any weight, with the transform or with the data.

    Args:
        weights: the encoder's `state_dict()`.
        transform: all that is done to an image, in words: size, crop, mean, std, pooling.
        data: what names the images and their order, such as the shards' sha256 and the split.
    """
    h = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        h.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        h.update(value.reshape(-1).view(torch.uint8).numpy().data)
    for text in (transform, data):
        h.update(f"{len(text)} {text};".encode())
    return h.hexdigest()[:32]


def cached_features(folder: Path, fingerprint: str, compute: Callable[[], Features]) -> Features:
    """Returns the features stored under `fingerprint` in `folder`; computes and stores missing ones.

    Stored as float16 with one float32 scale per dimension (error under 0.05 % of its largest value).
    The stored values are returned in either case, so that a first and a second run agree exactly.
    """
    path = folder / f"features-{fingerprint}.npz"
    if path.exists():
        stored = _read(path, fingerprint)
        if stored is not None:
            return stored
    _write(path, fingerprint, compute())
    written = _read(path, fingerprint)
    if written is None:
        raise RunError(f"{path} cannot be read back after writing; is the disk full or damaged?")
    return written


def _write(path: Path, fingerprint: str, features: Features) -> None:
    scale = features.x.abs().amax(0).clamp_min(torch.finfo(torch.float32).tiny)
    arrays = {
        "x": (features.x / scale).half().numpy(),
        "scale": scale.numpy(),
        "ids": features.ids.numpy(),
        "kind": np.array(features.kind),
        "fingerprint": np.array(fingerprint),
    }
    if features.labels is not None:
        arrays["labels"] = features.labels.numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".features-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path, fingerprint: str) -> Features | None:
    """Returns the stored features, or None with a warning where the file is damaged or another's."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as z:
            if str(z["fingerprint"]) != fingerprint:
                raise ValueError("it holds other features")
            x = torch.from_numpy(z["x"].astype(np.float32)) * torch.from_numpy(z["scale"])
            labels = torch.from_numpy(z["labels"]) if "labels" in z.files else None
            return Features(x, labels, torch.from_numpy(z["ids"]), str(z["kind"]))
    except (BadZipFile, EOFError, KeyError, ValueError) as error:
        log.warning("features cache %s is not usable (%s); computing the features again", path, error)
        return None
