"""Whether every byte of a data set is as it should be: checksums, headers, tables, pictures, labels and keys."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from mimsuite.data.hashing import hash_key
from mimsuite.data.images.decode import DecodeError, decode
from mimsuite.data.index import DataIndex, Samples, Shard
from mimsuite.data.index_json import INDEX, read_index
from mimsuite.data.labels import parse_label
from mimsuite.data.members import Member, is_table_of, read_image, read_label
from mimsuite.data.remote.listing import find_remote
from mimsuite.data.remote.opening import read_packed
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.sources import find_shards
from mimsuite.data.stores.address import absolute, store_of
from mimsuite.data.stores.names import scheme_of, shown
from mimsuite.data.stores.store import sha256_of
from mimsuite.data.tar import hidden_image, image_of, named_ending, read_groups, scan_shard, to_text
from mimsuite.errors import InputError

_AHEAD = 8  # images per thread that are read ahead

_LabelKinds = dict[bool, str]  # whether a label is a list, to the key of a sample that has such a label
_Job = tuple[str, int, bytes, Member | None]  # key, offset, image and label of a sample


class Problem(NamedTuple):
    """What is wrong: in which shard, at which offset (bytes; -1: the whole file), with which key ("" : none), why."""

    shard: str
    offset: int
    key: str
    reason: str


class _Answer(NamedTuple):
    """What was found of a sample: its key, whether its label is a list (None: it has none), and what is wrong."""

    key: str
    is_list: bool | None
    problem: Problem | None


def verify(index: DataIndex, progress: Callable[[int, int], None]) -> Iterator[Problem]:
    """Reads and decodes everything.

    Args:
        index: the data set.
        progress: called with (images done, images in all).
    """
    kinds: _LabelKinds = {}
    done, total = 0, sum(index.num_samples(split) for split in index.splits)
    for split, shards in index.splits.items():
        keys, counts = np.unique(index.records(split).keys(), return_counts=True)
        twice = {int(key): 0 for key in keys[counts > 1]}
        for shard in shards:
            found = list(check_file(shard.path, shard.sha256, shard.bytes))
            yield from found
            if any(problem.offset >= 0 for problem in found):
                done += shard.samples
                continue
            files = ShardFiles(index.fetching, whole=not found)
            with files.nearby(shard) as near:
                yield from _check_names(shard, near, twice)
                for problem in _check_samples(index, shard, files, near, kinds):
                    done += 1
                    progress(done, total)
                    if problem is not None:
                        yield problem
    if len(kinds) == 2:
        lists, numbers = to_text(kinds[True]), to_text(kinds[False])
        reason = f"labels are lists in some samples ({lists}) and single numbers in others ({numbers}); use one form"
        yield Problem(index.root, -1, "", reason)


def check_shards(data: str) -> Iterator[Problem]:
    """The faults of the shards themselves, for data that cannot be opened at all.

    Raises:
        InputError: not even the shards can be named.
    """
    index = read_packed(data) if scheme_of(data) else _read_local(absolute(data))
    if index is not None:
        for shards in index.splits.values():
            for shard in shards:
                yield from check_file(shard.path, shard.sha256, shard.bytes)
        return
    for path in (find_remote(data) if scheme_of(data) else find_shards(data)).paths:
        yield from check_file(path, None, None)


def _read_local(folder: str) -> DataIndex | None:
    return read_index(folder) if store_of(folder).is_file(os.path.join(folder, INDEX)) else None


def check_file(path: str, sha256: str | None, size: int | None) -> Iterator[Problem]:
    """Checks the headers of a shard, and its size and checksum where these are known."""
    store = store_of(path)
    try:
        scan_shard(path)
        found = store.stat(path).size
        if size is not None and found != size:
            yield Problem(shown(path), -1, "", f"{found} bytes, index.json says {size}; copy it again")
        elif sha256 is not None and sha256_of(store, path) != sha256:
            yield Problem(shown(path), -1, "", "its sha256 is not the one in index.json; copy it again")
    except InputError as error:
        offset = re.search(r"offset (\d+)", str(error))
        yield Problem(shown(path), int(offset[1]) if offset else 0, "", str(error))
    except OSError as error:
        yield Problem(shown(path), -1, "", f"it cannot be read: {error.strerror}")


def _check_names(shard: Shard, near: str, twice: dict[int, int]) -> Iterator[Problem]:
    """Images that nobody sees because of a dot in their key, and keys that come again in a split."""
    named = named_ending(near)
    for key, group in read_groups(near):
        offset = group[0][1].offset
        if name := hidden_image(group, named):
            reason = f"{to_text(name)} is not a sample: its ending begins at the first dot; put _ for the dots"
            yield Problem(shown(shard.path), offset, to_text(key), reason)
        elif image_of(group, named) is not None and (number := hash_key(key)) in twice:
            twice[number] += 1
            if twice[number] > 1:
                yield Problem(shown(shard.path), offset, to_text(key), "another sample of the split has the same key")


def _check_samples(
    index: DataIndex, shard: Shard, files: ShardFiles, near: str, kinds: _LabelKinds
) -> Iterator[Problem | None]:
    """One answer per sample of the shard, in order; `kinds` is filled in."""
    samples, rows = Samples((shard,)), scan_shard(near)
    if not is_table_of(samples, rows):
        yield Problem(shown(shard.path), -1, "", f"{shard.table} is not its table; pack the data again")
        return
    named, groups = named_ending(near), read_groups(near)
    found = ((key, image) for key, group in groups if (image := image_of(group, named)) is not None)

    def check(key: str, offset: int, image: bytes, label: Member | None) -> _Answer:
        is_list = None
        try:
            decode(image, index.channels, index.dtype, alpha=index.alpha)
            if label is not None:
                value = parse_label(label.data, label.ending, key, len(index.classes) if index.classes else None)
                is_list = isinstance(value, tuple)
        except (DecodeError, InputError) as error:
            return _Answer(key, is_list, Problem(shown(shard.path), offset, to_text(key), str(error)))
        return _Answer(key, is_list, None)

    def jobs() -> Iterator[_Job]:
        for row, (key, image) in zip(rows, found, strict=True):
            yield key, image.offset, read_image(files, shard, row).data, read_label(files, shard, row)

    for answer in _ahead(check, jobs()):
        if answer.is_list is not None:
            kinds.setdefault(answer.is_list, answer.key)  # here, where they come in order
        yield answer.problem


def _ahead(work: Callable[[str, int, bytes, Member | None], _Answer], jobs: Iterable[_Job]) -> Iterator[_Answer]:
    """The results in order, computed on all cores some way ahead."""
    threads = os.cpu_count() or 1
    waiting: deque[Future[_Answer]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for job in jobs:
            waiting.append(pool.submit(work, *job))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
