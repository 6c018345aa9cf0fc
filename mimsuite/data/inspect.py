"""What a person wants to know of a data set: counts, classes, sizes, kinds of files. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mimsuite.data.decode import DecodeError, open_image
from mimsuite.data.index import DataIndex, Selection, Shard
from mimsuite.data.labels import Label, parse_label
from mimsuite.data.sources import ShardFiles
from mimsuite.data.tar import header_name, split_name

_SALT = 0x494E5350


class RawSample(NamedTuple):
    """A sample as it lies in its shard; `label` is None where it has none."""

    key: str
    ending: str
    data: bytes
    label: Label | None


def raw_samples(index: DataIndex, part: str | Selection, count: int) -> Iterator[RawSample]:
    """Yields `count` samples of a split, chosen by key, in the order of the shards; all if there are fewer.

    Labels are read where the data set has them.

    Raises:
        InputError: a label is wrong.
        RunError: a shard cannot be read.
    """
    files, samples = ShardFiles(), index.records(part)
    for number in samples.smallest(count, _SALT)[:count].tolist():
        shard, row = samples[number]
        key, ending, data = _member(files, shard, row, "image")
        yield RawSample(key, ending, data, _label(index, files, shard, row))


def label_counts(index: DataIndex, part: str | Selection) -> Counter[int]:
    """How many samples of a split each class has; a sample of several classes counts for each.

    Raises:
        InputError: a label is wrong.
        RunError: a shard cannot be read.
    """
    counts: Counter[int] = Counter()
    files, samples = ShardFiles(), index.records(part)
    for number in range(len(samples)):
        label = _label(index, files, *samples[number])
        if isinstance(label, int):
            counts[label] += 1
        elif isinstance(label, tuple):
            counts.update(label)
    return counts


def summary(index: DataIndex, samples: int = 512) -> dict[str, Any]:
    """Counts everything, and looks into `samples` images of each split.

    Returns:
        Plain values for JSON: the fields of the index, `bytes`, and `splits`: per split `samples`, `shards`,
        `bytes`, `labels` (samples per class), and of the images looked into `kinds`, `channels`, `height` and
        `width` ([smallest, median, largest]; empty where all are broken), and `broken`.
    """
    splits = {name: _split(index, name, samples) for name in index.splits}
    return {
        "root": index.root,
        "splits": splits,
        "classes": list(index.classes) if index.classes else None,
        "channels": index.channels,
        "dtype": index.dtype,
        "mean": list(index.mean),
        "std": list(index.std),
        "image_size": list(index.image_size),
        "bytes": sum(split["bytes"] for split in splits.values()),
    }


def _split(index: DataIndex, split: str, count: int) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    channels: Counter[int] = Counter()
    sizes: list[tuple[int, int]] = []
    broken: list[str] = []
    for sample in raw_samples(index, split, count):
        kinds[sample.ending] += 1
        try:
            image = open_image(sample.data)
            image.pixels(cover=(1, 1))
        except DecodeError as error:
            broken.append(f"{sample.key}: {error}")
            continue
        channels[image.channels] += 1
        sizes.append((image.height, image.width))
    shards = index.splits[split]
    labels = label_counts(index, split)
    return {
        "samples": index.num_samples(split),
        "shards": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
        "labels": {str(label): labels[label] for label in sorted(labels)},
        "kinds": dict(kinds.most_common()),
        "channels": {str(c): n for c, n in channels.most_common()},
        "height": _spread([height for height, _ in sizes]),
        "width": _spread([width for _, width in sizes]),
        "broken": broken,
    }


def _spread(values: list[int]) -> list[int]:
    return [int(f(values)) for f in (np.min, np.median, np.max)] if values else []


def _label(index: DataIndex, files: ShardFiles, shard: Shard, row: np.void) -> Label | None:
    if not index.has_labels or not row["label_header"]:
        return None
    key, ending, data = _member(files, shard, row, "label")
    return parse_label(data, ending, key, len(index.classes) if index.classes else None)


def _member(files: ShardFiles, shard: Shard, row: np.void, kind: str) -> tuple[str, str, bytes]:
    """Key, ending and bytes of a sample's "image" or "label"."""
    offset, header, size = (int(row[f"{kind}_{field}"]) for field in ("offset", "header", "size"))
    data = files.read(shard.path, offset - header, header + size)
    return *split_name(header_name(data[:header], shard.path)), data[header:]
