"""Which images of a data set are the same to the byte, within a split and, worse, across splits."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mimsuite.data.index import DataIndex, Samples
from mimsuite.data.members import image_bytes, read_image, read_image_end, read_key
from mimsuite.data.shard_files import ShardFiles, files_for
from mimsuite.data.tar import to_text

_FIRST = 5  # groups that are named
_END = 4096  # bytes


class Duplicates(NamedTuple):
    """Images whose encoded bytes occur more than once.

    Attributes:
        across: images (contents) that lie in more than one split.
        extra: images that could be removed without losing a content.
        first: the names (`split:key`) of the first of them, those across splits before others.
    """

    across: int
    extra: int
    first: list[list[str]]


def find_duplicates(index: DataIndex, parts: dict[str, Samples] | None = None) -> Duplicates:
    """Compares the encoded bytes of images; exact.

    Of images whose size another one has as well the end is read, and those that end alike are read whole.

    Args:
        index: the data set.
        parts: of it, by name; None: its splits.

    Raises:
        RunError: a shard cannot be read.
    """
    parts = parts or {split: index.records(split) for split in index.splits}
    sizes = np.concatenate([image_bytes(samples) for samples in parts.values()])
    values, counts = np.unique(sizes, return_counts=True)
    wanted = values[counts > 1]
    chosen = {split: np.flatnonzero(np.isin(image_bytes(samples), wanted)) for split, samples in parts.items()}
    files = files_for(index, *(parts[split].take(numbers) for split, numbers in chosen.items()))
    alike: defaultdict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for split, numbers in chosen.items():
        for number in numbers.tolist():
            end = hashlib.blake2b(read_image_end(files, *parts[split][number], _END), digest_size=8).digest()
            alike[end].append((split, number))
    same = [group for places in alike.values() if len(places) > 1 for group in _confirmed(files, parts, places)]
    same.sort(key=lambda places: len({split for split, _ in places}) == 1)
    return Duplicates(
        across=sum(len({split for split, _ in places}) > 1 for places in same),
        extra=sum(len(places) - 1 for places in same),
        first=[[_name(files, parts, place) for place in places[:_FIRST]] for places in same[:_FIRST]],
    )


def _confirmed(
    files: ShardFiles, parts: dict[str, Samples], places: list[tuple[str, int]]
) -> Iterator[list[tuple[str, int]]]:
    """Groups of places whose bytes agree from the first to the last."""
    exact: defaultdict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for split, number in places:
        exact[hashlib.sha256(read_image(files, *parts[split][number]).data).digest()].append((split, number))
    yield from (group for group in exact.values() if len(group) > 1)


def _name(files: ShardFiles, parts: dict[str, Samples], place: tuple[str, int]) -> str:
    split, number = place
    return f"{split}:{to_text(read_key(files, *parts[split][number]))}"
