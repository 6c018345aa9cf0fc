"""The plan of a pack whose source is shards: keys, labels and splits are those of the samples."""

from __future__ import annotations

from pathlib import Path

from mimsuite.data.index import DataIndex
from mimsuite.data.label_table import find_label
from mimsuite.data.members import image_place, read_files, read_key
from mimsuite.data.packing.source import SourceImage
from mimsuite.data.shard_files import ShardFiles


def read_samples(index: DataIndex, *, splits: bool, labels: bool) -> list[SourceImage]:
    """Reads the keys and labels of all samples; keys that come again get a number.

    Args:
        index: the data set.
        splits: whether splits are kept; else all is train.
        labels: whether labels are kept.

    Raises:
        InputError: a label is wrong.
    """
    files, taken, found = ShardFiles(index.fetching), set[str](), list[SourceImage]()
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
            label = find_label(index, files, shard, row) if labels and index.has_labels else None
            place = split if splits else "train"
            found.append(SourceImage(Path(shard.path), paths[number], key, place, label, "", image_place(row)))
    files.close()
    return found
