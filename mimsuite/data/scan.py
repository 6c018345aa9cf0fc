"""How an index is made of shards that have none: a scan of their headers, and of some images for the statistics."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mimsuite.data.folders import images_of
from mimsuite.data.images.stats import measure_images
from mimsuite.data.index import STATS_SAMPLES, DataIndex, Samples, Shard
from mimsuite.data.index_json import INDEX, read_classes, write_index
from mimsuite.data.members import find_labelled, read_image
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.sources import INFO, find_shards, read_info, split_of
from mimsuite.data.storage import write_array
from mimsuite.data.stores.address import absolute, store_of
from mimsuite.data.stores.store import sha256_of
from mimsuite.data.tar import NoImageError, scan_shard
from mimsuite.errors import InputError
from mimsuite.words import SPLITS, Alpha

log = logging.getLogger("mimsuite")

SCAN = "mimsuite-scan-3"  # of what a scan finds; indexes in the cache under another name are not used
_SALT = 0x53544154


def build_index(
    root: Path, paths: list[Path], tables: Path, hashes: dict[Path, str], alpha: Alpha = "white"
) -> DataIndex:
    """Scans shards and writes their tables, one for each, into the folder `tables`; `write_index` joins them.

    Args:
        root: the folder of the data set; `classes.txt` in it gives the names of the classes.
        paths: the shards.
        tables: an existing folder.
        hashes: sha256 of the shards, as far as they are known.
        alpha: what becomes of transparency.
    """
    splits = _scan_all(root, paths, tables, hashes)
    files, chosen = ShardFiles(), sample_images(next(iter(splits.values())))
    facts = measure_images(read_images(files, chosen), str(root), alpha)
    return DataIndex(
        root=str(root),
        splits=splits,
        classes=read_classes(root),
        channels=facts.channels,
        dtype=facts.dtype,
        mean=facts.mean,
        std=facts.std,
        image_size=facts.image_size,
        display=facts.display,
        alpha=alpha,
        has_labels=any(find_labelled(Samples((shard,))).any() for shards in splits.values() for shard in shards),
    )


def sample_images(shards: tuple[Shard, ...]) -> Samples:
    """The images of the first split that the statistics are taken from, chosen by key."""
    samples = Samples(shards)
    return samples.take(samples.smallest(STATS_SAMPLES, salt=_SALT))


def _scan_all(root: Path, paths: list[Path], tables: Path, hashes: dict[Path, str]) -> dict[str, tuple[Shard, ...]]:
    """Writes the table of each shard; the shards of each split, train first. Arguments are those of `build_index`."""
    splits: dict[str, list[Shard]] = {}
    empty = list[NoImageError]()
    stated, store = read_info(root), store_of(str(root))
    for number, path in enumerate(paths):
        try:
            rows = scan_shard(str(path))
        except NoImageError as error:
            empty.append(error)
            continue
        split, count = stated.get(path.name, (split_of(path, root), None))
        if count not in (None, len(rows)):
            log.warning("%s holds %d images, %s says %d", path, len(rows), INFO, count)
        table = tables / f"{number:06d}.idx.npy"
        write_array(table, rows)
        shard = Shard(str(path), len(rows), store.stat(str(path)).size, hashes.get(path), str(table))
        splits.setdefault(split, []).append(shard)
    if empty and not splits:
        raise empty[0]
    if empty:
        log.warning("%d of %d shards are left out: %s", len(empty), len(paths), empty[0])
    return {name: tuple(splits[name]) for name in SPLITS if name in splits}


def index_beside(data: str, alpha: Alpha = "white") -> None:
    """Writes `index.json`, with the sha256 of each shard, and the tables into the folder of the shards.

    Raises:
        InputError: no folder of shards, one that has an index, one that cannot be written, or damaged shards.
    """
    folder, store = absolute(data), store_of(data)
    if store.is_file(os.path.join(folder, INDEX)):
        raise InputError(f"index=true, but data={data} has an index.json; move it away to have a new one written")
    if not store.is_folder(folder) or images_of(data) is not None:
        raise InputError(f"index=true writes into a folder of shards, and data={data} is not one; give their folder")
    root, paths = find_shards(data)
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix=".index-", ignore_cleanup_errors=True) as name:
            hashes = {path: sha256_of(store, str(path)) for path in paths}
            write_index(root, build_index(root, paths, Path(name), hashes, alpha))
    except OSError as error:
        raise InputError(
            f"index=true, but {error.filename or root} cannot be written ({error.strerror}); copy the shards to a "
            "folder of yours, or remove index=true: the index is then kept in your cache"
        ) from error


def read_images(files: ShardFiles, samples: Samples) -> Iterator[tuple[str, bytes]]:
    """Where each image lies, for people, and its bytes."""
    for number in range(len(samples)):
        shard, row = samples[number]
        image = read_image(files, shard, row)
        yield f"{shard.path}:{image.name}", image.data
