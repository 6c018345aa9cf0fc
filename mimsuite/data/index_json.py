"""How an index is kept in a file, `index.json`, and read back."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mimsuite.data.index import DataIndex, Shard
from mimsuite.data.storage import write_text
from mimsuite.data.stores.address import store_of
from mimsuite.errors import InputError
from mimsuite.types import DisplayRange

INDEX = "index.json"
JOURNAL = "pack.journal"  # lies in a packed folder until the index is written
FORMAT = "mimsuite-1"


def write_index(folder: Path, index: DataIndex) -> None:
    """Writes `index.json`; shards and tables that lie in `folder` are named relative to it."""

    def name(path: str) -> str:
        return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path

    content = {
        "format": FORMAT,
        "splits": {
            split: [
                {
                    "file": name(s.path),
                    "samples": s.samples,
                    "bytes": s.bytes,
                    "sha256": s.sha256,
                    "table": name(s.table),
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
    }
    write_text(folder / INDEX, json.dumps(content, indent=1) + "\n")


def read_index(folder: Path, root: Path | None = None) -> DataIndex:
    """Reads `index.json`; with `root`, it is the cached index of the shards in that folder.

    Raises:
        InputError: unreadable, or not of our format.
    """
    file = folder / INDEX
    fix = "pack the data again, or move index.json away to have the shards scanned"
    try:
        content = json.loads(store_of(str(file)).read_all(str(file)).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); {fix}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise InputError(f"{file} has format {found!r}, {FORMAT!r} is expected; {fix}")
    try:
        splits = {
            split: tuple(
                Shard(
                    path=_inside(folder, s["file"], root is None),
                    samples=int(s["samples"]),
                    bytes=int(s["bytes"]),
                    sha256=s["sha256"],
                    table=_inside(folder, s["table"], root is None),
                )
                for s in shards
            )
            for split, shards in content["splits"].items()
        }
        index = DataIndex(
            root=str(root or folder),
            splits=splits,
            classes=read_classes(root) if root else tuple(content["classes"]) if content["classes"] else None,
            channels=int(content["channels"]),
            dtype=content["dtype"],
            mean=tuple(content["mean"]),
            std=tuple(content["std"]),
            image_size=(int(content["image_size"][0]), int(content["image_size"][1])),
            has_labels=bool(content["has_labels"]),
            display=_read_display(content.get("display"), int(content["channels"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{file} is damaged ({type(error).__name__}: {error}); {fix}") from error
    _check_splits(index, file)
    return index


def _read_display(content: dict[str, list[float]] | None, channels: int) -> DisplayRange | None:
    """The range that pictures show; an index of 8-bit data has none, nor has one that an older version wrote."""
    if content is None:
        return None
    low, high = (tuple(map(float, content[key])) for key in ("low", "high"))
    if not len(low) == len(high) == channels or any(not 0 <= a < b <= 1 for a, b in zip(low, high, strict=True)):
        raise ValueError(f"display {content} is not a range within 0 to 1 for each of {channels} channels")
    return DisplayRange(low, high)


def _check_splits(index: DataIndex, file: Path) -> None:
    """A split without images would look usable, but nothing could be trained or evaluated on it."""
    empty = next((split for split in index.splits if index.num_samples(split) < 1), None)
    if empty is not None:
        raise InputError(
            f"{file} names a split {empty} that holds no images; remove {empty} from its splits, or pack the data "
            "again with images for it"
        )
    if not index.splits:
        raise InputError(f"{file} names no splits; pack the data again")


def _inside(folder: Path, name: str, packed: bool) -> str:
    if packed and (os.path.isabs(name) or ".." in name.split("/")):
        raise ValueError(f"{name} lies outside the folder")
    return os.path.join(folder, name)  # ten times as fast as Path, and there may be 100,000


def read_classes(root: Path) -> tuple[str, ...] | None:
    """The names of the classes, by label, in the `classes.txt` of a folder; None without one.

    Raises:
        InputError: it cannot be read.
    """
    file = root / "classes.txt"
    store = store_of(str(file))
    if not store.is_file(str(file)):
        return None
    try:
        names = tuple(line.strip() for line in store.read_all(str(file)).decode().splitlines())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); write one class name a line, in UTF-8") from error
    while names and not names[-1]:
        names = names[:-1]
    return names or None
