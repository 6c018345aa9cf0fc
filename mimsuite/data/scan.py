"""How an index is made of shards that have none: a scan of their headers, and of some images for the statistics."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mimsuite.data.folders import count_of, images_of
from mimsuite.data.images.stats import measure_images
from mimsuite.data.index import STATS_SAMPLES, DataIndex, Samples, Shard
from mimsuite.data.index_json import INDEX, read_classes, write_index
from mimsuite.data.members import find_labelled, read_image
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.sources import INFO, find_shards, read_info, split_of
from mimsuite.data.storage import write_array
from mimsuite.data.stores.address import absolute, store_of
from mimsuite.data.stores.names import scheme_of, shown
from mimsuite.data.stores.store import sha256_of
from mimsuite.data.tar import IMAGE_ENDINGS, NoImageError, scan_shard, to_text
from mimsuite.errors import InputError
from mimsuite.words import SPLITS, Alpha

log = logging.getLogger("mimsuite")

SCAN = "mimsuite-scan-4"  # of what a scan finds; indexes in the cache under another name are not used
_SALT = 0x53544154
_AT_ONCE = 16  # images of other machines


class ScannedShard(NamedTuple):
    """What a scan found of a shard.

    Attributes:
        path: where it lies.
        bytes: its size.
        sha256: in hex, where it is known.
        table: the file with its rows.
        samples: how many rows.
        fault: why it has none.
        unread: how many images in it are left out for their names.
        first_unread: the name of the first of them.
    """

    path: str
    bytes: int
    sha256: str | None
    table: str
    samples: int
    fault: str = ""
    unread: int = 0
    first_unread: str = ""


def build_index(root: str, scans: Iterable[ScannedShard], alpha: Alpha = "white") -> DataIndex:
    """The index of shards that were scanned; `write_index` joins their tables.

    Args:
        root: the folder of the data set; `classes.txt` in it gives the names of the classes.
        scans: of all shards, in order.
        alpha: what becomes of transparency.

    Raises:
        InputError: none of them holds an image.
    """
    splits = _sort_shards(root, scans)
    files, chosen = ShardFiles(), sample_images(next(iter(splits.values())))
    facts = measure_images(read_images(files, chosen), shown(root), alpha)
    return DataIndex(
        root=shown(root),
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


def scan_files(paths: Iterable[str], tables: Path, hashes: Mapping[str, str]) -> Iterator[ScannedShard]:
    """Scans shards of this machine, one after the other.

    Args:
        paths: the shards.
        tables: an existing folder, which gets a table of each.
        hashes: sha256 of the shards, as far as they are known.
    """
    for number, path in enumerate(paths):
        table = tables / f"{number:06d}.idx.npy"
        unread = list[str]()
        try:
            rows = scan_shard(path, unread=unread.append)
        except NoImageError as error:
            yield ScannedShard(path, 0, None, "", 0, str(error))
            continue
        write_array(table, rows)
        size = store_of(path).stat(path).size
        yield ScannedShard(path, size, hashes.get(path), str(table), len(rows), "", len(unread), "".join(unread[:1]))


def _sort_shards(root: str, scans: Iterable[ScannedShard]) -> dict[str, tuple[Shard, ...]]:
    """The shards of each split, train first. Arguments are those of `build_index`."""
    splits: dict[str, list[Shard]] = {}
    empty, count, unread, first_unread = list[str](), 0, 0, ""
    stated = read_info(root)
    for found in scans:
        count += 1
        unread, first_unread = unread + found.unread, first_unread or found.first_unread
        if found.fault:
            empty.append(found.fault)
            continue
        split, said = stated.find(found.path, root)
        if said not in (None, found.samples):
            log.warning("%s holds %d images, %s says %d", shown(found.path), found.samples, INFO, said)
        shard = Shard(found.path, found.samples, found.bytes, found.sha256, found.table)
        splits.setdefault(split or split_of(found.path, root), []).append(shard)
    if empty and not splits:
        raise NoImageError(empty[0])
    if empty:
        log.warning("%d of %d shards are left out: %s", len(empty), count, empty[0])
    if unread:
        log.warning(
            "%s left out of the shards, where names are KEY.%s with no dot in KEY: the first is %s; rename them, or "
            "run `mimsuite pack` on the folder that they came from",
            *(f"{count_of(unread, 'image')} {'is' if unread == 1 else 'are'}", "/".join(IMAGE_ENDINGS)),
            to_text(first_unread),
        )
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
    root, paths, _ = find_shards(data)
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix=".index-", ignore_cleanup_errors=True) as name:
            hashes = {path: sha256_of(store, path) for path in paths}
            write_index(Path(root), build_index(root, scan_files(paths, Path(name), hashes), alpha))
    except OSError as error:
        raise InputError(
            f"index=true, but {error.filename or root} cannot be written ({error.strerror}); copy the shards to a "
            "folder of yours, or remove index=true: the index is then kept in your cache"
        ) from error


def read_images(files: ShardFiles, samples: Samples) -> Iterator[tuple[str, bytes]]:
    """Where each image lies, for people, and its bytes; of other machines some are asked for at the same time."""
    at_once = _AT_ONCE if any(scheme_of(shard.path) for shard in samples.shards) else 1
    with ThreadPoolExecutor(at_once) as pool:
        for first in range(0, len(samples), at_once):
            rows = [samples[number] for number in range(first, min(first + at_once, len(samples)))]
            for (shard, _), image in zip(rows, pool.map(lambda row: read_image(files, *row), rows), strict=True):
                yield f"{shown(shard.path)}:{image.name}", image.data
