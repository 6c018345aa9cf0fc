"""What a person wants to know of a data set: counts, classes, sizes, kinds of files. Imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mimsuite.data.checks.duplicates import find_duplicates
from mimsuite.data.hashing import hash_key
from mimsuite.data.images.decode import DecodeError, open_image
from mimsuite.data.index import STATS_SAMPLES, DataIndex, Selection
from mimsuite.data.label_table import find_label
from mimsuite.data.labels import Label, classes_of
from mimsuite.data.members import read_image, read_key
from mimsuite.data.shard_files import ShardFiles, files_for
from mimsuite.data.stores.address import store_of
from mimsuite.data.tar import FILE_ENDING, hidden_image, image_of, named_ending, read_groups, to_text
from mimsuite.data.tar import Member as TarMember
from mimsuite.errors import InputError

_SALT = 0x494E5350
_FIRST, _FIELDS = 5, 12  # of each fault, and of a .json, so many are named


class RawSample(NamedTuple):
    """A sample as it lies in its shard; `label` is None where it has none, or a wrong one."""

    key: str
    ending: str
    data: bytes
    label: Label | None


class NameCounter:
    """Counts things, and keeps the names of the first."""

    def __init__(self) -> None:
        self.count, self.first = 0, list[str]()

    def add(self, name: str) -> None:
        """Counts one."""
        self.count += 1
        if len(self.first) < _FIRST:
            self.first.append(to_text(name))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"count": self.count, "first": self.first}


def raw_samples(index: DataIndex, part: str | Selection, count: int) -> Iterator[RawSample]:
    """Yields `count` samples of a split, chosen by key, in the order of the shards; all if there are fewer.

    Labels are read where the data set has them.

    Raises:
        RunError: a shard cannot be read.
    """
    files, samples = ShardFiles(index.fetching), index.records(part)
    for number in samples.smallest(count, _SALT)[:count].tolist():
        shard, row = samples[number]
        image = read_image(files, shard, row)
        try:
            label = find_label(index, files, shard, row) if index.has_labels else None
        except InputError:  # `summarize_data` names it
            label = None
        yield RawSample(image.key, image.ending, image.data, label)


def summarize_data(index: DataIndex, samples: int = STATS_SAMPLES) -> dict[str, Any]:
    """Counts everything, and looks into `samples` images of each split.

    Returns:
        Plain values for JSON: the fields of the index; `stats_samples`, the number of training images that mean
        and std were taken from; `bytes`; `duplicates` (see there); and `splits`: per split
        `samples`, `shards`, `bytes`; `labels` (samples per class), `label_kinds` and `label_range` ([smallest,
        mean, largest] of a regression, else empty); the faults `unlabelled`, `wrong_labels`, `keys_twice`,
        `keys_not_utf8` and `no_sample` (images that nobody sees because of dots in their keys), each with
        `count` and `first`; `longest_key` (bytes); `beside`, the other files of its samples by ending, and `fields` of
        the first `.json`; and of the images looked into `kinds`, `channels`, `bits`, `height` and `width` ([smallest,
        median, largest]; empty where all are broken), and `broken`.

    Raises:
        RunError: a shard cannot be read.
    """
    first = next(iter(index.splits))
    return {
        "root": index.root,
        "reading": list(index.reading),
        "splits": {
            name: _totals(index, name) | _labels(index, name) | _names(index, name) | _looks(index, name, samples)
            for name in index.splits
        },
        "classes": list(index.classes) if index.classes else None,
        "has_labels": index.has_labels,
        "channels": index.channels,
        "dtype": index.dtype,
        "bands": list(index.bands) if index.bands else None,
        "value_range": list(index.value_range) if index.value_range else None,
        "mean": list(index.mean),
        "std": list(index.std),
        "stats_samples": min(STATS_SAMPLES, index.num_samples(first)),
        "image_size": list(index.image_size),
        "bytes": sum(shard.bytes for shards in index.splits.values() for shard in shards),
        "duplicates": find_duplicates(index)._asdict(),
    }


def _totals(index: DataIndex, split: str) -> dict[str, Any]:
    shards = index.splits[split]
    return {
        "samples": index.num_samples(split),
        "shards": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
    }


def _labels(index: DataIndex, split: str) -> dict[str, Any]:
    """Reads every label of a split; wrong ones are named."""
    counts: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    values = list[float]()
    missing, wrong = NameCounter(), NameCounter()
    samples = index.records(split)
    files = files_for(index, samples)
    for number in range(len(samples)) if index.has_labels else ():
        shard, row = samples[number]
        try:
            label = find_label(index, files, shard, row)
        except InputError as error:
            wrong.add(str(error))
            continue
        if label is None:
            missing.add(read_key(files, shard, row))
            continue
        kinds["class" if isinstance(label, int) else "classes" if isinstance(label, tuple) else "number"] += 1
        counts.update(classes_of(label))
        if isinstance(label, float):
            values.append(label)
    return {
        "labels": {str(label): counts[label] for label in sorted(counts)},
        "label_kinds": dict(kinds.most_common()),
        "label_range": [min(values), float(np.mean(values)), max(values)] if values else [],
        "unlabelled": missing.plain(),
        "wrong_labels": wrong.plain(),
    }


def _names(index: DataIndex, split: str) -> dict[str, Any]:
    """Walks the headers of a split."""
    keys, counts = np.unique(index.records(split).keys(), return_counts=True)
    repeated = set(keys[counts > 1].tolist())
    twice, odd, hidden = NameCounter(), NameCounter(), NameCounter()
    longest, beside, fields = 0, Counter[str](), list[str]()
    files = ShardFiles(index.fetching, whole=True)
    for shard in index.splits[split]:
        with files.nearby(shard) as path:
            named = named_ending(path)
            for key, group in read_groups(path):
                image = image_of(group, named)
                beside.update(ending for ending, member in group if member is not image and ending != FILE_ENDING)
                if not fields:
                    fields = _json_fields(path, group)
                if name := hidden_image(group, named):
                    hidden.add(name)
                if image is None:
                    continue
                longest = max(longest, len(key.encode("utf-8", "surrogateescape")))
                if to_text(key) != key:
                    odd.add(key)
                if repeated and hash_key(key) in repeated:
                    twice.add(key)
    return {
        "keys_twice": twice.plain(),
        "keys_not_utf8": odd.plain(),
        "no_sample": hidden.plain(),
        "longest_key": longest,
        "beside": dict(beside.most_common()),
        "fields": fields,
    }


def _json_fields(path: str, group: list[tuple[str, TarMember]]) -> list[str]:
    """The first fields of the `.json` of a sample."""
    member = next((member for ending, member in group if ending == "json"), None)
    if member is None:
        return []
    try:
        content = json.loads(store_of(path).read(path, member.offset, member.size))
    except ValueError:
        return []
    return list(map(str, content))[:_FIELDS] if isinstance(content, dict) else []


def _looks(index: DataIndex, split: str, count: int) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    channels: Counter[int] = Counter()
    bits: Counter[int] = Counter()
    sizes: list[tuple[int, int]] = []
    broken: list[str] = []
    for sample in raw_samples(index, split, count):
        kinds[sample.ending] += 1
        try:
            image = open_image(sample.data, index.alpha)
            image.pixels(cover=(1, 1))
        except DecodeError as error:
            broken.append(f"{to_text(sample.key)}: {error}")
            continue
        channels[image.channels] += 1
        bits[16 if image.deep else 8] += 1
        sizes.append((image.height, image.width))
    return {
        "kinds": dict(kinds.most_common()),
        "channels": {str(c): n for c, n in channels.most_common()},
        "bits": {str(b): n for b, n in bits.most_common()},
        "height": _spread([height for height, _ in sizes]),
        "width": _spread([width for _, width in sizes]),
        "broken": broken,
    }


def _spread(values: list[int]) -> list[int]:
    return [int(f(values)) for f in (np.min, np.median, np.max)] if values else []
