"""The range that pictures of a data set show: from its index, or measured where an older index does not say it."""

from __future__ import annotations

from mimsuite.data.images.stats import measure_images
from mimsuite.data.index import DataIndex
from mimsuite.data.scan import read_images, sample_images
from mimsuite.data.shard_files import ShardFiles
from mimsuite.types import DisplayRange


def find_display(index: DataIndex) -> DisplayRange | None:
    """What pictures show as black and as full brightness, per channel; None of 8-bit data.

    An index that an older version wrote does not hold it: then it is measured on the images that such an index is made
    from, which takes seconds.

    Raises:
        InputError: no image can be decoded.
        RunError: a shard cannot be read.
    """
    if index.dtype == "uint8" or index.display is not None:
        return index.display
    chosen = sample_images(next(iter(index.splits.values())))
    return measure_images(read_images(ShardFiles(index.fetching), chosen), index.root, index.alpha).display
