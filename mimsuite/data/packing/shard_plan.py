"""The plan of a pack whose source is shards: keys, labels and splits are those of the samples."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mimsuite.data.index import DataIndex
from mimsuite.data.labels import Label, parse_label
from mimsuite.data.members import hashed_key, image_place, read_files, read_key, read_label
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.stores.address import store_of


class SourceSample(NamedTuple):
    """A sample of a shard: the shard, where its image lies in it (offset, size), its path, key, split and label."""

    path: Path
    at: tuple[int, int]
    file: str
    key: str
    split: str
    label: Label | None


def read_samples(index: DataIndex, *, splits: bool, labels: bool) -> list[SourceSample]:
    """Reads the keys and labels of all samples; keys that come again get a number.

    Args:
        index: the data set.
        splits: whether splits are kept; else all is train.
        labels: whether labels are kept.

    Raises:
        InputError: a label is wrong.
    """
    files, taken, found = ShardFiles(store_of(index.root)), set[str](), list[SourceSample]()
    classes = len(index.classes) if index.classes else None
    for split in index.splits:
        samples = index.records(split)
        paths = read_files(files, samples)
        for number in range(len(samples)):
            shard, row = samples[number]
            name = key = read_key(files, shard, row)
            count = 2
            while key in taken:
                key, count = f"{name}_{count}", count + 1
            taken.add(key)
            label = read_label(files, shard, row) if labels and index.has_labels and index.given is None else None
            given = index.given.find(hashed_key(row)) if labels and index.given is not None else None
            found.append(
                SourceSample(
                    path=Path(shard.path),
                    at=image_place(row),
                    file=paths[number],
                    key=key,
                    split=split if splits else "train",
                    label=given if label is None else parse_label(label.data, label.ending, name, classes),
                )
            )
    files.close()
    return found
