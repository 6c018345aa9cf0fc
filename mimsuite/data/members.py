"""The members of a sample, its image and its label, read by the rows of the tar index; only here are rows read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.hashing import hash_key
from mimsuite.data.index import Samples, Shard
from mimsuite.data.labels import parse_label
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.tables import column_of
from mimsuite.data.tar import BLOCK, FIRST_RECORD, SampleRow, header_name, split_name
from mimsuite.errors import InputError, RunError


class Member(NamedTuple):
    """A file of a shard.

    Attributes:
        name: the whole name.
        key: of its sample.
        ending: what follows the key, in lower case, without the dot.
        data: its bytes.
    """

    name: str
    key: str
    ending: str
    data: bytes


def read_image(files: ShardFiles, shard: Shard, row: np.void) -> Member:
    """Reads the image of a sample.

    Args:
        files: reads the shards.
        shard: where the sample lies.
        row: its `tar.RECORD`.

    Raises:
        InputError: the row points outside the shard.
        RunError: the shard cannot be read.
    """
    at = SampleRow(*row.item())
    return _read(files, shard, at.image_offset, at.image_header, at.image_size)


def read_checked_image(files: ShardFiles, shard: Shard, row: np.void) -> tuple[int, Member]:
    """Reads the image of a sample; returns its hashed key, too, after a check that the image's name has it.

    Arguments and errors are those of `read_image`; a `RunError` also where the shard is not the one that was indexed.
    """
    at = SampleRow(*row.item())
    return at.key, _read_checked(files, shard, at.key, (at.image_offset, at.image_header, at.image_size))


def read_label(files: ShardFiles, shard: Shard, row: np.void) -> Member | None:
    """Reads the label of a sample; None where it has none. Arguments and errors are those of `read_image`."""
    at = SampleRow(*row.item())
    label = _read(files, shard, at.label_offset, at.label_header, at.label_size) if at.label_header else None
    return None if label is None else _renumbered(shard, label)


def read_key(files: ShardFiles, shard: Shard, row: np.void) -> str:
    """Reads the key of a sample, from the name of its image. Arguments and errors are those of `read_image`."""
    at = SampleRow(*row.item())
    return _read(files, shard, at.image_offset, at.image_header, 0).key


def read_files(files: ShardFiles, samples: Samples) -> list[str]:
    """The path of each image below the folder that it was packed from; where none is kept, its name in the shard.

    Errors are those of `read_image`.
    """
    found = list[str]()
    for number in range(len(samples)):
        shard, row = samples[number]
        at = SampleRow(*row.item())
        if at.file_header:
            data = _read(files, shard, at.file_offset, 0, at.file_size).data
            found.append(data.decode("utf-8", "surrogateescape"))
        else:
            found.append(_read(files, shard, at.image_offset, at.image_header, 0).name)
    return found


def read_image_end(files: ShardFiles, shard: Shard, row: np.void, size: int) -> bytes:
    """Reads the last `size` bytes of an image, or all if it has fewer. Errors are those of `read_image`."""
    at = SampleRow(*row.item())
    part = min(size, at.image_size)
    return _read(files, shard, at.image_offset + at.image_size - part, 0, part).data


def hashed_key(row: np.void) -> int:
    """The hashed key in a sample's row."""
    return SampleRow(*row.item()).key


def is_table_of(samples: Samples, rows: NDArray[np.void]) -> bool:
    """Whether the tables of some samples say what a scan has found, as far as they say anything."""
    same = all(np.array_equal(rows[name], samples.column(name)) for name in FIRST_RECORD.names or ())
    return same and np.array_equal(rows["key"], samples.keys())


def read_labels(files: ShardFiles, samples: Samples) -> Iterator[tuple[Shard, Member | None]]:
    """Yields the shard and the label of each sample, in order; None where it has none. Reads no image.

    Raises:
        InputError: a row points outside its shard.
        RunError: a shard cannot be read, or is not the one that was indexed.
    """
    columns = (samples.column(name).tolist() for name in ("key", "label_offset", "label_header", "label_size"))
    for shard, identity, offset, header, size in zip(_shards(samples), *columns, strict=True):
        place = (offset, header, size)
        yield shard, _renumbered(shard, _read_checked(files, shard, identity, place)) if header else None


def find_labelled(samples: Samples) -> NDArray[np.bool_]:
    """Which samples have a label, `(N,)`."""
    blocks = (column_of(rows, "label_header") > 0 for rows in samples.row_blocks())
    return np.concatenate([np.empty(0, bool), *blocks])


def image_place(row: np.void) -> tuple[int, int]:
    """Where the encoded image of a sample lies in its shard: offset and size in bytes."""
    at = SampleRow(*row.item())
    return at.image_offset, at.image_size


def image_bytes(samples: Samples) -> NDArray[Any]:
    """How many bytes each encoded image has, `(N,)`."""
    return samples.column("image_size")


def _renumbered(shard: Shard, label: Member) -> Member:
    """The label with the numbers that the classes have in the data set."""
    if shard.classes is None:
        return label
    value = parse_label(label.data, label.ending, label.key, len(shard.classes))
    if isinstance(value, int):
        return label._replace(data=str(shard.classes[value]).encode(), ending="cls")
    if isinstance(value, tuple):
        numbers = sorted(shard.classes[number] for number in value)
        return label._replace(data=json.dumps({"label": numbers}).encode(), ending="json")
    return label


def _read(files: ShardFiles, shard: Shard, offset: int, header: int, size: int) -> Member:
    """Reads a member whose payload begins at `offset`; without header blocks its name is empty."""
    if offset < header or offset + size > shard.bytes:
        raise InputError(
            f"{shard.table} points outside {shard.path}, at offset {offset} of {shard.bytes}; pack the data again"
        )
    data = files.read(shard, offset - header, header + size)
    name = header_name(data[:header], shard.path) if header else ""
    return Member(name, *split_name(name), data[header:])


def _read_checked(files: ShardFiles, shard: Shard, identity: int, place: tuple[int, int, int]) -> Member:
    """Reads a member of the sample that has this hashed key."""
    offset, header, size = place
    if header == BLOCK <= offset <= shard.bytes - size:
        # A name that lies whole in its block, as most do, needs no parser: that it hashes to the key proves it.
        data = files.read(shard, offset - header, header + size)
        name = data[:100].rstrip(b"\0").decode("utf-8", "surrogateescape")
        key, ending = split_name(name)
        if hash_key(key) == identity:
            return Member(name, key, ending, data[header:])
    member = _read(files, shard, *place)
    _check_key(shard, offset, member.key, identity)
    return member


def _check_key(shard: Shard, offset: int, key: str, identity: int) -> None:
    if hash_key(key) != identity:
        raise RunError(
            f"shard {shard.path} is not the one that was indexed: another member lies at offset {offset}; "
            "it was replaced, or its index is old: pack the data again"
        )


def _shards(samples: Samples) -> Iterator[Shard]:
    """The shard of each sample."""
    for shard, size in zip(samples.shards, samples.sizes.tolist(), strict=True):
        for _ in range(size):
            yield shard
