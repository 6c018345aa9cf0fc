"""What features are: vectors of a split with their labels, how a feature map becomes them, and what names them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimsuite.errors import InputError
from mimsuite.models.mark import hash_of_tensors
from mimsuite.types import FeatureMap
from mimsuite.words import POOLS, Pool


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


def pool_features(features: FeatureMap, pool: Pool) -> Tensor:
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


def hash_of_inputs(weights: Mapping[str, Tensor], transform: str, data: str) -> str:
    """Returns 32 hex digits that change with any weight, with the transform or with the data.

    Args:
        weights: the encoder's `state_dict()`.
        transform: all that is done to an image, in words: size, crop, mean, std, pooling.
        data: what names the images and their order, such as the shards' sha256 and the split.
    """
    h = hash_of_tensors(weights)
    for text in (transform, data):
        h.update(f"{len(text)} {text};".encode())
    return h.hexdigest()[:32]
