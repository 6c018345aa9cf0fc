"""How an index is kept in a file, `index.json`, and read back."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from mimsuite.data.images.bands import are_names
from mimsuite.data.index import EVERY_SPLIT, DataIndex, Samples, Shard
from mimsuite.data.storage import write_text
from mimsuite.data.stores.address import read_if_there, store_of
from mimsuite.data.stores.local import LocalStore
from mimsuite.data.stores.names import REMOTE, bare, below, check_address, join, scheme_of, server_of, shown
from mimsuite.data.tables import KEYS, ROWS, write_tables
from mimsuite.errors import InputError, reading
from mimsuite.types import DisplayRange
from mimsuite.words import ALPHAS

INDEX = "index.json"
CLASSES = "classes.txt"  # their names, one a line
JOURNAL = "pack.journal"  # lies in a packed folder until the index is written
FORMAT = "mimsuite-2"
_OF_ONE_SHARD = "mimsuite-1"  # of older folders: each shard has a table of its own, and names it
_MOST = 1 << 52  # of samples, bytes and pixels: what JSON, numpy and Python all count exactly


def write_index(folder: Path, index: DataIndex, root: str = "", *, beside: bool = False) -> DataIndex:
    """Writes `index.json` and, first, the rows of all shards as two files (see `tables`).

    Args:
        folder: where; shards that lie in it are named relative to it.
        index: the data set; its tables lie anywhere, and are left as they are.
        root: the address of the folder on another machine that all shards lie in; they are named relative to it, and
            it is written without what may be secret.
        beside: whether what is written will lie in that folder; then the address is not written, for a copy of the
            folder reads its own shards.

    Returns:
        The same data set with the new tables.
    """
    samples = Samples(index.shards_of(EVERY_SPLIT))
    write_tables(folder, samples.row_blocks(), len(samples))
    index = replace(index, splits=dict(_numbered(folder, index)))
    inside = f"{folder}{os.sep}"

    def name(path: str) -> str:
        return (below(root, path) if root else None) or path.removeprefix(inside)

    content = {
        "format": FORMAT,
        **({"root": bare(root)} if root and not beside else {}),
        "splits": {
            split: [
                {
                    "file": name(s.path),
                    "samples": s.samples,
                    "bytes": s.bytes,
                    "sha256": s.sha256,
                    "row": s.row,
                }
                for s in shards
            ]
            for split, shards in index.splits.items()
        },
        "classes": index.classes,
        "channels": index.channels,
        "dtype": index.dtype,
        "mean": index.mean,
        "std": index.std,
        "image_size": index.image_size,
        "has_labels": index.has_labels,
        "display": index.display and {"low": index.display.low, "high": index.display.high},
        "alpha": index.alpha,
        "bands": index.bands,
        "value_range": index.value_range,
    }
    write_text(folder / INDEX, json.dumps(content, indent=1) + "\n")
    return index


def _numbered(folder: Path, index: DataIndex) -> Iterator[tuple[str, tuple[Shard, ...]]]:
    """The splits, with the rows of all shards one after the other in the tables of a folder."""
    table, keys, row = str(folder / ROWS), str(folder / KEYS), 0
    for split, shards in index.splits.items():
        rows = [row, *accumulate((shard.samples for shard in shards), initial=row)][1:]
        yield split, tuple(replace(s, table=table, keys=keys, row=r) for s, r in zip(shards, rows, strict=False))
        row = rows[-1]


def read_index(folder: str | Path, root: str = "") -> DataIndex:
    """Reads `index.json`.

    Args:
        folder: where it lies: a path, or an address.
        root: given where it is the cached index of the shards in that folder.

    Raises:
        InputError: unreadable, or not of our format.
        OSError: it lies on another machine, and cannot be fetched.
    """
    file = join(str(folder), INDEX)
    fix = "pack the data again, or move index.json away to have the shards scanned"
    copy = store_of(file).local_copy(file)
    with reading(file, fix):
        content = json.loads(LocalStore().read_all(str(copy)).decode())
    found = content.get("format") if isinstance(content, dict) else None
    if found not in (FORMAT, _OF_ONE_SHARD):
        raise InputError(f"{file} has format {found!r}, {FORMAT!r} is expected; {fix}")
    with reading(f"{file} is damaged and", fix):
        index = _parse(content, str(folder), root)
    _check_splits(index, file)
    return index


def _parse(content: dict[str, Any], folder: str, root: str) -> DataIndex:
    """Makes the index of what the file holds; raises a ValueError or the like where that is not what we write."""
    own = content["format"] == _OF_ONE_SHARD
    table, keys = (join(folder, name) for name in (ROWS, KEYS))
    elsewhere = _address(content["root"], folder) if "root" in content else ""
    packed = not root or bool(elsewhere)
    place = (root if elsewhere else "") or elsewhere or folder
    splits = {
        split: tuple(
            Shard(
                path=_inside(place, s["file"], packed),
                samples=_whole(s["samples"], "samples", least=0),
                bytes=_whole(s["bytes"], "bytes", least=0),
                sha256=None if s["sha256"] is None else str(s["sha256"]),
                table=_inside(folder, s["table"], not root) if own else table,
                row=0 if own else _whole(s["row"], "row", least=0),
                keys=None if own else keys,
            )
            for s in shards
        )
        for split, shards in content["splits"].items()
    }
    channels = _whole(content["channels"], "channels")
    dtype, alpha = content["dtype"], content.get("alpha", "white")
    if dtype not in ("uint8", "uint16") or alpha not in ALPHAS:
        raise ValueError(f"dtype {dtype!r}, alpha {alpha!r}")
    mean, std = (_numbers(content[name], name, channels) for name in ("mean", "std"))
    height, width = (_whole(side, "image_size") for side in content["image_size"])
    names = content["classes"]
    if names and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError("classes are not a list of names")
    return DataIndex(
        root=shown(root or elsewhere or folder),
        splits=splits,
        classes=read_classes(root) if root else tuple(names) if names else None,
        channels=channels,
        dtype=dtype,
        mean=mean,
        std=std,
        image_size=(height, width),
        has_labels=bool(content["has_labels"]),
        display=_read_display(content.get("display"), channels),
        alpha=alpha,
        bands=_read_bands(content.get("bands"), channels),
        value_range=_read_range(content.get("value_range")),
    )


def _whole(value: Any, name: str, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= _MOST:
        raise ValueError(f"{name} is {value!r}, not a whole number from {least} to {_MOST}")
    return value


def _numbers(values: Any, name: str, count: int) -> tuple[float, ...]:
    good = isinstance(values, list) and len(values) == count and all(type(v) in (int, float) for v in values)
    if not good or not all(math.isfinite(v) for v in values):
        raise ValueError(f"{name} is not {count} numbers")
    return tuple(map(float, values))


def _read_display(content: dict[str, list[float]] | None, channels: int) -> DisplayRange | None:
    """The range that pictures show; an index of 8-bit data has none, nor has one that an older version wrote."""
    if content is None:
        return None
    low, high = (_numbers(content[key], key, channels) for key in ("low", "high"))
    if any(not 0 <= a < b <= 1 for a, b in zip(low, high, strict=True)):
        raise ValueError(f"display {content} is not a range within 0 to 1 for each of {channels} channels")
    return DisplayRange(low, high)


def _read_bands(content: Any, channels: int) -> tuple[str, ...] | None:
    if content is None:
        return None
    if not isinstance(content, list) or len(content) != channels or not are_names(list(map(str, content))):
        raise ValueError(f"bands {content} are not a name for each of {channels} channels")
    return tuple(map(str, content))


def _read_range(content: Any) -> tuple[float, float] | None:
    if content is None:
        return None
    low, high = _numbers(content, "value_range", 2)
    return low, high


def _check_splits(index: DataIndex, file: str) -> None:
    """A split without images would look usable, but nothing could be trained or evaluated on it."""
    empty = next((split for split in index.splits if index.num_samples(split) < 1), None)
    if empty is not None:
        raise InputError(
            f"{file} names a split {empty} that holds no images; remove {empty} from its splits, or pack the data "
            "again with images for it"
        )
    if not index.splits:
        raise InputError(f"{file} names no splits; pack the data again")


def _inside(folder: str, name: Any, packed: bool) -> str:
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file")
    if packed and (os.path.isabs(name) or scheme_of(name) or ".." in name.split("/")):
        raise ValueError(f"{name} lies outside the folder")
    return join(folder, name)


def _address(root: Any, folder: str) -> str:
    """Where shards lie that are on another machine than their index; an index from a server names its own alone."""
    if not isinstance(root, str) or scheme_of(root) not in REMOTE:
        raise ValueError(f"root {root!r} is no address of another machine")
    check_address(root)
    if scheme_of(folder) and server_of(root) != server_of(folder):
        raise InputError(
            f"the {INDEX} in {folder} names shards on another server, {root}; copy it here, look at it, and give that "
            "folder"
        )
    return root


def as_packed(index: DataIndex, packed: DataIndex) -> DataIndex:
    """Some shards of a packed folder, opened by a pattern, with what its `index.json` says of their values."""
    bands = packed.bands if packed.channels == index.channels else None
    return replace(index, bands=bands, value_range=packed.value_range)


def read_classes(root: str) -> tuple[str, ...] | None:
    """The names of the classes, by label, in the `classes.txt` of a folder; None without one.

    Raises:
        InputError: it cannot be read.
    """
    file = join(root, CLASSES)
    with reading(file, "write one class name a line, in UTF-8"):
        held = read_if_there(file)
        if held is None:
            return None
        names = tuple(line.strip() for line in held.decode().splitlines())
    while names and not names[-1]:
        names = names[:-1]
    return names or None
