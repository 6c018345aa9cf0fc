"""The copies of image folders in the user's cache: made once, shared by processes, and removed when they are old."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mimsuite.data.fetching.limits import SHARDS
from mimsuite.data.fetching.shard_cache import list_shards, remove_shard
from mimsuite.data.folders import is_picture
from mimsuite.data.index_json import INDEX
from mimsuite.data.storage import cache_folder, move_folder, write_json
from mimsuite.errors import InputError

log = logging.getLogger("mimsuite")

LIMIT, LIMIT_GIB = "MIMSUITE_CACHE_LIMIT", 100.0
"""An environment variable: GiB that copies may fill, and what holds without it."""

_ABOUT = "source.json"  # written last into a copy
_PART = ".part"
_OTHERS = ("features", "index", "remote")
_GIB = 1 << 30
_held: dict[str, int] = {}  # copies that this process uses: the handle that keeps each locked


class Entry(NamedTuple):
    """A folder in the cache.

    Attributes:
        path: the folder.
        source: the folder of images, or the image, that it is a copy of; empty where that is not known.
        bytes: its size.
        used: when it was opened last, in seconds.
        old: why nobody will need it; empty for one that is still good.
    """

    path: Path
    source: str
    bytes: int
    used: float
    old: str


def packed_folder() -> Path:
    """Where the copies lie."""
    return cache_folder() / "packed"


def find_copy(source: Path, content: str, make: Callable[[Path], object]) -> Path:
    """The copy of a folder, made if it is not there; other processes that want it wait.

    Older copies of the same folder, and those that are over the limit, are removed if no process uses them. A copy
    that was begun and not finished is gone on with.

    Args:
        source: the folder of images, or one image.
        content: changes with its files.
        make: writes the shards into a folder.

    Returns:
        The folder of the copy, which stays while this process lives.
    """
    group = hashlib.sha256(os.path.realpath(source).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    folder = packed_folder() / f"{group}-{content[:32]}"
    part = folder.with_name(folder.name + _PART)
    try:
        while not _hold(folder):
            part.mkdir(parents=True, exist_ok=True)
            _make(folder, part, source, make)
        os.utime(folder)
    except OSError as error:
        raise InputError(
            f"the copy of {source} cannot be kept in {folder.parent} ({error.strerror}); set XDG_CACHE_HOME to a "
            "folder that can be written, or choose a place with `mimsuite pack`"
        ) from error
    for path in sorted(folder.parent.glob(f"{group}-*")):
        if path != folder and remove(path):
            log.info("removed %s, an older copy of %s", path, source)
    trim()
    return folder


def _make(folder: Path, part: Path, source: Path, make: Callable[[Path], object]) -> None:
    """Makes a copy, or waits until another process has made it."""
    waiting = False
    try:
        handle = os.open(part, os.O_RDONLY)
    except FileNotFoundError:  # another process has finished it a moment ago
        return
    try:
        while not _lock(handle, fcntl.LOCK_EX):
            if not waiting:
                log.info("another process packs %s: waiting for it", source)
            waiting = True
            time.sleep(0.2)
            if (folder / _ABOUT).is_file():
                return
        if not part.is_dir() or (folder / _ABOUT).is_file():
            return
        if not (part / INDEX).is_file():
            what = "an image" if is_picture(str(source)) else "a folder of images"
            log.info("data=%s is %s: packing it to %s (once; see `mimsuite pack`)", source, what, folder)
            make(part)
        write_json(part / _ABOUT, {"source": os.path.realpath(source)})
        move_folder(part, folder, _ABOUT)
    finally:
        os.close(handle)


def _hold(folder: Path) -> bool:
    """Keeps others from removing a finished copy while this process lives; False where there is none."""
    if str(folder) not in _held:
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            return False
        _lock(handle, fcntl.LOCK_SH)
        _held[str(folder)] = handle
    if (folder / _ABOUT).is_file():
        return True
    os.close(_held.pop(str(folder)))  # removed before it was locked
    return False


def _lock(handle: int, how: int) -> bool:
    """Locks without waiting; True also where the file system has no locks and one may not be refused."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def remove(path: Path) -> bool:
    """Removes a folder of the cache; returns whether it is gone: one that a process uses stays."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return not path.exists()
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    except OSError:  # in use, without locks, or not ours
        return False
    finally:
        os.close(handle)
    return True


def trim() -> None:
    """Removes copies, those first that were used longest ago, until the rest is within the limit."""
    limit = cache_limit()
    found = sorted(list_packed(), key=lambda entry: entry.used)
    total = sum(entry.bytes for entry in found)
    for entry in found:
        if not limit or total <= limit:
            return
        if remove(entry.path):
            total -= entry.bytes
            log.info("removed %s: the copies in the cache were over %s=%g GiB", entry.path, LIMIT, limit / _GIB)


def cache_limit() -> float:
    """Bytes that copies may fill; 0 for no limit.

    Raises:
        InputError: the environment variable is not a number.
    """
    text = os.environ.get(LIMIT) or str(LIMIT_GIB)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"{LIMIT}={text} is not a number of GiB; use {LIMIT}={LIMIT_GIB:g}, or 0 for no limit")
    return value * _GIB


def list_packed() -> Iterator[Entry]:
    """The copies, finished or not."""
    folder = packed_folder()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir():
            about = _about(path)
            yield Entry(path, about, size_of(path), path.stat().st_mtime, _why_old(path, about))


def other_sizes() -> dict[str, int]:
    """Bytes of the other parts of the cache: features, indexes of shards that have none, what was fetched."""
    return {name: size_of(cache_folder() / name) for name in (*_OTHERS, SHARDS)}


def clean_cache(what: str) -> tuple[int, list[Path]]:
    """Empties the cache; a copy that a process uses stays.

    Args:
        what: "old", copies that nobody needs any more; or "all".

    Returns:
        How many bytes were removed, and what stays because it is in use.
    """
    removed, kept = 0, list[Path]()
    for entry in list(list_packed()):
        if what == "all" or entry.old:
            if remove(entry.path):
                removed += entry.bytes
            else:
                kept.append(entry.path)
    sizes = other_sizes()
    for name in _OTHERS if what == "all" else ():
        shutil.rmtree(cache_folder() / name, ignore_errors=True)
        removed += sizes[name]
    for shard in list_shards(cache_folder() / SHARDS) if what == "all" else ():
        if remove_shard(shard.path):
            removed += shard.bytes
        else:
            kept.append(shard.path)
    return removed, kept


def _about(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((path / _ABOUT).read_text())["source"])
    return ""


def _why_old(path: Path, source: str) -> str:
    if path.name.endswith(_PART):
        return "not finished"
    if not source:
        return "of an earlier version"
    return "" if os.path.exists(source) else f"of {source}, which is gone"


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(here, name)).st_size
    return total
