"""The plan of a pack whose source is shards: keys, labels, splits and what values mean are those of the shards."""

from __future__ import annotations

from pathlib import Path

from mimsuite.data.images.reading import Reading
from mimsuite.data.images.value_range import range_words
from mimsuite.data.index import DataIndex
from mimsuite.data.label_table import find_label
from mimsuite.data.members import image_place, read_files, read_key
from mimsuite.data.packing.source import SourceImage
from mimsuite.data.shard_files import ShardFiles
from mimsuite.errors import InputError


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


def read_as_indexed(index: DataIndex, reading: Reading) -> Reading:
    """How the images of shards are read: transparency and names of bands as their index says, unless others are given.

    Raises:
        InputError: a range for values that a range was declared for when they were packed.
    """
    if reading.range is not None and index.value_range is not None:
        given, held = range_words(reading.range.low, reading.range.high), range_words(*index.value_range)
        raise InputError(
            f"{given} is for the values of files, and src={index.root} was packed with {held}; pack the files that it "
            "was made of again"
        )
    alpha = index.alpha if reading.alpha == "white" else reading.alpha
    names = index.bands if reading.band_names == () and index.bands else reading.band_names
    return reading._replace(alpha=alpha, band_names=names)


def describe_values(index: DataIndex) -> list[str]:
    """A line on what the index of shards says of their values; none where it says nothing."""
    said = [f"alpha={index.alpha}"] if index.alpha != "white" else []
    said += [f"bands {', '.join(index.bands)}"] if index.bands else []
    said += [range_words(*index.value_range)] if index.value_range else []
    return [f"as in the index of the shards: {'; '.join(said)}"] if said else []
