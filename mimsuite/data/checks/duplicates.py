"""Which images of a data set are the same to the byte, within a split and, worse, across splits."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mimsuite.data.index import DataIndex, Samples
from mimsuite.data.sources import ShardFiles
from mimsuite.data.tar import header_name, printable, split_name

_FIRST = 5  # groups that are named
_END = 4096  # bytes


class Duplicates(NamedTuple):
    """Images whose encoded bytes occur more than once.

    Attributes:
        across: images (contents) that lie in more than one split.
        extra: images that one could leave out without losing one.
        first: the names (`split:key`) of the first of them, those across splits before others.
    """

    across: int
    extra: int
    first: list[list[str]]


def find_duplicates(index: DataIndex) -> Duplicates:
    """Compares the encoded bytes of all images; exact.

    Of images whose size another one has as well the end is read, and those that end alike are read whole.

    Raises:
        RunError: a shard cannot be read.
    """
    parts = {split: index.records(split) for split in index.splits}
    sizes = np.concatenate([samples.column("image_size") for samples in parts.values()])
    values, counts = np.unique(sizes, return_counts=True)
    wanted = values[counts > 1]
    files = ShardFiles()
    alike: defaultdict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for split, samples in parts.items():
        for number in np.flatnonzero(np.isin(samples.column("image_size"), wanted)).tolist():
            end = hashlib.blake2b(_bytes(files, samples, number, _END), digest_size=8).digest()
            alike[end].append((split, number))
    same = [group for places in alike.values() if len(places) > 1 for group in _confirmed(files, parts, places)]
    same.sort(key=lambda places: len({split for split, _ in places}) == 1)
    return Duplicates(
        across=sum(len({split for split, _ in places}) > 1 for places in same),
        extra=sum(len(places) - 1 for places in same),
        first=[[f"{split}:{_key(files, parts[split], n)}" for split, n in places[:_FIRST]] for places in same[:_FIRST]],
    )


def _confirmed(
    files: ShardFiles, parts: dict[str, Samples], places: list[tuple[str, int]]
) -> Iterator[list[tuple[str, int]]]:
    """Groups of places whose bytes agree from the first to the last."""
    exact: defaultdict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for split, number in places:
        exact[hashlib.sha256(_bytes(files, parts[split], number)).digest()].append((split, number))
    yield from (group for group in exact.values() if len(group) > 1)


def _bytes(files: ShardFiles, samples: Samples, number: int, last: int | None = None) -> bytes:
    """An image as it is encoded, or its last bytes (and its size)."""
    shard, row = samples[number]
    offset, size = int(row["image_offset"]), int(row["image_size"])
    if last is None:
        return files.read(shard.path, offset, size)
    part = min(size, last)
    return files.read(shard.path, offset + size - part, part) + size.to_bytes(8, "little")


def _key(files: ShardFiles, samples: Samples, number: int) -> str:
    shard, row = samples[number]
    size = int(row["image_header"])
    header = files.read(shard.path, int(row["image_offset"]) - size, size)
    return printable(split_name(header_name(header, shard.path))[0])
